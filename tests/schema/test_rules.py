"""A schema in a service's subset: what is said there is said of the original, or named as left out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from modelport.errors import InvalidRequest
from modelport.protocols.chat_completions.output_format import is_strict
from modelport.remote.schema_subsets import AZURE, BEDROCK, OPENAI
from modelport.schema.rules import CONSTRAINTS, SchemaRules, UnsupportedSchema, without_nulls
from modelport.schema.validation import mismatch
from modelport.types.capabilities import Capabilities

CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def cleaned(schema: Any, value: Any) -> Any:
    return without_nulls(schema, value, lambda part, item: mismatch(part, item) is None)


@pytest.mark.parametrize("rules", [OPENAI, AZURE, BEDROCK, SchemaRules()])
def test_a_schema_of_the_subset_stays_as_it_is(rules: SchemaRules) -> None:
    fitted = rules.rewrite(CLOSED)
    assert (fitted.schema, fitted.left_out) == (CLOSED, ())


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}}, True),
        ({"type": "object", "additionalProperties": False}, True),
        ({"type": "object"}, False),
        ({"type": "object", "properties": {}}, False),
        ({"type": "object", "properties": {"a": {}}}, False),
        ({"type": "object", "properties": {"a": True}}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True}, False),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "patternProperties": {"x": {}}}, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}, False),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, True),
        ({"type": "array"}, False),
        ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "string"}}, False),
        ({"anyOf": [{"type": ["string", "null"]}, {"const": 1}]}, True),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, True),
        ({"$ref": "#/$defs/b", "$defs": {"a": {"type": "string"}}}, False),
        ({"$ref": "https://example.com/a.json"}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, False),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, False),
        ({"allOf": [{"type": "string"}]}, True),
    ],
)
def test_what_can_be_said_in_a_subset(schema: dict[str, Any], fits: bool) -> None:
    before = copy.deepcopy(schema)
    if fits:
        Draft202012Validator.check_schema(SchemaRules().rewrite(schema).schema)
    else:
        with pytest.raises(UnsupportedSchema):
            SchemaRules().rewrite(schema)
    assert schema == before


def test_openai_wants_every_property_and_takes_null_for_those_left_out() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 9, "description": "Who."},
            "age": {"type": "integer", "minimum": 0, "default": 3},
            "mood": {"enum": ["good", "bad"]},
            "nick": {"type": ["string", "null"]},
            "home": {"$ref": "#/$defs/Place", "description": "Where."},
        },
        "required": ["name"],
        "$defs": {"Place": {"type": "object", "properties": {"zip": {"type": "string"}}}},
    }
    fitted = OPENAI.rewrite(schema)
    nulls = {"type": "null"}
    place = {
        "type": "object",
        "properties": {"zip": {"anyOf": [{"type": "string"}, nulls]}},
        "required": ["zip"],
        "additionalProperties": False,
    }
    assert fitted.schema == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": 'Who. {"maxLength": 9}'},
            "age": {"anyOf": [{"type": "integer", "minimum": 0}, nulls]},
            "mood": {"anyOf": [{"enum": ["good", "bad"], "type": "string"}, nulls]},
            "nick": {"type": ["string", "null"]},
            "home": {"anyOf": [{"anyOf": [{"$ref": "#/$defs/Place"}]}, nulls], "description": "Where."},
        },
        "required": ["name", "age", "mood", "nick", "home"],
        "additionalProperties": False,
        "$defs": {"Place": place},
    }
    assert fitted.left_out == ("maxLength",)
    assert is_strict(fitted.schema)
    answer = {"name": "Ann", "age": None, "mood": None, "nick": None, "home": {"zip": None}}
    assert mismatch(fitted.schema, answer) is None
    assert cleaned(schema, answer) == {"name": "Ann", "nick": None, "home": {}}  # a nick may be null by itself


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "items": {"type": "string"}}, "must be an object"),
        ({"anyOf": [CLOSED, {**CLOSED, "title": "Other"}]}, "must be an object"),
        ({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(101)}}, "101 properties"),
        ({"type": "object", "properties": {"a": {"enum": [*range(501)]}}}, "501 enum values"),
    ],
)
def test_limits_of_a_service(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedSchema, match=says):
        AZURE.rewrite(schema)


def test_depth() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(6):
        schema = {"type": "object", "properties": {"a": schema}}
    assert OPENAI.rewrite(schema)
    with pytest.raises(UnsupportedSchema, match="deeper than 5"):
        AZURE.rewrite(schema)


def test_a_schema_may_refer_to_itself_where_the_service_says_so() -> None:
    tree = {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {
        "left": {"$ref": "#/$defs/T"}, "value": {"type": "integer"}}, "required": ["value"]}}}  # fmt: skip
    with pytest.raises(UnsupportedSchema, match="itself"):
        BEDROCK.rewrite(tree)
    root = {**tree["$defs"]["T"], "$defs": tree["$defs"]}  # type: ignore[index, dict-item]
    fitted = OPENAI.rewrite(root).schema
    value = {"value": 1, "left": {"value": 2, "left": None}}
    assert mismatch(fitted, value) is None
    assert cleaned(root, value) == {"value": 1, "left": {"value": 2}}


def test_nulls_go_by_the_branch_that_the_value_is_of() -> None:
    cat = {
        "type": "object",
        "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
        "required": ["kind"],
    }
    dog = {"type": "object", "properties": {"kind": {"const": "dog"}, "lives": {"type": ["integer", "null"]}},
           "required": ["kind", "lives"]}  # fmt: skip
    schema = {"type": "array", "items": {"oneOf": [cat, dog], "discriminator": {"propertyName": "kind"}}}
    assert cleaned(schema, [{"kind": "cat", "lives": None}, {"kind": "dog", "lives": None}]) == [
        {"kind": "cat"}, {"kind": "dog", "lives": None},
    ]  # fmt: skip


def test_one_of_is_any_of_where_nothing_can_be_two_of_them() -> None:
    assert SchemaRules().rewrite({"oneOf": [{"type": "string"}, {"type": "null"}]}).left_out == ()
    assert SchemaRules().rewrite({"oneOf": [{"type": "integer"}, {"type": "number"}]}).left_out == ("oneOf",)


def test_any_object_at_all() -> None:
    assert OPENAI.rewrite({"type": "object"}).schema == {"type": "object"}
    with pytest.raises(UnsupportedSchema):
        BEDROCK.rewrite({"type": "object"})


def test_rules_are_declared_as_capabilities_and_saved() -> None:
    declared = Capabilities(schema_rules=OPENAI)
    assert Capabilities(**json.loads(json.dumps(declared.to_dict()))).schema_rules == OPENAI
    with pytest.raises(InvalidRequest, match="'keyword' is no rule"):
        Capabilities(schema_rules={"keyword": ["pattern"]})  # type: ignore[arg-type]


# --- anything at all --------------------------------------------------------------------------------------------------

LEAVES = st.sampled_from([
    {"type": "string"}, {"type": "string", "minLength": 2}, {"type": "integer", "minimum": 1}, {"type": "null"},
    {"enum": ["a", 1, None]}, {"const": "x"}, {"type": ["boolean", "null"]}, {"type": "string", "format": "date"},
])  # fmt: skip


def _objects(parts: Any) -> Any:
    names = st.lists(st.sampled_from("abc"), unique=True, min_size=1)

    def make(names: list[str], drawn: list[Any], need: list[bool]) -> dict[str, Any]:
        needed = [name for name, needs in zip(names, need, strict=False) if needs]
        return {"type": "object", "properties": dict(zip(names, drawn, strict=False)), "required": needed}

    return st.builds(make, names, st.lists(parts, min_size=3, max_size=3), st.lists(st.booleans(), min_size=3))


SCHEMAS = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        _objects(parts),
        st.builds(lambda part: {"type": "array", "items": part}, parts),
        st.builds(lambda options: {"anyOf": options}, st.lists(parts, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


def value_of(schema: dict[str, Any], draw: Any) -> Any:
    """A value of a fitted schema, without regard to what a service enforces beside its structure."""
    if "anyOf" in schema:
        return value_of(draw(st.sampled_from(schema["anyOf"])), draw)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if "const" in schema:
        return schema["const"]
    kinds = schema["type"]
    kind = kinds if isinstance(kinds, str) else draw(st.sampled_from(kinds))
    if kind == "object":
        needed = [n for n in schema["properties"] if n in schema["required"] or draw(st.booleans())]
        return {name: value_of(schema["properties"][name], draw) for name in needed}
    if kind == "array":
        return [value_of(schema["items"], draw) for _ in range(draw(st.integers(0, 2)))]
    return {"string": "2026-01-31", "integer": 3, "boolean": True, "null": None}[kind]


@given(SCHEMAS, st.sampled_from([OPENAI, AZURE, BEDROCK]), st.data())
def test_every_value_of_the_fitted_schema_is_one_of_the_original(schema: Any, rules: SchemaRules, data: Any) -> None:
    whole = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
    fitted = rules.rewrite(whole)
    Draft202012Validator.check_schema(fitted.schema)
    assert not rules.all_required or is_strict(fitted.schema)
    assert set(fitted.left_out) <= CONSTRAINTS | {"oneOf"}
    value = value_of(fitted.schema, data.draw)
    assert mismatch(fitted.schema, value) is None
    assert mismatch(whole, cleaned(whole, value) if rules.all_required else value) is None


def test_what_is_told_of_keywords_that_are_left_out_is_true() -> None:
    """Each keyword that is said to be checked makes the check refuse something, and no other does."""
    texts = {
        "a": {"type": "string", "format": "date", "maxLength": 20},
        "b": {"type": "string", "format": "iri", "contentEncoding": "base64"},
        "c": {"type": "string", "contentMediaType": "application/json"},
    }
    schema = {"type": "object", "properties": texts, "required": [*"abc"]}
    fitted = SchemaRules().rewrite(schema)
    assert fitted.left_out == ("contentEncoding", "contentMediaType", "format", "format='iri'", "maxLength")
    assert fitted.warnings == (
        "format, maxLength of the schema were checked, not enforced",
        "contentEncoding, contentMediaType, format='iri' of the schema were neither enforced nor checked",
    )
    right = {"a": "2024-01-01", "b": "nope nope", "c": "{"}
    assert mismatch(schema, right) is None
    assert mismatch(schema, {**right, "a": "banana"}) == "at $.a: 'banana' is not a 'date'"
    assert SchemaRules(formats=frozenset({"date", "iri"})).rewrite(
        {**schema, "properties": {"a": texts["a"]}, "required": []}
    ).warnings == ("maxLength of the schema were checked, not enforced",)
    assert SchemaRules().rewrite({"type": "integer"}).warnings == ()
    follows = {"type": "integer", "dependencies": {"a": ["b"]}}
    assert SchemaRules().rewrite(follows).unchecked == ("dependencies",)
    assert mismatch({"dependencies": {"a": ["b"]}}, {"a": 1}) is None
