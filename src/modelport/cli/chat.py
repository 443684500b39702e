"""A conversation in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from modelport.cli.terminal import (
    Answer,
    Failure,
    OutputClosed,
    decoded,
    explain,
    is_terminal,
    remark,
    report,
    wrapped,
    write_aside,
)
from modelport.errors import StreamInterrupted
from modelport.model import Model
from modelport.types.messages import ChatMessage, MessageRole

PROMPT = "you> "


class Chat:
    """A conversation: its history, its model, and the commands that change them.

    Args:
        spec: The model to begin with.
        connect: Gives a model for a spec, closed at its context's end.
        system: What the model is told before everything else.
        call: The arguments of each call.
        debug: Whether to show tracebacks.
    """

    def __init__(
        self,
        spec: str,
        connect: Callable[[str], AbstractContextManager[Model]],
        system: str | None,
        call: dict[str, Any],
        debug: bool,
    ) -> None:
        self._spec = spec
        self._connect = connect
        self._system = system
        self._call = call
        self._debug = debug
        self._turns: list[ChatMessage] = []
        self._answers: list[ChatMessage] = []  # all of them, also those that /reset has forgotten
        self._interactive = is_terminal(sys.stdin)
        self._running = True
        self._held = ExitStack()
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/help": ("", "list these commands", self._help),
            "/reset": ("", "forget the conversation", self._reset),
            "/system": (
                "[TEXT|-]",
                "tell the model this first; - for nothing any more; without TEXT, show it",
                self._tell,
            ),
            "/model": ("[SPEC]", "go on with another model; without SPEC, show this one", self._switch),
            "/save": ("FILE", "save the conversation as JSON", self._save),
            "/usage": ("", "show the tokens used so far", self._usage),
            "/exit": ("", "leave (or Ctrl-D)", self._exit),
        }

    def run(self) -> None:
        """Talks until the user leaves or the input ends.

        Raises:
            Exception: What went wrong, where the input is no terminal; to a user it is shown, and the chat goes on.
        """
        try:
            self._load(self._spec)
            if self._interactive:
                self._greet()
            while self._running and (line := self._next_line()) is not None:
                self._take(line)
        finally:
            self._held.close()

    def _load(self, spec: str) -> None:
        with ExitStack() as stack:
            model = stack.enter_context(self._connect(spec))
            self._held.close()
            self._held, self._model, self._spec = stack.pop_all(), model, spec

    def _greet(self) -> None:
        try:
            import readline  # noqa: F401 - gives input() its line editing and history
        except ImportError:
            pass
        _say(f"Talking with {self._spec}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")

    def _next_line(self) -> str | None:
        """What the user says next; `None` at the end."""
        if not self._interactive:
            data = sys.stdin.buffer.readline() if sys.stdin is not None else b""
            return decoded(data) if data else None
        while True:
            try:
                if is_terminal(sys.stdout):
                    return input(PROMPT)
                write_aside(PROMPT)
                return input()
            except EOFError:
                _say("")
                return None
            except KeyboardInterrupt:
                _say("\n/exit or Ctrl-D leaves the chat.")
            except UnicodeDecodeError:
                _say("That is not UTF-8 text.")

    def _take(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._obey(line)
            elif text := decoded(line.encode(errors="surrogateescape")).strip():
                self._answer(text)
        except OutputClosed:
            raise
        except Exception as error:
            if not self._interactive:
                raise
            report(error, self._debug)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            _say("(stopped)")

    def _obey(self, line: str) -> None:
        name, _, rest = line.strip().partition(" ")
        if name not in self._commands:
            raise Failure(f"{name} is no command; /help lists them. A space before the line sends it to the model.")
        self._commands[name][2](rest.strip())

    def _answer(self, text: str) -> None:
        """One turn; it is remembered if the model said anything, be it broken off."""
        question = ChatMessage(MessageRole.USER, text)
        system = [ChatMessage(MessageRole.SYSTEM, self._system)] if self._system else []
        stream = self._model.generate_stream([*system, *self._turns, question], **self._call)
        keep = False
        try:
            with Answer() as answer, stream:
                for delta in stream:
                    answer.show(delta.content, delta.reasoning)
            keep = True
            remark(stream.message, limited=self._call.get("max_tokens") is not None)
        except (KeyboardInterrupt, StreamInterrupted):
            keep = True
            raise
        finally:
            message = stream.message
            if message.text or message.token_usage:
                self._answers.append(message)
            if keep and message.text:
                self._turns += [question, message]

    # --- commands -----------------------------------------------------------------------------------------------------

    def _help(self, rest: str) -> None:
        width = max(len(f"{name} {argument}") for name, (argument, *_) in self._commands.items())
        for name, (argument, does, *_) in self._commands.items():
            _say(f"{f'{name} {argument}':{width}}  {does}", " " * (width + 2))

    def _reset(self, rest: str) -> None:
        self._turns.clear()
        _say("Forgotten.")

    def _tell(self, text: str) -> None:
        self._system = None if text == "-" else text or self._system
        _say(f"System: {self._system}" if self._system else "There is no system message.")

    def _switch(self, spec: str) -> None:
        if spec:
            try:
                self._load(spec)
            except Exception as error:
                if not self._interactive:
                    raise
                raise Failure(f"{explain(error)} You are still talking with {self._spec}.") from error
        _say(f"Talking with {self._spec}.")

    def _save(self, name: str) -> None:
        if not name:
            raise Failure("/save needs the name of a file")
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages += [turn.to_dict() for turn in self._turns]
        try:
            path = Path(name).expanduser()
            path.write_text(json.dumps(messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except (OSError, RuntimeError) as error:  # a RuntimeError where "~name" is nobody's home
            raise Failure(f"can't save to {name}: {getattr(error, 'strerror', None) or error}") from error
        _say(f"Saved {len(messages)} messages to {path}.")

    def _usage(self, rest: str) -> None:
        known = [usage for message in self._answers if (usage := message.token_usage) is not None]
        read, cached, written = (
            sum(getattr(usage, name) or 0 for usage in known)
            for name in ("input_tokens", "cached_input_tokens", "output_tokens")
        )
        silent = len(self._answers) - len(known)
        _say(
            f"{_answers(len(self._answers))}: {read:,} tokens read ({cached:,} of them from the cache), "
            f"{written:,} written" + (f"; {_answers(silent)} came without a count" if silent else "")
        )

    def _exit(self, rest: str) -> None:
        self._running = False


def _answers(count: int) -> str:
    return f"{count} answer{'' if count == 1 else 's'}"


def _say(text: str, indent: str = "") -> None:
    """Speaks to the user, beside the conversation on standard output; `indent` stands before a broken line's rest."""
    write_aside("\n".join(wrapped(line, indent) for line in text.split("\n")) + "\n")
