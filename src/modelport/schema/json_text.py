"""Reads strict JSON (I-JSON, RFC 7493): without `NaN`, `Infinity` and half of a surrogate pair, which Python accepts.

`shorten` is for messages that quote JSON.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from modelport.schema.time_limit import LONG_TEXT, check_time


def read_json(text: str) -> Any:
    """Parse JSON text.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, has a number so large that Python would read it as an
            infinity, or has half of a surrogate pair, which can't be sent or printed.
    """
    check_time(long_step=len(text) > LONG_TEXT)
    try:
        value = _DECODER.decode(text)
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
