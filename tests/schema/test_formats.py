"""The formats of a schema that are validated: as the standards define them, and as engines enforce them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from modelport.constrained.lark import as_lark
from modelport.schema.formats import CHECKED_FORMATS, format_checker
from modelport.schema.validation import mismatch
from modelport.types.output_types import JSONSchema
from tests.constrained.matching import BYTE_TOKENIZER, llguidance

CASES = {
    "date": (
        ["2024-02-29", "0001-01-01"],
        ["2023-02-29", "2024-1-1", "banana", "20240101", "2024-01-0١", "2024-W01-1"],
    ),
    "time": (
        ["23:59:59Z", "00:00:00.25+05:30", "23:59:60Z", "05:29:60+05:30", "12:00:00z", "12:00:00"],
        ["12:00", "24:00:00Z", "22:59:60Z", "12:00:00+24:00", "12:00:00.Z"],
    ),
    "date-time": (
        ["2024-02-29T12:00:00Z", "2024-02-29t12:00:00.123-01:00", "2024-02-29T12:00:00", "2024-02-29 12:00:00Z"],
        ["2024-02-29", "2023-02-29T12:00:00Z", "2024-02-29T12:00", "2024-02-29T12:00:00+1"],
    ),
    "duration": (
        ["P1Y2M3DT4H5M6S", "P2W", "PT36H", "P1YT1S", "P0D", "PT1.5S"],
        ["P", "PT", "P1YT", "1D", "P1W2D", "PT1.S", "P1Y1D", "P1M1Y", "-P1D"],
    ),
    "email": (["a@b.c"], ["a.b.c"]),
    "idn-email": (["é@b.c"], ["é.b.c"]),
    "hostname": (["a", "a-b.example.com", "a" * 63], ["", "-a", "a-", "a_b", "a" * 64, "a..b", "a.b " * 70]),
    "ipv4": (["1.2.3.4"], ["1.2.3", "256.1.1.1", "01.2.3.4", "1.2.3.4/8"]),
    "ipv6": (["::1", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"], ["1::2::3", "fe80::1%eth0", ":::", "1.2.3.4"]),
    "uuid": (
        ["12345678-1234-1234-1234-123456789aBc"],
        ["12345678123412341234123456789abc", "{12345678-1234-1234-1234-123456789abc}", "g" * 36],
    ),
    "uri": (
        ["https://a.b:80/c/?d=e#f", "mailto:a@b.c", "urn:x:1", "http://[::1]/%20"],
        ["nope nope", "/a/b", "1:b", "http://a b", "http://%zz", "a:b#c#d", "http://é"],
    ),
    "uri-reference": (["/a?b#c", "#", "", "a:b"], ["a b", "%zz", "\\a"]),
    "json-pointer": (["", "/", "/a~0b/~1"], ["a", "/~2", "#/a"]),
    "relative-json-pointer": (["0", "1/a", "10#"], ["", "01", "/a", "-1", "1a"]),
    "regex": (["a+", ""], ["(", "*"]),
}


def test_cases_cover_all_checked_formats() -> None:
    assert set(CASES) == CHECKED_FORMATS


@pytest.mark.parametrize("name", CASES)
def test_mismatch_format_accepts_valid_and_refuses_invalid_text(name: str) -> None:
    schema: dict[str, Any] = {"properties": {"x": {"format": name}}}
    valid, invalid = CASES[name]
    for text in valid:
        assert mismatch(schema, {"x": text}) is None, text
    for text in invalid:
        assert mismatch(schema, {"x": text}) == f"at $.x: {text!r} is not a {name!r}"
    assert mismatch(schema, {"x": 5}) is None


def test_mismatch_other_format_accepts_any_value() -> None:
    for name in ("iri", "idn-hostname", "uri-template", "password", "made-up"):
        assert mismatch({"format": name}, "nope nope") is None


def test_format_checker_does_not_depend_on_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    format_checker.cache_clear()
    for name in ("rfc3339_validator", "rfc3986_validator", "isoduration", "fqdn", "jsonpointer"):
        monkeypatch.setitem(sys.modules, name, None)
    assert set(format_checker().checkers) == CHECKED_FORMATS


@pytest.mark.parametrize(
    "name", ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
)
def test_enforced_format_allows_only_valid_text(name: str) -> None:
    """Write random text that the engine allows, and validate it."""
    import random

    import numpy as np

    schema = {"type": "string", "format": name, "maxLength": 60}
    start = llguidance.LLMatcher(BYTE_TOKENIZER, as_lark(JSONSchema(schema)), log_level=0)
    assert not start.is_error(), start.get_error()
    draw, complete_texts = random.Random(name), 0
    for _ in range(150):
        matcher, data = start.deep_copy(), bytearray()
        while not matcher.is_stopped() and len(data) < 200:
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            token = draw.choice(np.flatnonzero(bits).tolist())
            if token < 256:
                data.append(token)
            matcher.consume_token(token)
        if matcher.is_accepting():
            JSONSchema(schema).parse(data.decode())
            complete_texts += 1
    assert complete_texts > 50
