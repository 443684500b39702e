"""Output types: how they are made from arguments, and how they parse and check text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

import pytest

from modelport.errors import InvalidRequest
from modelport.inputs.options import normalise_options
from modelport.inputs.output_types import grammar_from
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from tests.types.examples import Colour, Movie, Person, Point, Shelf


@pytest.mark.parametrize(
    ("value", "text", "parsed", "invalid_text"),
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
def test_parse_returns_value_or_raises(value: Any, text: str, parsed: Any, invalid_text: str) -> None:
    grammar = grammar_from(value)
    result = grammar.parse(text)
    assert (result, type(result)) == (parsed, type(parsed))
    assert isinstance(grammar.describe(), str)
    for text in (invalid_text, "", "{"):
        with pytest.raises(ValueError) as raised:
            grammar.parse(text)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "schema", [{"not": {"type": "string"}}, {"minimum": 3}, {"required": ["a"]}, {"format": "date"}]
)
def test_grammar_from_dict_with_any_schema_keyword_is_json_schema(schema: dict[str, Any]) -> None:
    assert grammar_from(schema) == JSONSchema(schema)


def test_lark_parse_returns_text_unchecked() -> None:
    assert grammar_from(Lark("start: /a/")).parse("b") == "b"


@pytest.mark.parametrize(
    ("value", "name"),
    [(Person, "Person"), (Movie, "Movie"), (list[int], "list"), ({"type": "object"}, "answer"),
     (JSONSchema({}, name="mine"), "mine"), (JSONSchema({}, name="my type!"), "my_type_"),
     (JSONSchema({}, name=""), "answer"), (JSONSchema({}, name="é" * 70), "_" * 64)],
)  # fmt: skip
def test_json_schema_name_is_valid_for_services(value: Any, name: str) -> None:
    grammar = grammar_from(value)
    assert isinstance(grammar, JSONSchema)
    assert grammar.name == name
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", grammar.name)


def test_parse_error_names_json_path() -> None:
    with pytest.raises(ValueError, match=r"at \$\.people\[1\]\.age: 'x' is not of type 'integer'"):
        schema = {"properties": {"people": {"items": {"properties": {"age": {"type": "integer"}}}}}}
        JSONSchema(schema).parse('{"people": [{"age": 1}, {"age": "x"}]}')
    with pytest.raises(ValueError, match=r"at \$\[1\]\.name: Field required"):
        grammar_from(list[Person]).parse('[{"name": "a"}, {}]')


def test_parse_deeply_nested_text_raises_value_error() -> None:
    for value in ({"type": "array"}, list[int]):
        with pytest.raises(ValueError):
            grammar_from(value).parse("[" * 100_000)


@pytest.mark.parametrize(
    ("value", "error_text"),
    [
        ("yes|no", "bare string"),
        (5, "is not an output type"),
        ({}, "not a JSON schema"),
        ({"name": "x"}, "not a JSON schema"),
        ({"type": "strin"}, r"invalid at \$.type"),
        ({"type": "object", "properties": {"a": 5}}, r"invalid at \$.properties.a"),
        ({"type": "string", "pattern": "("}, r"invalid at \$.pattern"),
        ({"const": b"bytes"}, "not valid JSON"),
        ({"type": "regex", "value": "("}, "not a valid regular expression"),
        ({"type": "regex", "value": 5}, "takes a string, not int"),
        ({"type": "json", "value": "{"}, "not valid JSON"),
        ({"type": "json", "value": 5}, "must be a dict, not int"),
        ({"type": "json_schema", "json_schema": {}}, "needs a 'schema'"),
        (JSONSchema({"type": "strin"}), r"invalid at \$.type"),
    ],
)
def test_grammar_from_invalid_value_raises_with_reason(value: Any, error_text: str) -> None:
    with pytest.raises(InvalidRequest, match=error_text) as raised:
        grammar_from(value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: JSONSchema({}, name=5),  # type: ignore[arg-type]
        lambda: Regex("("),
        lambda: Regex(5),  # type: ignore[arg-type]
        Choice,
        lambda: Choice(""),
        lambda: Choice([]),
        lambda: Choice("a", 5),  # type: ignore[arg-type]
    ],
)
def test_output_type_with_invalid_arguments_raises_at_construction(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidRequest):
        make()


def test_response_format_each_type_gives_output_type() -> None:
    schema = {"type": "object"}
    named = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    assert grammar_from(named, "response_format") == JSONSchema(schema, name="person")
    assert grammar_from({"type": "json_object"}, "response_format") == JSONSchema(schema, name="json_object")
    assert grammar_from({"type": "text"}, "response_format") is None
    with_schema = {"type": "json_object", "schema": {"type": "object", "required": ["a"]}}
    assert grammar_from(with_schema, "response_format") == JSONSchema(with_schema["schema"])  # type: ignore[arg-type]
    parsed = grammar_from(Person, "response_format")
    assert parsed is not None
    assert parsed.parse('{"name": "Ada"}') == Person(name="Ada")


@pytest.mark.parametrize(
    "value", [{}, {"type": "xml"}, "json_object", 5, {"type": "json_schema"},
             {"type": "json_schema", "json_schema": 5},
             {"type": "json_schema", "json_schema": {"name": 5, "schema": {}}}],
)  # fmt: skip
def test_response_format_invalid_value_raises(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"response_format|'xml' is not one of"):
        grammar_from(value, "response_format")


@pytest.mark.parametrize("value", [list[int], Literal["a"], Regex("a"), Choice("a"), {"type": "integer"}], ids=str)
def test_response_format_accepts_what_grammar_accepts(value: Any) -> None:
    assert normalise_options({"response_format": value}) == normalise_options({"grammar": value})


def test_output_types_are_compared_by_value() -> None:
    assert Choice("a", "b") == Choice(["a", "b"])
    assert Regex("a") != Regex("b")
    assert json.loads(json.dumps(JSONSchema({"a": 1}).schema)) == {"a": 1}
