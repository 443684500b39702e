"""Strict JSON: no constants that Python accepts and JSON does not have."""

from __future__ import annotations

import json
import math
from typing import Any


def read_json(text: str) -> Any:
    """The JSON value, without the constants that Python takes and JSON does not have.

    Raises:
        ValueError: It is no JSON, or holds a number that Python would make an infinity of.
    """
    try:
        return _JSON_READER.decode(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


_JSON_READER = json.JSONDecoder(parse_constant=_refuse, parse_float=_float)
