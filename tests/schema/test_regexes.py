"""Regular expressions: they match what Python matches, with ASCII classes, in bounded time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.errors import InvalidRequest
from modelport.inputs.output_types import grammar_from
from modelport.schema import regexes
from modelport.schema.validation import mismatch
from modelport.types.output_types import Regex
from tests.properties import examples
from tests.schema.patterns import ATOMS


def test_fullmatch_word_boundaries_are_ascii() -> None:
    assert Regex(r"a\bé|é\Bé").parse("aé") == "aé"
    assert Regex(r"a\bé|é\Bé").parse("éé") == "éé"
    with pytest.raises(ValueError):
        Regex(r"a\Bé").parse("aé")


ASSERTIONS_AND_GROUPS = [
    r"\b",
    r"\B",
    "^",
    r"\A",
    "(?=a)",
    "(?!a)",
    "(?=.*b)",
    "(?!.*b|x)",
    "(?<=a)",
    "(?:a|b|)",
    "(a)|b",
    r"(b)\1",
    "(?i:é)",
]
QUANTIFIED_PARTS = st.tuples(
    st.sampled_from(ASSERTIONS_AND_GROUPS) | ATOMS, st.sampled_from(["", "", "+", "*?", "{2}", "{,2}", "++"])
)


@examples(600)
@given(
    st.sampled_from(["", "", "^", "(?i)", "(?s)", "(?m)", "(?a)"]), st.lists(QUANTIFIED_PARTS, min_size=1, max_size=5),
    st.text(st.sampled_from("abBcéÉx1٣_- /\\.[]&~{'\"#\n\t\u00a0\u2003\x1c\ud800"), max_size=6),
)  # fmt: skip
def test_search_and_fullmatch_agree_with_python(flags: str, parts: list[tuple[str, str]], text: str) -> None:
    pattern = flags + "".join(part + count for part, count in parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            found = re.search(pattern, text)
        except re.error:  # The random pattern is not valid: it may repeat a position twice, for example.
            return
        if text or r"\B" not in pattern:  # Before Python 3.14, `\B` does not match in an empty text.
            assert agrees(regexes.search, pattern, text, found)
        assert agrees(regexes.fullmatch, pattern, text, re.fullmatch(regexes.for_python(pattern), text))


def agrees(match: Callable[[str, str], bool], pattern: str, text: str, found: re.Match[str] | None) -> bool:
    """Return whether `match` finds the pattern if Python does, or refuses a pattern that may be refused."""
    try:
        return match(pattern, text) is (found is not None)
    except InvalidRequest:
        return bool(re.search(r"\(\?[=!<a]|\+\+|\\1", pattern))


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (r"^\w$", ["é", "٣", "_", "\u0301", "-"]),
        (r"^\s$", [" ", "\u00a0", "\x1c", "a"]),
        (r"^[^\W\d]$", ["é", "٣", "1", "-"]),
        (r"(?a)\d|(?i:é)", ["1", "٣", "É"]),
        (r"a\b", ["aé", "a-"]),
        ("^(?=a)*b", ["b", "ab"]),
        ("^(?=a){2}a", ["a", "b"]),
        ("(?m)^(?=a)", ["b\na", "b"]),
        ("^(?=a)(?!ab)a|b", ["ac", "ab", "xb", "x"]),
        (r"^(?=(a))\1", ["a", "b"]),
        ("^(?=[)(])[)(]", [")", "a"]),
        (r"^(?=\)).", [")", "a"]),
        (".", ["\ud800", "\n"]),
    ],
)
def test_search_special_cases_agree_with_python(pattern: str, texts: list[str]) -> None:
    for text in texts:
        assert regexes.search(pattern, text) is (re.search(pattern, text) is not None), text


def test_search_dollar_does_not_match_before_last_newline() -> None:
    assert mismatch({"pattern": "^a$"}, "a") is None
    assert mismatch({"pattern": "^a$"}, "a\n") == "at $: 'a\\n' does not match '^a$'"


@pytest.mark.parametrize(
    ("pattern", "text", "valid"),
    [
        (r"^(?=.{1,253}$)(?!-)([a-z0-9-]{1,63}\.)*[a-z]+$", "www.example.com", True),
        (r"^(?=.{1,253}$)(?!-)([a-z0-9-]{1,63}\.)*[a-z]+$", "-" + "a." * 100, False),
        (r"^(?=.*[a-z])(?=.*\d)[A-Za-z\d]{8,}$", "abcdefg1" * 1000, True),
        (r"^(?=.*[a-z])(?=.*\d)[A-Za-z\d]{8,}$", "abcdefgh" * 1000, False),
        (r"^[a-z-]+(?<!-)$", "a" * 3000, True),
        (r"^(['\"]).*\1$", "'" + "a" * 3000 + "'", True),
        (r"^[\s\S]{1,50000}$", "a" * 50000, True),
        (r"^\w{1,5000}$", "é" * 5000, True),
    ],
)
def test_search_usual_patterns_with_long_texts_are_matched(pattern: str, text: str, valid: bool) -> None:
    assert (mismatch({"pattern": pattern}, text) is None) is valid


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999999999999}"])
def test_unparsable_pattern_raises_invalid_request(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    for call in (lambda: Regex(pattern), lambda: grammar_from(schema), lambda: mismatch(schema, "a")):
        with pytest.raises(InvalidRequest):
            call()
    assert "is not a 'regex'" in str(mismatch({"format": "regex"}, pattern))
