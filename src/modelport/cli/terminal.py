"""Input and output of the command line.

Standard output gets what the user asked for: the model's text, JSON, tables. Standard error gets everything else:
reasoning, warnings, errors. On a terminal, control characters are removed from texts that may come from a model, and
long lines are wrapped. To a file or a pipe, a text is written unchanged, and each warning or error is one line.
"""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from modelport.errors import ModelError, StreamInterrupted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from modelport.types.messages import ChatMessage

#: Control characters, with which the text of a model could control the terminal. Tabs and newlines are not removed.
_CONTROL_CHARACTERS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])
_DIM, _RESET = "\x1b[2m", "\x1b[0m"
#: The width of tables that are not written to a terminal. It is large, so that each row is one line for `grep`.
_WIDTH_WITHOUT_TERMINAL = 240


class CommandError(Exception):
    """An error that is printed in one line, before the command ends with status 1."""


class OutputClosed(Exception):
    """The reader of standard output has closed it, as in `modelport … | head -c1`."""


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether this stream is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # The stream is closed.
        return False


def is_utf8(stream: TextIO | None) -> bool:
    """Return whether this stream can encode every character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def replace_unencodable_characters() -> None:
    """Make standard output write "?" for characters that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


# --- output -----------------------------------------------------------------------------------------------------------


