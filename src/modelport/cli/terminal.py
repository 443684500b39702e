"""What the command line prints, and how it ends when it can't go on."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from modelport.errors import ModelError, StreamInterrupted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from modelport.types.messages import ChatMessage

#: Control characters, which a model could use to take over the terminal; tabs and newlines stay.
_CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
#: The width of tables that no terminal shows, so that each row is one line for `grep`.
_WIDE = 240


class Failure(Exception):
    """What the user reads in one line before the command ends with status 1."""


class OutputClosed(Exception):
    """Nobody reads standard output any more, as in `modelport … | head -c1`."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at this stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it is closed
        return False


def lenient_output() -> None:
    """Has standard output show "?" for what its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def write(text: str, *, styled: bool = False) -> None:
    """Puts text on standard output at once.

    Args:
        text: On a terminal its control characters are left out.
        styled: Whether they are ours and not a model's, and stay.

    Raises:
        OutputClosed: The reader has gone.
        Failure: It can't be written, to a full disk for instance.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.write(text.translate(_CONTROLS) if is_terminal(stream) and not styled else text)
        stream.flush()
    except BrokenPipeError:
        drop_output()
        raise OutputClosed from None
    except OSError as error:
        drop_output()
        raise Failure(f"can't write to standard output: {error.strerror or error}") from None


def drop_output() -> None:
    """Gives standard output up: what is buffered would fail again when the interpreter flushes it at its end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def write_json(value: Any) -> None:
    """Puts a value on standard output as JSON."""
    write(json.dumps(value, indent=2, ensure_ascii=not is_utf8(sys.stdout)) + "\n")


def write_aside(text: str, *, dim: bool = False) -> None:
    """Puts text on standard error; that nobody reads it is no failure.

    Args:
        text: Its control characters are left out on a terminal.
        dim: Whether to show it paler than an answer, where that is possible.
    """
    stream = sys.stderr
    if stream is None:
        return
    if is_terminal(stream):
        text = text.translate(_CONTROLS)
        if dim and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            text = f"{_DIM}{text}{_PLAIN}"
    with suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


def note(text: str) -> None:
    """Says something on standard error: in one line, which a terminal breaks between words."""
    write_aside(wrapped(f"modelport: {' '.join(text.split())}") + "\n")


def wrapped(text: str, indent: str = "") -> str:
    """A line as a terminal on standard error is to show it: broken between words; anywhere else it stays one.

    Args:
        text: Of one line.
        indent: Before each of its lines but the first.
    """
    if not is_terminal(sys.stderr):
        return text
    import shutil
    import textwrap

    try:  # where standard output is a pipe too
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(sys.stderr.fileno()).columns
    except (ValueError, OSError):
        columns = shutil.get_terminal_size().columns
    # A path or a command is longer than the line at times, and must stay whole to be copied.
    return textwrap.fill(
        text, max(columns, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def report(error: BaseException, debug: bool) -> None:
    """Says what went wrong, in one line; with `debug`, after the traceback."""
    if debug:
        import traceback

        write_aside("".join(traceback.format_exception(error)))
    note(explain(error))


def explain(error: BaseException) -> str:
    """An error in words for someone who sees no traceback."""
    if isinstance(error, StreamInterrupted) and isinstance(error.__cause__, ModelError):
        return f"the answer broke off: {_for_a_shell(str(error.__cause__))}"
    if isinstance(error, ModelError | Failure):
        return _for_a_shell(str(error))
    return f"{type(error).__name__}: {error} (--debug shows where)"


#: What errors say to someone who writes Python, and what that is in a shell.
_IN_PYTHON: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"Pass \w+=[^\n]*?,? (?:or )?set the environment variable"), "Set the environment variable"),
    (re.compile(r", as (\w+)\(['\"]([^'\"]+)['\"]\)"), lambda found: _as_option(found[1], found[2])),
    (re.compile(r"\(api_base\)"), "(--api-base)"),
    (re.compile(r"\bapi_base=(?=['\"])"), "--api-base "),
    (re.compile(r"\bretry=False\b"), "--set retry=false"),
    (re.compile(r"\bcontext_length=…"), "--set context_length=…"),
    (re.compile(r"\blower max_tokens\b"), "lower --max-tokens"),
)


def _for_a_shell(text: str) -> str:
    """An error's text with a command line's names for what a program passes."""
    for pattern, replacement in _IN_PYTHON:
        text = pattern.sub(replacement, text)
    return text


def _as_option(cls: str, model_id: str) -> str:
    from modelport.registry import CLASSES

    return f", as -m {CLASSES[cls]}/{model_id}" if cls in CLASSES else f", as {cls}({model_id!r})"


class Answer:
    """Prints an answer as it comes: its text on standard output, its reasoning on standard error.

    A context manager: the cursor stands at the beginning of a line at its end, also after a Ctrl-C.
    """

    def __init__(self) -> None:
        self._line_is_open = False
        self._thought_is_open = False

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and not self._line_is_open and is_terminal(sys.stderr):
            write_aside("\n")  # the terminal has written ^C
        self.end()

    def show(self, text: str | None, reasoning: str | None = None) -> None:
        """Prints the next piece."""
        if reasoning:
            self._thought_is_open = not reasoning.endswith("\n")  # noted first: a Ctrl-C may come while it is written
            write_aside(reasoning, dim=True)
        if text:
            self._end_thought()
            self._line_is_open = not text.endswith("\n")
            write(text)

    def end(self) -> None:
        """Ends the last line, if there is one."""
        self._end_thought()
        if self._line_is_open:
            self._line_is_open = False
            write("\n")

    def _end_thought(self) -> None:
        if self._thought_is_open:
            self._thought_is_open = False
            write_aside("\n")


def remark(message: ChatMessage, *, limited: bool) -> None:
    """Says on standard error what the reader of an answer can't see in it.

    Args:
        message: The answer.
        limited: Whether the user set its length.
    """
    for warning in message.warnings:
        note(warning)
    if message.finish_reason == "content_filter":
        note("the service's policy cut the answer off")
    elif message.finish_reason == "length" and not limited:
        note("the answer was cut off: it reached the model's limit")
    elif not message.text and not message.tool_calls:
        note("the answer is empty")


def piped_text() -> str | None:
    """What was piped into standard input, or `None`; a terminal, a device or an inherited socket is not waited for.

    Raises:
        Failure: It is no text.
    """
    stream = sys.stdin
    if stream is None or is_terminal(stream):
        return None
    with suppress(OSError, ValueError):  # a stream in memory has no descriptor, and can be read
        mode = os.fstat(stream.fileno()).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
            return None
    return decoded(stream.buffer.read()).strip("\r\n") or None


def decoded(data: bytes) -> str:
    """Bytes of standard input as text.

    Raises:
        Failure: They are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Failure("standard input is not UTF-8 text; pass an image with --image") from None


def is_utf8(stream: TextIO | None) -> bool:
    """Whether this stream takes every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def rendered(table: Table) -> str:
    """A table as text for standard output, as wide as the terminal."""
    console = _console(text := io.StringIO())
    console.print(table)
    return text.getvalue()


def fits(table: Table) -> bool:
    """Whether no cell of a table would be broken in the terminal."""
    console = _console(io.StringIO())
    return console.measure(table, options=console.options.update(max_width=_WIDE)).maximum <= console.width


def _console(file: io.StringIO) -> Console:
    from rich.console import Console

    seen = is_terminal(sys.stdout)
    width = None if seen or "COLUMNS" in os.environ else _WIDE
    return Console(file=file, force_terminal=seen, width=width, highlight=False, emoji=False)
