"""Reads tool calls that are written as in a programming language: `weather(city='Paris')`, `call:weather{city:…}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelport.protocols.output_text.calls import CallReader, Schemas, TextCall, check_number
from modelport.protocols.output_text.values import LiteralReader, Literals, arguments_text

_NAME = re.compile(r"\s*+(?P<name>[^\W\d][\w.-]{0,255}+)\(")
_OPEN, _BETWEEN, _CLOSE = re.compile(r"\s*+\[?"), re.compile(r"\s*+,?"), re.compile(r"\s*+\]?")


def read_python_calls(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
    """Read calls of functions in Python, or a list of them; see `CallReader`."""
    reader, calls = LiteralReader(text), list[TextCall]()
    position = _end(_OPEN, text, position)
    while match := _NAME.match(text, position):
        arguments, position = reader.members(match.end(), ")", "=")
        calls.append(TextCall(match["name"], arguments_text(arguments)))
        check_number(len(calls))
        position = _end(_BETWEEN, text, position)
    if not calls:
        raise ValueError("there is no call of a function")
    return calls, _end(_CLOSE, text, position)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def braced_calls(before: str, quote: str) -> CallReader:
    """Return a reader of a call that is a name, then its arguments in braces, with keys without quotes.

    Args:
        before: A regular expression for the text before the brace, with the name as the group `name`.
        quote: The mark around strings.
    """
    pattern = re.compile(rf"\s*+{before}\s*+\{{")

    def read(text: str, position: int, schemas: Schemas) -> tuple[list[TextCall], int]:
        if (match := pattern.match(text, position)) is None:
            raise ValueError("there is no call with braces")
        reader = LiteralReader(text, Literals(quotes=(quote,), bare_keys=True))
        arguments, position = reader.members(match.end(), "}", ":")
        return [TextCall(match["name"], arguments_text(arguments))], position

    return read


def write_python_calls(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return a list of calls of functions in Python, given by their names and arguments."""
    written = (
        f"{name}({', '.join(f'{key}={_literal(value)}' for key, value in arguments.items())})"
        for name, arguments in calls
    )
    return f"[{', '.join(written)}]"


def _literal(value: Any) -> str:
    # The texts of JSON are literals of Python too, and contain every character as it is.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | list | dict) else repr(value)
