"""The forms of an answer: each is read, checked, and put to the engines without a change of meaning."""

from __future__ import annotations

import enum
import json
import re
import subprocess
import sys
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from modelport.constrained.continuation import could_continue
from modelport.constrained.lark import as_lark
from modelport.errors import InvalidOutput, InvalidRequest, InvalidToolCall, UnsupportedFeature
from modelport.inputs.output_types import grammar_from, grammar_from_response_format
from modelport.schema import regexes
from modelport.schema.validation import mismatch
from modelport.testing import ScriptedModel
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.tools import Tool

llguidance = pytest.importorskip("llguidance")


class Person(BaseModel):
    name: str
    age: int | None = None


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Movie(typing.TypedDict):
    title: str
    year: typing.NotRequired[int]


class Shelf(typing.TypedDict, total=False):
    movies: typing.Required[list[Movie]]
    best: Movie | None


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


# --- the forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text", "parsed", "wrong"),
    [
        (Person, '{"name": "Ada"}', Person(name="Ada"), '{"age": 3}'),
        (Point, '{"x": 1, "tags": ["a"]}', Point(1, ["a"]), '{"x": "left"}'),
        (Movie, '{"title": "Alien"}', {"title": "Alien"}, '{"year": 1979}'),
        (Shelf, '{"movies": [{"title": "A"}], "best": null}', {"movies": [{"title": "A"}], "best": None}, "{}"),
        (Shelf, '{"movies": []}', {"movies": []}, '{"movies": [{}]}'),
        (Colour, '"red"', Colour.RED, '"green"'),
        (Literal["yes", "no"], '"yes"', "yes", '"maybe"'),
        (list[int], "[1, 2]", [1, 2], '["a"]'),
        (list[Movie], '[{"title": "A"}]', [{"title": "A"}], "[{}]"),
        (int | None, "null", None, '"a"'),
        ({"type": "object", "required": ["a"]}, '{"a": 1}', {"a": 1}, "{}"),
        ({"enum": [1, 2]}, "2", 2, "3"),
        ({"type": "json", "value": {"type": "integer"}}, "3", 3, '"3"'),
        ({"type": "json", "value": '{"type": "integer"}'}, "3", 3, '"3"'),
        ({"type": "json_object", "value": {"type": "integer"}}, "3", 3, '"3"'),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}, "3", 3, '"3"'),
        ({"type": "regex", "value": "a+"}, "aa", "aa", "b"),
        (Regex("a+"), "aa", "aa", "aab"),
        (Regex(r"\d+"), "12", "12", "١٢"),
        (Choice("yes", "no"), "no", "no", "No"),
        (Choice(["yes", "no"]), "no", "no", ""),
        (JSONSchema({"type": "integer"}), "3", 3, "3.5"),
    ],
)
def test_an_answer_is_parsed_to_the_form_asked_for(form: Any, text: str, parsed: Any, wrong: str) -> None:
    grammar = grammar_from(form)
    result = grammar.parse(text)
    assert (result, type(result)) == (parsed, type(parsed))
    assert isinstance(grammar.describe(), str)
    for text in (wrong, "", "{"):
        with pytest.raises(ValueError) as raised:
            grammar.parse(text)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "schema", [{"not": {"type": "string"}}, {"minimum": 3}, {"required": ["a"]}, {"format": "date"}]
)
def test_any_keyword_makes_a_schema(schema: dict[str, Any]) -> None:
    assert grammar_from(schema) == JSONSchema(schema)


def test_a_context_free_grammar_is_held_by_an_engine_alone() -> None:
    assert grammar_from(Lark("start: /a/")).parse("b") == "b"


@pytest.mark.parametrize(
    ("form", "name"),
    [(Person, "Person"), (Movie, "Movie"), (list[int], "list"), ({"type": "object"}, "answer"),
     (JSONSchema({}, name="mine"), "mine"), (JSONSchema({}, name="my form!"), "my_form_"),
     (JSONSchema({}, name=""), "answer"), (JSONSchema({}, name="é" * 70), "_" * 64)],
)  # fmt: skip
def test_services_are_given_a_name_they_take(form: Any, name: str) -> None:
    grammar = grammar_from(form)
    assert isinstance(grammar, JSONSchema)
    assert grammar.name == name
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", grammar.name)


