"""Reads the tool calls in the text of an output: a `CallFormat` says how a model writes them.

The rules:

- A section of calls begins at a mark. What follows is read by the format, and not searched for an end mark: an argument
  may contain the spelling of any mark.
- After the calls, the end mark is skipped. If other text stands before it, the whole section is one invalid call.
- If the output ends before the end mark, the text behind the last complete call is an invalid call.
- The beginning of a mark at the end of the output is dropped, if calls stand before it.
- An invalid call has an empty name, and its arguments are its text, so that an error can show it.
- Text before, between and behind the calls is kept, except white space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from modelport.errors import MalformedResponse
from modelport.schema.json_text import json_size_problem
from modelport.types.deltas import MAX_TOOL_CALLS

#: How many characters can be read for calls that turn out to be invalid. Each may be read to the end of the text.
MAX_WASTED = 2**24


class TextCall(NamedTuple):
    """A tool call that was read from text. The arguments are JSON text. An invalid call has an empty name."""

    name: str
    arguments: str


#: The JSON schemas of the arguments of the tools, by the tools' names.
Schemas = Mapping[str, Any]
#: Reads calls from a position of a text, and returns them with the position behind them. Raises `ValueError` if there
#: is no call, or if a call is invalid.
CallReader = Callable[[str, int, Schemas], tuple[list[TextCall], int]]


@dataclass(frozen=True)
class CallFormat:
    """How a model writes tool calls as text.

    Args:
        begins: The marks before calls. Text before the first of them can be emitted at once.
        end: The mark after calls; empty if there is none.
        read: Reads the calls behind a mark.
        includes_begin: Whether `read` starts at the mark itself, because the mark is a part of each call.
        behind_begin: A regular expression for the text behind a mark, without which the mark is ordinary text.
        is_whole_output: Whether the model also writes calls without marks, as JSON objects that are its whole output.
        another: A regular expression for the beginning of another call. Where a call is not followed by the end mark,
            such text is an invalid call.
        names: Further spellings of marks inside the calls. If one of them is a special token, it is kept in the text.
        write: Writes calls, given by their names and arguments. It is for chat templates that list tools, but drop the
            calls of earlier messages.
        hints: Texts that such a template writes around the tools.
    """

    begins: tuple[str, ...]
    end: str
    read: CallReader
    includes_begin: bool = False
    behind_begin: str = ""
    is_whole_output: bool = False
    another: str = r"\{|\[\s*+(?:\{|\Z)"
    names: str = ""
    write: Callable[[Sequence[tuple[str, Mapping[str, Any]]]], str] | None = None
    hints: tuple[str, ...] = ()

    @cached_property
    def begin_pattern(self) -> re.Pattern[str]:
        """Matches the marks before calls, of which the longest counts."""
        marks = "|".join(map(re.escape, sorted(self.begins, key=len, reverse=True)))
        return re.compile(f"(?:{marks})(?={self.behind_begin})")

    def begins_mark(self, text: str) -> bool:
        """Return whether a text is the beginning of a mark, or empty."""
        return any(mark.startswith(text) for mark in (*self.begins, self.end, *self.names.split()))

    def pattern_with(self, others: Mapping[str, str]) -> re.Pattern[str]:
        """Return a pattern of the marks before calls, which are groups, and of other marks. The longest counts.

        Args:
            others: The other marks, each with a regular expression for the text behind it.
        """
        marks = {mark: re.escape(mark) + behind for mark, behind in others.items()}
        marks |= {mark: f"({re.escape(mark)})(?={self.behind_begin})" for mark in self.begins}
        return re.compile("|".join(marks[mark] for mark in sorted(marks, key=len, reverse=True)))

    @cached_property
    def marks(self) -> str:
        """A text that contains the spellings of all marks."""
        return " ".join([*self.begins, self.end, self.names])


def read_output(
    text: str, call_format: CallFormat, schemas: Schemas, outside_calls: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[TextCall], str]:
    """Read the calls in the text of an output, or in the end of it.

    Args:
        text: The text; the text from the first mark on suffices.
        call_format: How the model writes calls.
        schemas: The schemas of the tools.
        outside_calls: Marks of texts between calls that contain no calls; see `ReasoningFormat.outside_calls`.

    Returns:
        The calls, and the text outside of them. If there are no calls, that is the whole text.

    Raises:
        MalformedResponse: There are too many calls.
    """
    if json_size_problem(text) is not None:
        return [TextCall("", text)], ""
    calls: list[TextCall] = []
    outside: list[str] = []
    pattern = call_format.pattern_with(outside_calls)
    position = sections = wasted = 0
    while match := _next_section(text, position, call_format, pattern):
        outside.append(text[position : match[0]])
        if wasted > MAX_WASTED:
            calls, position = [*calls, TextCall("", text[match[1] :])], len(text)
            break
        found, position = _read_section(text, *match, call_format, schemas)
        if not all(call.name for call in found):
            wasted += len(text) - match[1]
        if not match[1] and not _is_call(text, found, schemas):
            return read_output(text, replace(call_format, is_whole_output=False), schemas, outside_calls)
        calls += found
        sections += 1
        check_number(max(len(calls), sections))
    if not calls:
        return [], text
    outside.append("" if call_format.begins_mark(text[position:].strip()) else text[position:])
    return calls, "\n".join(filter(None, (part.strip() for part in outside)))


def _is_call(text: str, found: Sequence[TextCall], schemas: Schemas) -> bool:
    """Return whether an output that begins with JSON is a call, and not an answer in JSON."""
    try:
        value, _ = _DECODER.raw_decode(text, _skip_space(text, 0))
    except (ValueError, RecursionError):
        return _BEGINS_CALL.match(text) is not None
    function = value["function"] if isinstance(value.get("function"), dict) else value
    name = function.get("name")
    if isinstance(name, str) and name in schemas:
        return True
    has_arguments = any(isinstance(function.get(key), dict) for key in ("arguments", "parameters"))
    return has_arguments and bool(found) and bool(found[0].name)


def _next_section(
    text: str, position: int, call_format: CallFormat, pattern: re.Pattern[str]
) -> tuple[int, int] | None:
    """Return where the mark of the next section starts and ends."""
    if not position and call_format.is_whole_output and text.lstrip().startswith("{"):
        return 0, 0
    while call_format.begins and (match := pattern.search(text, position)):
        if match.lastindex:
            return match.span(match.lastindex)
        position = match.end()
    return None


def _read_section(
    text: str, start: int, begin: int, call_format: CallFormat, schemas: Schemas
) -> tuple[list[TextCall], int]:
    """Return the calls of one section, and the position behind it."""
    end_mark = call_format.end
    try:
        calls, position = call_format.read(text, start if call_format.includes_begin else begin, schemas)
        check_number(len(calls))
    except (ValueError, RecursionError):
        calls, position = [], begin
    behind = _skip_space(text, position)
    if calls and behind == len(text):
        return calls, behind
    if calls and end_mark and text.startswith(end_mark, behind):
        return calls, behind + len(end_mark)
    following = call_format.begin_pattern.search(text, position) if call_format.begins else None
    limit = following.start() if following else len(text)
    stop = text.find(end_mark, position, limit) if end_mark else -1
    if calls and stop < 0:
        rest = text[behind:limit].rstrip()
        if re.match(call_format.another, rest) or (rest and end_mark and not following and not _PROSE.match(rest)):
            # Without its end mark, a section ends with the output, which is cut off. Or the model forgot the mark, and
            # goes on with a sentence.
            return [*calls, *([] if call_format.begins_mark(rest) else [TextCall("", rest)])], limit
        return calls, position
    section = text[begin : limit if stop < 0 else stop]
    position = limit if stop < 0 else stop + len(end_mark)
    return [TextCall("", section)] if section.strip() else [], position


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


_SPACE = re.compile(r"\s*+")
_PROSE = re.compile(r"\w+,?\s+\w")
_DECODER = json.JSONDecoder()
_BEGINS_CALL = re.compile(r'\s*+\{\s*+"(?:name"|type"\s*+:\s*+"function"|function"\s*+:\s*+\{)')


def check_number(calls: int) -> None:
    """Check how many calls a response has.

    Raises:
        MalformedResponse: There are too many.
    """
    if calls > MAX_TOOL_CALLS:
        raise MalformedResponse(f"The response has more than {MAX_TOOL_CALLS} tool calls.")


def first_of(*readers: CallReader) -> CallReader:
    """Return a reader that uses the first of several readers that can read the calls."""

    def read(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
        for reader in readers[:-1]:
            try:
                return reader(text, position, schemas)
            except ValueError:
                pass
        return readers[-1](text, position, schemas)

    return read


def schemas_of(tools: Sequence[Any]) -> Schemas:
    """Return the schemas of the arguments of tools (`Tool` objects), by name."""
    return {tool.name: tool.parameters for tool in tools}
