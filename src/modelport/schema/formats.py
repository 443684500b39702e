"""The values of a schema's `format` that modelport validates. The set does not depend on which packages are installed.

The formats are those of draft 2020-12 of JSON Schema. Some checks accept more than the standards that the draft names.
An email address only needs an `@`. A time may lack its time zone, and the seconds of a duration may have decimals,
because models write both and Python's types accept them. Every string that an engine allows when it enforces a format
is also valid in this module. A `regex` is one of Python, of a length that `modelport.schema.regex_bounds` allows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from functools import cache
from typing import Any

from modelport.schema import regex_bounds

_TIME = re.compile(
    r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.\d+)?(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))?", re.ASCII
)
_HOST_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_URI_PART = r"(?:[A-Za-z0-9._~:/?@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f]{2})*"
_JSON_POINTER = "(?:/(?:[^~/]|~[01])*)*"
#: The parts of a duration, after RFC 3339, appendix A. A unit can be followed only by the next smaller unit.
_DURATION_DATE = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"
_SECONDS = r"\d+(?:\.\d+)?S"
_DURATION_TIME = rf"T(?:\d+H(?:\d+M(?:{_SECONDS})?)?|\d+M(?:{_SECONDS})?|{_SECONDS})"


def _is_date(text: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) and date.fromisoformat(text))


def _is_time(text: str) -> bool:
    if (match := _TIME.fullmatch(text)) is None:
        return False
    hour, minute, second, sign, offset_hours, offset_minutes = match.groups()
    offset = (int(offset_hours) * 60 + int(offset_minutes)) * (-1 if sign == "-" else 1) if sign else 0
    # Leap seconds occur only at the end of a day in UTC.
    return second != "60" or (int(hour) * 60 + int(minute) - offset) % 1440 == 1439


def _is_ipv6(text: str) -> bool:
    return "%" not in text and bool(ipaddress.IPv6Address(text))


def _is_regex(text: str) -> bool:
    if len(text) > regex_bounds.MAX_PATTERN_LENGTH:
        return False
    regex_bounds.check(text)
    return True


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: compiled.fullmatch(text) is not None


#: Each function checks a string: it returns `False` or raises an exception if the string does not have the format.
_CHECKS: dict[str, Callable[[str], bool]] = {
    "date": _is_date,
    "time": _is_time,
    "date-time": lambda text: text[10:11] in ("T", "t", " ") and _is_date(text[:10]) and _is_time(text[11:]),
    "duration": _matches(rf"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|\d+W)"),
    "email": lambda text: "@" in text,
    "idn-email": lambda text: "@" in text,
    "hostname": _matches(rf"(?=.{{1,253}}\Z){_HOST_LABEL}(?:\.{_HOST_LABEL})*"),
    "ipv4": lambda text: bool(ipaddress.IPv4Address(text)),
    "ipv6": _is_ipv6,
    "uuid": _matches("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
    "uri": _matches(rf"[A-Za-z][A-Za-z0-9+.-]*:{_URI_PART}(?:#{_URI_PART})?"),
    "uri-reference": _matches(rf"{_URI_PART}(?:#{_URI_PART})?"),
    "json-pointer": _matches(_JSON_POINTER),
    "relative-json-pointer": _matches(rf"(?:0|[1-9]\d*)(?:#|{_JSON_POINTER})"),
    "regex": _is_regex,
}
CHECKED_FORMATS = frozenset(_CHECKS)


@cache
def format_checker() -> Any:
    """Return the checks as a `FormatChecker` of the `jsonschema` package. Values of other formats are not checked."""
    from jsonschema import FormatChecker

    checker = FormatChecker(formats=())
    for name, check in _CHECKS.items():
        checker.checks(name, raises=(ValueError, re.error, RecursionError, OverflowError))(_accept_non_strings(check))
    return checker


def _accept_non_strings(check: Callable[[str], bool]) -> Callable[[object], bool]:
    return lambda value: not isinstance(value, str) or check(value)