def test_errors_say_where_the_answer_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"at \$\.people\[1\]\.age: 'x' is not of type 'integer'"):
        schema = {"properties": {"people": {"items": {"properties": {"age": {"type": "integer"}}}}}}
        JSONSchema(schema).parse('{"people": [{"age": 1}, {"age": "x"}]}')
    with pytest.raises(ValueError, match=r"at \$\[1\]\.name: Field required"):
        grammar_from(list[Person]).parse('[{"name": "a"}, {}]')


def test_a_bottomless_answer_is_wrong_and_no_crash() -> None:
    for form in ({"type": "array"}, list[int]):
        with pytest.raises(ValueError):
            grammar_from(form).parse("[" * 100_000)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("yes|no", "bare string"),
        (5, "no form known here"),
        ({}, "no JSON schema"),
        ({"name": "x"}, "no JSON schema"),
        ({"type": "strin"}, r"invalid at \$.type"),
        ({"type": "object", "properties": {"a": 5}}, r"invalid at \$.properties.a"),
        ({"type": "string", "pattern": "("}, r"invalid at \$.pattern"),
        ({"const": b"bytes"}, "no JSON"),
        ({"type": "regex", "value": "("}, "no valid regular expression"),
        ({"type": "regex", "value": 5}, "takes a string, not int"),
        ({"type": "json", "value": "{"}, "no JSON"),
        ({"type": "json", "value": 5}, "must be a dict, not int"),
        ({"type": "json_schema", "json_schema": {}}, "needs a 'schema'"),
        (JSONSchema({"type": "strin"}), r"invalid at \$.type"),
    ],
)
def test_what_is_no_grammar_is_refused_with_a_reason(form: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        grammar_from(form)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: JSONSchema({}, name=5),
        lambda: Regex("("),
        lambda: Regex(5),
        Choice,
        lambda: Choice(""),
        lambda: Choice([]),
        lambda: Choice("a", 5),
    ],
)
def test_a_grammar_that_cannot_be_is_refused_where_it_is_made(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidRequest):
        make()


def test_openais_response_format() -> None:
    schema = {"type": "object"}
    named = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    assert grammar_from_response_format(named) == JSONSchema(schema, name="person")
    assert grammar_from_response_format({"type": "json_object"}) == JSONSchema(schema, name="json_object")
    assert grammar_from_response_format({"type": "text"}) is None
    parsed = grammar_from_response_format(Person)
    assert parsed is not None
    assert parsed.parse('{"name": "Ada"}') == Person(name="Ada")


@pytest.mark.parametrize(
    "form", [{}, {"type": "xml"}, "json_object", 5, None, {"type": "json_schema"},
             {"type": "json_schema", "json_schema": 5},
             {"type": "json_schema", "json_schema": {"name": 5, "schema": {}}}],
)  # fmt: skip
def test_what_is_no_response_format_is_refused(form: Any) -> None:
    with pytest.raises(InvalidRequest, match="response_format"):
        grammar_from_response_format(form)


@pytest.mark.parametrize("form", [list[int], Literal["a"], Regex("a"), Choice("a")])
def test_another_form_than_openais_has_its_own_argument(form: Any) -> None:
    with pytest.raises(InvalidRequest, match="write grammar="):
        grammar_from_response_format(form)


# --- schemas ----------------------------------------------------------------------------------------------------------


def test_a_value_is_held_against_a_schema() -> None:
    schema = {"$defs": {"a": {"type": "integer"}}, "items": {"$ref": "#/$defs/a"}}
    assert mismatch(schema, [1, 2]) is None
    assert mismatch(schema, [1, "x"]) == "at $[1]: 'x' is not of type 'integer'"


