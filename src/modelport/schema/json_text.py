"""Reads strict JSON (I-JSON, RFC 7493): without `NaN`, `Infinity` and half of a surrogate pair, which Python accepts.

What a model writes has bounds, because the parser can't be interrupted and keeps Python's global lock: a thread would
not keep the event loop running. JSON within the bounds takes at most 0.2 s (docs/decisions/080). They apply to one
output, and to the arguments of all tool calls of a response together.

`shorten` and `excerpt` are for messages that quote JSON.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from typing import Any

from modelport.schema.time_limit import LONG_TEXT, check_time

#: The most characters, lists and objects, and commas of JSON that a model wrote. An output of a million tokens has
#: about 4 million characters. Those inside of strings are counted too.
MAX_JSON_LENGTH, MAX_JSON_CONTAINERS, MAX_JSON_COMMAS = 2**23, 2**17, 2**18
#: How many levels of lists and objects JSON of a model or a service may have. Parsers accept about 1,000 levels, which
#: Python can't print, copy, pickle or write as JSON again: `RecursionError` would be raised far from here.
MAX_JSON_DEPTH = 128


def json_size_problem(*texts: str) -> str | None:
    """Return why these texts together are too large to be parsed as JSON, or `None` if they are not.

    This takes a few milliseconds for the longest texts.
    """
    length = sum(map(len, texts))
    if length > MAX_JSON_LENGTH:
        return f"the JSON has {length} characters, and at most {MAX_JSON_LENGTH} are read"
    if length <= MAX_JSON_CONTAINERS:
        return None
    containers = sum(text.count("[") + text.count("{") for text in texts)
    commas = sum(text.count(",") for text in texts)
    if containers <= MAX_JSON_CONTAINERS and commas <= MAX_JSON_COMMAS:
        return None
    return (
        f"the JSON has {containers} lists and objects and {commas} commas, and at most {MAX_JSON_CONTAINERS} and "
        f"{MAX_JSON_COMMAS} are read"
    )


def is_nested_too_deeply(value: Any) -> bool:
    """Return whether parsed JSON has more than `MAX_JSON_DEPTH` levels of lists and objects."""
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MAX_JSON_DEPTH):
        if not level:
            return False
        parents, level = level, []
        for one in parents:
            for item in one.values() if type(one) is dict else one:
                kind = type(item)
                if kind is dict or kind is list:  # This is twice as fast as `isinstance` in a comprehension.
                    level.append(item)
    return bool(level)


def read_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: The text is too large, is not JSON, is nested too deeply, has a number so large that Python would
            read it as an infinity, or has half of a surrogate pair, which can't be sent or printed.
    """
    if (problem := json_size_problem(text)) is not None:
        raise ValueError(problem)
    check_time(long_step=len(text) > LONG_TEXT)
    try:
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > MAX_JSON_DEPTH and is_nested_too_deeply(value):
            raise RecursionError
        if _SURROGATE_ESCAPE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object[error.start]!r} is half of a surrogate pair and not a character") from None
    return value


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not valid JSON")


def _parse_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_float)


#: The length to which messages are shortened. They quote the whole value, and may be sent to a model as feedback.
_MAX_MESSAGE = 2000


def shorten(message: str) -> str:
    """Remove the middle of a long message."""
    half = _MAX_MESSAGE // 2
    return message if len(message) <= _MAX_MESSAGE else f"{message[:half]} … {message[-half:]}"


def excerpt(value: Any) -> str:
    """Return the beginning of the `repr` of a foreign value, in at most 201 characters. The rest is not read."""
    try:
        text = _REPR.repr(value)
    except Exception:  # Python prints no integers of more than 4,300 digits, and an object of the caller may raise.
        return f"a value of the type {type(value).__name__[:100]}"
    return text if len(text) <= 200 else text[:200] + "…"


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxstring, _REPR.maxother = 8, 20, 20, 300, 300
