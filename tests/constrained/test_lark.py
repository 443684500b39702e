"""Output types as Lark grammars: an engine that enforces one can write exactly what the output type accepts."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.constrained.continuation import could_continue
from modelport.constrained.lark import as_lark
from modelport.errors import UnsupportedFeature
from modelport.inputs.output_types import grammar_from
from modelport.types.output_types import Choice, Lark, Regex
from tests.constrained.matching import accepts, llguidance
from tests.properties import examples
from tests.schema.patterns import PATTERNS
from tests.types.examples import Colour, Movie, Person, Point


def matches(pattern: str, text: str) -> bool:
    """Return whether `Regex.parse` accepts the text."""
    try:
        return Regex(pattern).parse(text) == text
    except ValueError:
        return False


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        # \d, \w and \s are ASCII, also within a class and when negated.
        (r"\d+", ["12", "١٢", ""]),
        (r"\w", ["a", "_", "é", "٣", "-"]),
        (r"a\sb", ["a b", "a\tb", "a\fb", "a\vb", "a\u00a0b", "a\u2003b"]),
        (r"\D\W\S", ["a-a", "١é\u00a0", "1-a", "aaa", "a- "]),
        (r"[\d\s]", ["1", "١", " ", "\u00a0"]),
        (r"[\d-]", ["-", "1"]),
        (r"[^\d]", ["a", "1", "١"]),
        (r"[\D]", ["a", "1", "١"]),
        (r"[\W_]", ["_", "-", "é", "a"]),
        (r"\\d", ["\\d", "1"]),
        # Characters that are literal in Python and operators in Rust.
        (r"[[a]", ["[", "a", "[a"]),
        (r"[]a]", ["]", "a"]),
        (r"[^]a]", ["]", "a", "b"]),
        (r"[\]\[]", ["]", "[", "\\"]),
        (r"[a&&b]", ["a", "&", "b"]),
        (r"[a~~b]", ["a", "~", "b"]),
        (r"\<\>", ["<>", ""]),
        (r"a{,2}", ["", "a", "aa", "aaa", "a{,2}"]),
        (r"[{,2}]", ["{", ",", "}"]),
        (r'{"a": \d{2}, "b": {}}', ['{"a": 12, "b": {}}', '{"a": 1, "b": {}}']),
        (r"{x}{1,b}a{1,}b{2}c{,}", ["{x}{1,b}aabbcc", "{x}{1,b}bb"]),
        (r"[\b]", ["\b", "b"]),
        # Anchors change nothing, because the pattern must match the complete text.
        (r"^\d+$", ["12", "a12", "12a"]),
        (r"\Aab\Z", ["ab", "abc"]),
        # Characters that must be escaped between the slashes of a Lark regex.
        (r"a/b", ["a/b", "ab"]),
        (r"[/]\/", ["//", "/"]),
        ("a\nb", ["a\nb", "anb"]),
        ("a\\\nb", ["a\nb", "a\\nb"]),
        ("[\n]", ["\n", "n"]),
        (r"New\ York\-1", ["New York-1"]),
        (r'"\w"', ['"a"', "a"]),
        (r"é🦊+", ["é🦊🦊", "e"]),
        (r"\u00e9\x41", ["éA"]),
        (r".", ["a", "\n", "é", "ab"]),
        (r"(?i)ab|(?P<c>c)|", ["AB", "c", "C", "", "abc"]),
    ],
)
def test_as_lark_regex_matches_same_texts_as_python(pattern: str, texts: list[str]) -> None:
    for text in texts:
        assert accepts(Regex(pattern), text) == bool(re.fullmatch(pattern, text, re.ASCII)) == matches(pattern, text), (
            text
        )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("pattern", "text", "valid"),
    [
        # The engine and the check follow Unicode's case rules.
        ("(?i)été", "ÉTÉ", True),
        ("(?i)k", "\u212a", True),
        ("(?i)[a-z]", "ſ", True),
        ("(?i:é)a", "Éa", True),
        ("(?i:é)a", "ÉA", False),
        (r"(?i)\W", "\u212a", False),
        # The flags for Unicode and ASCII change nothing.
        ("(?u)abc", "abc", True),
        (r"(?iu)\d+é", "1É", True),
        (r"(?u)\d", "١", False),
        (r"(?a)\w(?a:é)", "aé", True),
        # Classes that contain a negated class, which Python does not have.
        (r"[\W_]+", "_é-", True),
        (r"[\W_]", "a", False),
        (r"[^\W\d]", "a", True),
        (r"[^\W\d]", "1", False),
        (r"[^\W\d]", "é", False),
        (r"[^\Wa]+", "b\n", False),
        (r"[^\W]{2}", "ab", True),
        # Ranges that start or end with a character that is an operator in Rust.
        ("[+--]", ",", True),
        ("[--/]", ".", True),
        ("[a-c-]", "-", True),
        ("[a-]", "b", False),
        # Characters that are written by their number or their name.
        (r"\0\012[\101\0]", "\0\nA", True),
        (r"[\7-\11]", "\b", True),
        (r"\N{BULLET}+", "••", True),
        (r"\é", "é", True),
        # White space and comments of verbose patterns, and comment groups.
        ("(?x) a # it's [\n b[ #]", "ab#", True),
        (r"(?x) a\ \#", "a #", True),
        (r"a(?#one)b", "ab", True),
        # Braces that are not a count, and an escaped quantifier.
        ("{a}+", "{a}}", True),
        (r"a\++", "a++", True),
    ],
)
def test_as_lark_regex_and_parse_agree(pattern: str, text: str, valid: bool) -> None:
    assert accepts(Regex(pattern), text) is matches(pattern, text) is valid


@pytest.mark.parametrize(
    ("pattern", "construct"),
    [
        ("a++a", "possessive"),
        ("a*+b", "possessive"),
        ("a?+b", "possessive"),
        ("(?:ab){2,}+", "possessive"),
        ("(?>ab)c", "atomic"),
        ("(x)?(?(1)y|z)", "conditional"),
        ("(?P<n>a)(?P=n)", "back reference"),
        ("(?x:a b)", "verbose"),
    ],
)
def test_as_lark_unenforceable_regex_raises_but_parse_checks(pattern: str, construct: str) -> None:
    with pytest.raises(UnsupportedFeature, match=construct):
        as_lark(Regex(pattern))
    with pytest.raises(ValueError):
        Regex(pattern).parse("")
    assert could_continue(Regex(pattern), "")


@examples(300)
@given(PATTERNS, st.text(st.sampled_from("abcéx1٣_- /\\.[]&~{'\"#\n\t\u00a0"), max_size=6))
def test_as_lark_generated_regex_matches_same_texts_as_python(atoms: list[tuple[str, str]], text: str) -> None:
    pattern = "".join(atom + count for atom, count in atoms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert accepts(Regex(pattern), text) == bool(re.fullmatch(pattern, text, re.ASCII)) == matches(pattern, text)


@examples(150)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), min_size=1, max_size=4))
def test_as_lark_choice_of_generated_strings_accepts_each(options: list[str]) -> None:
    for option in options:
        assert accepts(Choice(options), option)
    assert not accepts(Choice(options), "".join(options) + "!")


def test_as_lark_choice_with_5000_options_accepts_only_options() -> None:
    options = [f"option {i}" for i in range(5000)]
    choice = Choice(*options, "New", "New York")
    assert all(accepts(choice, text) for text in ("option 0", "option 4999", "option 49", "New", "New York"))
    assert not any(accepts(choice, text) for text in ("option 5000", "option ", "New Y", "option 1option 2"))


def test_as_lark_choice_escapes_lark_syntax() -> None:
    for option in ('"', "\\", "a\nb", "/a/", "\x00", "\x7f", "start: b"):
        assert accepts(Choice(option, "other"), option)


@pytest.mark.parametrize("value", [Person, Point, Movie, Colour, list[Point], {"type": "object"}, {"enum": ["a", 1]}])
def test_as_lark_schema_is_valid_grammar(value: Any) -> None:
    assert llguidance.LLMatcher.validate_grammar(as_lark(grammar_from(value)), None) == ""


def test_as_lark_schema_allows_single_spaces_only() -> None:
    """With free white space, a weak model uses up `max_tokens` with it."""
    grammar = grammar_from(Point)
    assert accepts(grammar, '{"x": 1, "tags": ["a", "b"]}')
    assert not accepts(grammar, '{"x":  1, "tags": []}')
    assert not accepts(grammar, '{\n"x": 1, "tags": []}')


def test_as_lark_lark_is_unchanged() -> None:
    assert as_lark(Lark("start: /a/")) == "start: /a/"
    assert accepts(Lark('start: "a" start "b" | '), "aabb")