@pytest.mark.parametrize("schema", [{"$ref": "#/nowhere"}, {"type": "image"}, {"pattern": "("}, {"type": 5}])
def test_a_broken_schema_is_the_callers_mistake(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="schema can't be used") as raised:
        mismatch(schema, "a")
    assert "\n" not in str(raised.value)


def test_a_deep_value_is_a_wrong_answer_and_no_broken_schema() -> None:
    schema = {"type": "object", "properties": {"k": {"$ref": "#"}}}
    deep = '{"k": ' * 400 + "{}" + "}" * 400
    with pytest.raises(ValueError, match="nested too deeply"):
        JSONSchema(schema).parse(deep)
    with pytest.raises(InvalidOutput, match="nested too deeply") as raised:
        ScriptedModel(deep).generate("?", grammar=schema)
    assert raised.value.text == deep
    with pytest.raises(InvalidRequest, match="refers to itself without an end"):
        mismatch({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, {})


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("schema", "number", "says"),
    [
        ({"type": "number", "multipleOf": 0.4}, HUGE, "is not a multiple of 0.4"),
        ({"type": "number", "multipleOf": 0.1}, "1e999", "the number 1e999 is too large"),
        ({"type": "number"}, "1e400", "the number 1e400 is too large"),
        ({"type": "number"}, "-1E+0400", "the number -1E[+]0400 is too large"),
        ({"type": "number"}, "1" + "0" * 309 + ".5", "the number 10* is too large"),
        ({"type": "integer", "multipleOf": 3}, "1e999", "too large"),
        ({"type": "integer", "multipleOf": 3}, "1" * 401, "is not a multiple of 3"),
        ({"type": "integer"}, "9" * 5000, "4300 digits"),
        ({"type": "number"}, "NaN", "NaN is no JSON|no valid JSON"),
        ({"type": "number"}, "-Infinity", "-Infinity is no JSON|no valid JSON"),
        (float, "1e400", "the number 1e400 is too large"),
        (float, "NaN", "NaN is no JSON"),
    ],
)
def test_a_number_that_is_none_is_a_wrong_answer_and_no_broken_schema(schema: Any, number: str, says: str) -> None:
    whole = {"type": "object", "properties": {"x": schema}}
    form, text = (list[float], f"[{number}]") if schema is float else (whole, f'{{"x": {number}}}')
    with pytest.raises(ValueError, match=says):
        grammar_from(form).parse(text)
    with pytest.raises(InvalidOutput, match=says) as raised:
        ScriptedModel(text, repeat=True).generate("?", grammar=form)
    assert raised.value.text == text
    if schema is not float:
        call = {"id": "1", "function": {"name": "f", "arguments": text}}
        model = ScriptedModel(ChatMessage("assistant", None, [call]))  # type: ignore[list-item]
        with pytest.raises(InvalidToolCall, match=f"{says}|no valid JSON") as refused:
            model.generate("?", tools=[Tool("f", "", whole)])
        assert refused.value.text == text


def test_large_numbers_that_are_numbers_are_taken() -> None:
    assert JSONSchema({"type": "integer", "multipleOf": 3}).parse(HUGE) == int(HUGE)
    assert JSONSchema({"type": "number", "multipleOf": 0.1}).parse(HUGE) == int(HUGE)
    assert JSONSchema({"type": "number", "multipleOf": 0.01}).parse("19.99") == 19.99
    assert grammar_from(list[int]).parse(f"[{HUGE}]") == [int(HUGE)]
    assert grammar_from(list[float]).parse("[1e308, 1e-999]") == [1e308, 0.0]


def test_a_schema_that_names_an_address_does_not_make_us_fetch_it() -> None:
    """A tool's schema may come from a server that is not trusted."""
    import http.server
    import threading

    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InvalidRequest):
            mismatch({"$ref": f"http://127.0.0.1:{server.server_port}/schema.json"}, 5)
        server.shutdown()
    assert asked == []


# --- for engines ------------------------------------------------------------------------------------------------------

BYTES = llguidance.LLTokenizer("byte")