def print_output(text: str, *, styled: bool = False) -> None:
    """Write text to standard output at once.

    Args:
        text: The text. On a terminal its control characters are removed.
        styled: Whether to keep control characters, because modelport itself has put them in.

    Raises:
        OutputClosed: The reader of standard output has closed it.
        CommandError: The text can't be written, for instance to a full disk.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.write(text.translate(_CONTROL_CHARACTERS) if is_terminal(stream) and not styled else text)
        stream.flush()
    except BrokenPipeError:
        discard_output()
        raise OutputClosed from None
    except OSError as error:
        discard_output()
        raise CommandError(f"can't write to standard output: {error.strerror or error}") from None


def printable(text: str) -> str:
    """Return a text of a service or a model without control characters, for output that is `styled`."""
    return text.translate(_CONTROL_CHARACTERS)


def discard_output() -> None:
    """Redirect standard output to the null device.

    Otherwise the interpreter would fail again when it exits and flushes the buffer.
    """
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def print_json(value: Any) -> None:
    """Write a value to standard output as JSON."""
    print_output(json.dumps(value, indent=2, ensure_ascii=not is_utf8(sys.stdout)) + "\n")


def print_to_stderr(text: str, *, dim: bool = False) -> None:
    """Write text to standard error. A failure to write it is ignored, because it could not be reported.

    Args:
        text: The text. On a terminal its control characters are removed.
        dim: Whether to show the text paler than a response, if the terminal supports it.
    """
    stream = sys.stderr
    if stream is None:
        return
    if is_terminal(stream):
        text = text.translate(_CONTROL_CHARACTERS)
        if dim and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            text = f"{_DIM}{text}{_RESET}"
    with suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


def print_note(text: str) -> None:
    """Write a message to standard error, as one line that begins with "modelport:"."""
    print_to_stderr(wrap_for_terminal(f"modelport: {' '.join(text.split())}") + "\n")


def wrap_for_terminal(text: str, indent: str = "") -> str:
    """Wrap a line between words if standard error is a terminal. Otherwise return the line unchanged.

    Args:
        text: One line.
        indent: The text before each further line.
    """
    if not is_terminal(sys.stderr):
        return text
    import shutil
    import textwrap

    try:  # Standard error is asked for the terminal's size, because standard output may be a pipe.
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(sys.stderr.fileno()).columns
    except (ValueError, OSError):
        columns = shutil.get_terminal_size().columns
    # A path or a command is not broken, even if it is longer than a line, so that it can be copied.
    return textwrap.fill(
        text, max(columns, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def print_error(error: BaseException, debug: bool) -> None:
    """Write an error to standard error in one line. If `debug` is true, write its traceback before."""
    if debug:
        import traceback

        print_to_stderr("".join(traceback.format_exception(error)))
    print_note(describe_error(error))


def describe_error(error: BaseException) -> str:
    """Return the text of an error, with its hint, for a reader who sees no traceback."""
    if isinstance(error, StreamInterrupted) and isinstance(error.__cause__, ModelError):
        return f"the response was interrupted: {describe_error(error.__cause__)}"
    if isinstance(error, ModelError) and error.hint:
        text = str(error)
        return f"{text}{'' if text.endswith(('.', '?')) else '.'} {error.hint}"
    if isinstance(error, ModelError | CommandError):
        return str(error)
    return f"{type(error).__name__}: {error} (--debug shows where)"


# --- a model's messages -----------------------------------------------------------------------------------------------


class MessagePrinter:
    """Prints a message while it arrives: its text on standard output, its reasoning on standard error.

    This is a context manager. When it exits, it ends an unfinished line, also after Ctrl-C.
    """

    def __init__(self) -> None:
        self._text_line_is_open = False
        self._reasoning_line_is_open = False

    def __enter__(self) -> MessagePrinter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and not self._text_line_is_open and is_terminal(sys.stderr):
            print_to_stderr("\n")  # The terminal has written "^C" on this line.
        self.end_line()

    def print(self, text: str | None, reasoning: str | None = None) -> None:
        """Print the next part of the message."""
        if reasoning:
            # The state is set first, because a Ctrl-C may come while the reasoning is written.
            self._reasoning_line_is_open = not reasoning.endswith("\n")
            print_to_stderr(reasoning, dim=True)
        if text:
            self._end_reasoning_line()
            self._text_line_is_open = not text.endswith("\n")
            print_output(text)

    def end_line(self) -> None:
        """End the last line of the text or of the reasoning, if it has not been ended."""
        self._end_reasoning_line()
        if self._text_line_is_open:
            self._text_line_is_open = False
            print_output("\n")

    def _end_reasoning_line(self) -> None:
        if self._reasoning_line_is_open:
            self._reasoning_line_is_open = False
            print_to_stderr("\n")


def print_warnings(message: ChatMessage, *, report_truncation: bool, default_limit: int | None = None) -> None:
    """Write to standard error what the text of a message does not show: warnings, and why it ended early.

    Args:
        message: The message.
        report_truncation: Whether to say that the message was truncated. A user who set `max_tokens` expects it.
        default_limit: The `max_tokens` that the command line has set; `None` if it has not set any.
    """
    for warning in message.warnings:
        print_note(str(warning))
    if message.finish_reason == "content_filter":
        print_note("the service's content policy ended the response early")
    elif message.finish_reason == "length" and report_truncation:
        reached = "the model's limit" if default_limit is None else f"{default_limit:,} tokens; set --max-tokens"
        print_note(f"the response was truncated: it reached {reached}")
    elif not message.text and not message.tool_calls:
        print_note("the response is empty")


# --- input ------------------------------------------------------------------------------------------------------------


def read_piped_input() -> str | None:
    """Return the text of standard input if it is a pipe or a file, otherwise `None`.

    A terminal, a device and an inherited socket are not read, because reading might never end.

    Raises:
        CommandError: The input is not text.
    """
    stream = sys.stdin
    if stream is None or is_terminal(stream):
        return None
    with suppress(OSError, ValueError):  # A stream in memory has no file descriptor, but can be read.
        mode = os.fstat(stream.fileno()).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
            return None
    return decode_input(stream.buffer.read()).strip("\r\n") or None


def decode_input(data: bytes) -> str:
    """Decode bytes of standard input.

    Raises:
        CommandError: The bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("standard input is not UTF-8 text; pass an image with --image") from None


# --- tables -----------------------------------------------------------------------------------------------------------


def render_table(table: Table) -> str:
    """Return a table as text for standard output, as wide as the terminal."""
    console = _console(text := io.StringIO())
    console.print(table)
    return text.getvalue()


def fits_terminal(table: Table) -> bool:
    """Return whether the table fits the terminal without a cell that is wrapped."""
    console = _console(io.StringIO())
    widest = console.options.update(max_width=_WIDTH_WITHOUT_TERMINAL)
    return console.measure(table, options=widest).maximum <= console.width


def _console(file: io.StringIO) -> Console:
    from rich.console import Console

    to_terminal = is_terminal(sys.stdout)
    width = None if to_terminal or "COLUMNS" in os.environ else _WIDTH_WITHOUT_TERMINAL
    return Console(file=file, force_terminal=to_terminal, width=width, highlight=False, emoji=False)
