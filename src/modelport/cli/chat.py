"""A conversation in the terminal: `modelport chat`.

A line of input is either a command, which begins with "/", or a message to the model. The model's text goes to standard
output, everything else to standard error. If the input is a terminal, an error is shown and the chat continues. If it
is a pipe, an error ends the chat.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from modelport.cli.options import DEFAULT_MODEL
from modelport.cli.terminal import (
    CommandError,
    MessagePrinter,
    OutputClosed,
    decode_input,
    describe_error,
    is_terminal,
    print_error,
    print_note,
    print_to_stderr,
    print_warnings,
    wrap_for_terminal,
)
from modelport.cli.usage import Stopwatch, format_tokens, format_usage
from modelport.errors import StreamInterrupted
from modelport.model import Model
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.usage import TokenUsage

PROMPT = "you> "


class Chat:
    """A conversation: its messages, its model, and the commands that change them.

    Args:
        spec: The name of the first model, as `backend/id`.
        open_model: Takes the name of a model. Returns a context manager that yields the model and finally closes it.
        system: The text of the system message; `None` for no system message.
        options: Arguments for `Model.generate_stream` in each call.
        debug: Whether to show tracebacks.
        show_usage: Whether to show the tokens and the time of each response.
        default_limit: The `max_tokens` of the default local model; `None` if the user has set a limit.
    """

    def __init__(
        self,
        spec: str,
        open_model: Callable[[str], AbstractContextManager[Model]],
        system: str | None,
        options: dict[str, Any],
        debug: bool,
        show_usage: bool = False,
        default_limit: int | None = None,
    ) -> None:
        self._spec = spec
        self._open_model = open_model
        self._system = system
        self._options = options
        self._debug = debug
        self._show_usage = show_usage
        self._default_limit = default_limit
        self._history: list[ChatMessage] = []
        #: Every response, for /usage. A /reset does not remove responses from this list.
        self._responses: list[ChatMessage] = []
        self._interactive = is_terminal(sys.stdin)
        self._running = True
        #: Closes the current model.
        self._model_stack = ExitStack()
        #: The name of each command -> its argument, its description in /help, and the function that runs it.
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "/help": ("", "list these commands", self._help),
            "/reset": ("", "forget the conversation", self._reset),
            "/system": (
                "[TEXT|-]",
                "set the system message; - removes it; without TEXT, show it",
                self._set_system,
            ),
            "/model": ("[SPEC]", "continue with another model; without SPEC, show this one", self._switch_model),
            "/save": ("FILE", "save the conversation as JSON", self._save),
            "/usage": ("", "show the tokens used so far", self._usage),
            "/exit": ("", "leave (or Ctrl-D)", self._exit),
        }

    def run(self) -> None:
        """Run the conversation until the user leaves or the input ends.

        Raises:
            Exception: The first model can't be loaded; or a command or a call failed, and the input is not a terminal.
        """
        try:
            self._load(self._spec)
            if self._interactive:
                self._greet()
            while self._running and (line := self._next_line()) is not None:
                self._handle(line)
        finally:
            self._model_stack.close()

    def _load(self, spec: str) -> None:
        with ExitStack() as stack:
            model = stack.enter_context(self._open_model(spec))
            self._model_stack.close()  # The previous model is closed only now, because loading the new one may fail.
            self._model_stack, self._model, self._spec = stack.pop_all(), model, spec

    def _greet(self) -> None:
        try:
            import readline  # noqa: F401  # Importing it gives input() line editing and a history.
        except ImportError:
            pass
        _print_status(
            f"Talking with {self._spec}. /help lists the commands, Ctrl-C stops a response, Ctrl-D leaves the chat."
        )

    def _next_line(self) -> str | None:
        """Return the next line of input; `None` at its end."""
        if not self._interactive:
            data = sys.stdin.buffer.readline() if sys.stdin is not None else b""
            return decode_input(data) if data else None
        while True:
            try:
                if is_terminal(sys.stdout):
                    return input(PROMPT)
                print_to_stderr(PROMPT)
                return input()
            except EOFError:
                _print_status("")
                return None
            except KeyboardInterrupt:
                _print_status("\n/exit or Ctrl-D leaves the chat.")
            except UnicodeDecodeError:
                _print_status("That is not UTF-8 text.")

    def _handle(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._run_command(line)
            elif text := decode_input(line.encode(errors="surrogateescape")).strip():
                self._send(text)
        except OutputClosed:
            raise
        except Exception as error:
            if not self._interactive:
                raise
            print_error(error, self._debug)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            _print_status("(stopped)")

    def _run_command(self, line: str) -> None:
        name, _, argument = line.strip().partition(" ")
        if name not in self._commands:
            raise CommandError(
                f"{name} is not a command; /help lists them. To send the line to the model, put a space before it."
            )
        self._commands[name][2](argument.strip())

    def _send(self, text: str) -> None:
        """Send a message and print the response.

        Both are added to the history if the response has any text, even if it was interrupted.
        """
        question = ChatMessage(MessageRole.USER, text)
        system = [ChatMessage(MessageRole.SYSTEM, self._system)] if self._system else []
        options, limit = self._options, self._default_limit if self._spec == DEFAULT_MODEL else None
        if limit is not None:
            options = {**options, "max_tokens": limit}
        clock = Stopwatch()
        clock.start()
        stream = self._model.generate_stream([*system, *self._history, question], **options)
        remember = False
        try:
            with MessagePrinter() as printer, stream:
                for delta in stream:
                    clock.see(delta)
                    printer.print(delta.content, delta.reasoning)
            remember = True
            clock.stop()
            report = self._options.get("max_tokens") is None
            print_warnings(stream.message, report_truncation=report, default_limit=limit)
            if self._show_usage:
                print_note(format_usage(stream.message, clock.seconds, clock.first_output))
        except (KeyboardInterrupt, StreamInterrupted):
            remember = True
            raise
        finally:
            message = stream.message
            if message.text or message.token_usage:
                self._responses.append(message)
            if remember and message.text:
                self._history += [question, message]

    # --- commands -----------------------------------------------------------------------------------------------------

    def _help(self, argument: str) -> None:
        usages = {f"{name} {usage}": description for name, (usage, description, _) in self._commands.items()}
        width = max(map(len, usages))
        for usage, description in usages.items():
            _print_status(f"{usage:{width}}  {description}", " " * (width + 2))

    def _reset(self, argument: str) -> None:
        self._history.clear()
        _print_status("The conversation is forgotten.")

    def _set_system(self, text: str) -> None:
        self._system = None if text == "-" else text or self._system
        _print_status(f"System: {self._system}" if self._system else "There is no system message.")

    def _switch_model(self, spec: str) -> None:
        if spec:
            try:
                self._load(spec)
            except Exception as error:
                if not self._interactive:
                    raise
                raise CommandError(f"{describe_error(error)} You are still talking with {self._spec}.") from error
        _print_status(f"Talking with {self._spec}.")

    def _save(self, name: str) -> None:
        if not name:
            raise CommandError("/save needs the name of a file")
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages += [message.to_dict() for message in self._history]
        try:
            path = Path(name).expanduser()
            path.write_text(json.dumps(messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except (OSError, RuntimeError) as error:  # `expanduser` raises RuntimeError for an unknown user.
            raise CommandError(f"can't save to {name}: {getattr(error, 'strerror', None) or error}") from error
        _print_status(f"Saved {len(messages)} messages to {path}.")

    def _usage(self, argument: str) -> None:
        usages = [message.token_usage or TokenUsage() for message in self._responses]
        uncounted = sum(usage.input_tokens is None or usage.output_tokens is None for usage in usages)
        _print_status(
            f"{_format_count(len(self._responses))}: {format_tokens(usages)}"
            + (f"; {_format_count(uncounted)} came without a count" if uncounted else "")
        )

    def _exit(self, argument: str) -> None:
        self._running = False


def _format_count(count: int) -> str:
    return f"{count} response{'' if count == 1 else 's'}"


def _print_status(text: str, indent: str = "") -> None:
    """Write lines about the chat to standard error. If a line is wrapped, `indent` precedes its further lines."""
    print_to_stderr("\n".join(wrap_for_terminal(line, indent) for line in text.split("\n")) + "\n")