def takes(grammar: Any, text: str) -> bool:
    """Whether the engines' matcher takes this text, and it is whole."""
    lark = as_lark(grammar)
    assert llguidance.LLMatcher.validate_grammar(lark, None) == "", lark
    matcher = llguidance.LLMatcher(BYTES, lark)
    tokens = BYTES.tokenize_bytes(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def matches(pattern: str, text: str) -> bool:
    """Whether the check takes it."""
    try:
        return Regex(pattern).parse(text) == text
    except ValueError:
        return False


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        # \d, \w and \s are ASCII, also within a class and negated.
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
        # What stands for itself in Python and means something else in Rust.
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
        # Anchors say what a whole match means anyway.
        (r"^\d+$", ["12", "a12", "12a"]),
        (r"\Aab\Z", ["ab", "abc"]),
        # Characters that need care between a Lark regex's slashes.
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
def test_a_pattern_means_to_the_engines_what_it_means_in_python(pattern: str, texts: list[str]) -> None:
    for text in texts:
        assert takes(Regex(pattern), text) == bool(re.fullmatch(pattern, text, re.ASCII)) == matches(pattern, text), (
            text
        )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        # Cases are Unicode's, in the mask as in the check.
        ("(?i)été", "ÉTÉ", True),
        ("(?i)k", "\u212a", True),
        ("(?i)[a-z]", "ſ", True),
        ("(?i:é)a", "Éa", True),
        ("(?i:é)a", "ÉA", False),
        (r"(?i)\W", "\u212a", False),
        # The flags that say Unicode or ASCII change nothing.
        ("(?u)abc", "abc", True),
        (r"(?iu)\d+é", "1É", True),
        (r"(?u)\d", "١", False),
        (r"(?a)\w(?a:é)", "aé", True),
        # Python has no class within a class.
        (r"[\W_]+", "_é-", True),
        (r"[\W_]", "a", False),
        (r"[^\W\d]", "a", True),
        (r"[^\W\d]", "1", False),
        (r"[^\W\d]", "é", False),
        (r"[^\Wa]+", "b\n", False),
        (r"[^\W]{2}", "ab", True),
        # Ranges that begin or end with what is an operator in Rust.
        ("[+--]", ",", True),
        ("[--/]", ".", True),
        ("[a-c-]", "-", True),
        ("[a-]", "b", False),
        # By number and by name.
        (r"\0\012[\101\0]", "\0\nA", True),
        (r"[\7-\11]", "\b", True),
        (r"\N{BULLET}+", "••", True),
        (r"\é", "é", True),
        # What is verbose is no part of it.
        ("(?x) a # it's [\n b[ #]", "ab#", True),
        (r"(?x) a\ \#", "a #", True),
        (r"a(?#one)b", "ab", True),
        # Braces that count nothing.
        ("{a}+", "{a}}", True),
        (r"a\++", "a++", True),
    ],
)
def test_a_pattern_means_the_same_to_the_engines_and_to_the_check(pattern: str, text: str, fits: bool) -> None:
    assert takes(Regex(pattern), text) is matches(pattern, text) is fits


@pytest.mark.parametrize(
    ("pattern", "what"),
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
def test_what_no_mask_can_hold_is_refused_and_yet_can_be_checked(pattern: str, what: str) -> None:
    with pytest.raises(UnsupportedFeature, match=what):
        as_lark(Regex(pattern))
    with pytest.raises(ValueError):
        Regex(pattern).parse("")
    assert could_continue(Regex(pattern), "")


def test_the_edges_of_words_are_ascii_in_the_check() -> None:
    assert Regex(r"a\bé|é\Bé").parse("aé") == "aé"
    assert Regex(r"a\bé|é\Bé").parse("éé") == "éé"
    with pytest.raises(ValueError):
        Regex(r"a\Bé").parse("aé")


ATOMS = st.sampled_from([
    "a", "é", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "/", r"\/", r"\.", r"\\", "-", " ", "[a-c]", "[^a]",
    r"[\d_]", r"[^\w]", r"[\s\S]", "[]x]", "[&~]", r"[\-\]]", "(?:a|b)", "{", "'", '"', "#",
])  # fmt: skip
PATTERNS = st.lists(st.tuples(ATOMS, st.sampled_from(["", "", "+", "?", "{2}", "{1,2}"])), min_size=1, max_size=5)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(PATTERNS, st.text(st.sampled_from("abcéx1٣_- /\\.[]&~{'\"#\n\t\u00a0"), max_size=6))
def test_any_pattern_means_the_same_to_the_engines(atoms: list[tuple[str, str]], text: str) -> None:
    pattern = "".join(atom + count for atom, count in atoms)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert takes(Regex(pattern), text) == bool(re.fullmatch(pattern, text, re.ASCII)) == matches(pattern, text)


ANCHORED = [
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
PIECES = st.tuples(st.sampled_from(ANCHORED) | ATOMS, st.sampled_from(["", "", "+", "*?", "{2}", "{,2}", "++"]))


@settings(max_examples=600, derandomize=True, deadline=None)
@given(
    st.sampled_from(["", "", "^", "(?i)", "(?s)", "(?m)", "(?a)"]), st.lists(PIECES, min_size=1, max_size=5),
    st.text(st.sampled_from("abBcéÉx1٣_- /\\.[]&~{'\"#\n\t\u00a0\u2003\x1c\ud800"), max_size=6),
)  # fmt: skip
def test_what_is_matched_in_linear_time_is_what_python_matches(
    begin: str, pieces: list[tuple[str, str]], text: str
) -> None:
    pattern = begin + "".join(atom + count for atom, count in pieces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            found = re.search(pattern, text)
        except re.error:  # such as a place that is repeated twice
            return
        if text or r"\B" not in pattern:  # which Python finds in no empty text, until 3.14
            assert agrees(regexes.search, pattern, text, found)
        assert agrees(regexes.fullmatch, pattern, text, re.fullmatch(regexes.for_python(pattern), text))


def agrees(call: Callable[[str, str], bool], pattern: str, text: str, found: re.Match[str] | None) -> bool:
    try:
        return call(pattern, text) is (found is not None)
    except InvalidRequest:  # which is no answer, and no wrong one
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
def test_a_schemas_pattern_means_what_it_means_in_python(pattern: str, texts: list[str]) -> None:
    for text in texts:
        assert regexes.search(pattern, text) is (re.search(pattern, text) is not None), text


def test_the_end_of_a_text_is_not_before_its_last_newline() -> None:
    assert mismatch({"pattern": "^a$"}, "a") is None
    assert mismatch({"pattern": "^a$"}, "a\n") == "at $: 'a\\n' does not match '^a$'"


EVIL, ROW = "(a+)+b", "a" * 5000


@pytest.mark.parametrize(
    "code",
    [
        f"fails(Regex({EVIL!r}).parse, ROW)",
        f"assert mismatch({{'pattern': {EVIL!r}}}, ROW)",
        f"assert not mismatch({{'patternProperties': {{{EVIL!r}: False}}}}, {{ROW: 1}})",
        f"assert not mismatch({{'propertyNames': {{'not': {{'pattern': {EVIL!r}}}}}}}, {{ROW: 1}})",
        f"assert mismatch({{'patternProperties': {{{EVIL!r}: {{}}}}, 'additionalProperties': False}}, {{ROW: 1}})",
        f"assert mismatch({{'allOf': [{{'patternProperties': {{{EVIL!r}: {{}}}}}}], 'unevaluatedProperties': False}}, "
        "{ROW: 1})",
        # A part that names a draft is not given to that draft's own validator.
        "DRAFT = 'http://json-schema.org/draft-07/schema#'\n"
        f"assert mismatch({{'items': {{'$schema': DRAFT, 'pattern': {EVIL!r}}}}}, [ROW])",
        f"fails(Tool('t', '', {{'properties': {{'a': {{'pattern': {EVIL!r}}}}}}}).check, {{'a': ROW}})",
        f"assert mismatch({{'pattern': '^(?!b)(?=a){EVIL}$'}}, ROW)",
        # What only Python's engine could match, or what is too large for Rust's.
        f"refused(Regex('(?=a){EVIL}|(c)').parse, ROW)",
        f"refused(mismatch, {{'pattern': '(?<!b){EVIL}'}}, ROW)",
        r"refused(mismatch, {'pattern': r'(a*)*\1b'}, ROW)",
        "refused(mismatch, {'pattern': '.*.*.*(?<=b)x'}, ROW)",
        "refused(mismatch, {'pattern': 'a*(?<=b)x'}, ROW)",
        "refused(mismatch, {'pattern': '(?:(?:a{1,1000}){1,1000}){1,1000}b'}, ROW)",
        "refused(mismatch, {'pattern': '(?:a{0,1000}){60}x'}, ROW * 20)",
        "two = lambda i: {'allOf': [{'$ref': f'#/$defs/{i}'}] * 2}\n"
        "slow(mismatch, {'$defs': {str(i): two(i + 1) for i in range(60)} | {'60': {}}, '$ref': '#/$defs/0'}, 1)",
        "two = lambda i: {'$dynamicAnchor': f'a{i}', 'allOf': [{'$dynamicRef': f'#a{i + 1}'}] * 2}\n"
        "last = {'$dynamicAnchor': 'a60'}\n"
        "slow(mismatch, {'$defs': {str(i): two(i) for i in range(60)} | {'60': last}, '$dynamicRef': '#a0'}, 1)",
        "schema = {'properties': {'a': {}}}\n"
        "for _ in range(30): schema = {'allOf': [schema], 'unevaluatedProperties': False}\n"
        "slow(mismatch, schema, {'a': 1})",
        "patterns = {f'^x{i}(a|b)*$': {} for i in range(600)}\n"
        "value = {f'y{i}': 1 for i in range(50)}\n"
        "assert mismatch({'patternProperties': patterns, 'additionalProperties': False}, value)",
        "refused(mismatch, {'pattern': '(' * 40 + 'a' + '){1,9}' * 40}, 'a' * 5000)",
        "assert not mismatch({'$defs': {'a': {}}, 'items': {'$ref': '#/$defs/a'}}, [1] * 20_000)",
        "assert not mismatch({'uniqueItems': True}, [i * (2**61 - 1) for i in range(50_000)])",
        "assert not mismatch({'uniqueItems': True}, [{'a': i} for i in range(50_000)])",
        "assert not mismatch({'contains': {}, 'unevaluatedItems': False}, [1] * 200_000)",
        "assert not mismatch({'patternProperties': {'a': {}}, 'unevaluatedProperties': False}, {f'a{i}': i for i in "
        "range(150_000)})",
        "assert _Unwrapper(False).feed('{\"answer\": [' + ' ' * 300_000 + 'x')",
    ],
)
def test_no_pattern_and_no_list_holds_the_thread_for_long(code: str) -> None:
    """In a process of its own, since what Python's engine does can't be broken off."""
    program = f"""
from modelport import InvalidRequest, Regex
from modelport.types.output_types import mismatch
from modelport.layers.adapt.wrapping import _Unwrapper
from modelport.types.tools import Tool

ROW = {ROW!r}

def raises(kind, words, call, *arguments):
    try:
        call(*arguments)
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError("it raised nothing")

def fails(call, *arguments):
    raises(ValueError, "does not match", call, *arguments)

def slow(call, *arguments):
    raises(InvalidRequest, "takes more than 5 s", call, *arguments)

def refused(call, *arguments):
    raises(InvalidRequest, "could take too long", call, *arguments)

{code}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
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
def test_usual_patterns_are_matched_with_long_texts(pattern: str, text: str, fits: bool) -> None:
    assert (mismatch({"pattern": pattern}, text) is None) is fits


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999999999999}"])
def test_a_pattern_that_can_not_be_read_is_the_callers_mistake(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    for call in (lambda: Regex(pattern), lambda: grammar_from(schema), lambda: mismatch(schema, "a")):
        with pytest.raises(InvalidRequest):
            call()
    assert "is not a 'regex'" in str(mismatch({"format": "regex"}, pattern))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 1.5, "1", ""]),
    lambda parts: st.lists(parts, max_size=2) | st.dictionaries(st.sampled_from("ab"), parts, max_size=2),
), max_size=4))  # fmt: skip
@example([1, True])
@example([[0], [False]])
@example([{"a": [1]}, {"a": [1.0]}])
def test_items_are_unique_as_json_has_it(items: list[Any]) -> None:
    from jsonschema import Draft202012Validator

    schema = {"uniqueItems": True}
    assert (mismatch(schema, items) is None) is Draft202012Validator(schema).is_valid(items)


def test_what_is_wrong_is_told_without_the_middle_of_a_long_value() -> None:
    told = str(mismatch({"type": "integer"}, "a" * 100_000))
    assert len(told) < 2100 and told.startswith("at $: 'aaa") and told.endswith("is not of type 'integer'")


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), min_size=1, max_size=4))
def test_any_strings_can_be_a_choice(options: list[str]) -> None:
    for option in options:
        assert takes(Choice(options), option)
    assert not takes(Choice(options), "".join(options) + "!")


def test_a_choice_may_have_any_number_of_options() -> None:
    options = [f"option {i}" for i in range(5000)]
    choice = Choice(*options, "New", "New York")
    assert all(takes(choice, text) for text in ("option 0", "option 4999", "option 49", "New", "New York"))
    assert not any(takes(choice, text) for text in ("option 5000", "option ", "New Y", "option 1option 2"))


def test_a_choice_escapes_what_lark_reads() -> None:
    for option in ('"', "\\", "a\nb", "/a/", "\x00", "\x7f", "start: b"):
        assert takes(Choice(option, "other"), option)


@pytest.mark.parametrize("form", [Person, Point, Movie, Colour, list[Point], {"type": "object"}, {"enum": ["a", 1]}])
def test_a_schema_is_a_grammar_for_engines(form: Any) -> None:
    assert llguidance.LLMatcher.validate_grammar(as_lark(grammar_from(form)), None) == ""


def test_json_is_held_to_single_spaces() -> None:
    """A weak model would else fill its budget with white space."""
    grammar = grammar_from(Point)
    assert takes(grammar, '{"x": 1, "tags": ["a", "b"]}')
    assert not takes(grammar, '{"x":  1, "tags": []}')
    assert not takes(grammar, '{\n"x": 1, "tags": []}')


def test_a_lark_grammar_is_passed_on_as_it_is() -> None:
    assert as_lark(Lark("start: /a/")) == "start: /a/"
    assert takes(Lark('start: "a" start "b" | '), "aabb")


def test_grammars_are_equal_by_value() -> None:
    assert Choice("a", "b") == Choice(["a", "b"])
    assert Regex("a") != Regex("b")
    assert json.loads(json.dumps(JSONSchema({"a": 1}).schema)) == {"a": 1}


# --- an answer that was cut -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grammar", "text", "goes_on"),
    [
        (Choice("New York", "New"), "New", True),
        (Choice("New York", "New"), "New York", False),
        (JSONSchema({"type": "integer"}), "12", True),
        (JSONSchema({"type": "object"}), "{}", False),
        (JSONSchema({"type": "string"}), '"2024"', False),
        (Lark("start: /a/"), "a", True),
        (Regex(r"\d{4}(-\d\d)?"), "2024", True),
        (Regex(r"\d{4}(-\d\d)?"), "2024-12", False),
        (Regex("a+"), "a", True),
        (Regex("a?"), "", True),
        (Regex("a|é|éa"), "a", False),
        (Regex("a|é|éa"), "é", True),
        (Regex("(?s).*"), "a/b\n", True),
        (Regex("yes|no$"), "no", False),
        (Regex("a\\b"), "a", True),  # No engine takes this one: what may follow isn't known.
    ],
)
def test_whether_an_answer_that_was_cut_may_have_gone_on(grammar: Any, text: str, goes_on: bool) -> None:
    assert could_continue(grammar, text) is goes_on


def test_without_llguidance_any_match_may_have_gone_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert could_continue(Regex("a"), "a")
    assert not could_continue(Choice("a"), "a")
