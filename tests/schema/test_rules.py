"""Schemas rewritten to a service's subset: they allow only values of the original, except where a warning says so."""

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
from modelport.schema.rules import CONSTRAINTS, SchemaRules, UnsupportedSchema, remove_optional_nulls
from modelport.schema.validation import mismatch
from modelport.types.capabilities import Capabilities
from tests.properties import examples

CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def without_optional_nulls(schema: Any, value: Any) -> Any:
    return remove_optional_nulls(schema, value, lambda part, item: mismatch(part, item) is None)


@pytest.mark.parametrize("rules", [OPENAI, AZURE, BEDROCK, SchemaRules()])
def test_rewrite_schema_of_the_subset_is_unchanged(rules: SchemaRules) -> None:
    rewritten = rules.rewrite(CLOSED)
    assert (rewritten.schema, rewritten.left_out) == (CLOSED, ())


@pytest.mark.parametrize(
    ("schema", "supported"),
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
def test_rewrite_returns_valid_schema_or_raises_unsupported_schema(schema: dict[str, Any], supported: bool) -> None:
    before = copy.deepcopy(schema)
    if supported:
        Draft202012Validator.check_schema(SchemaRules().rewrite(schema).schema)
    else:
        with pytest.raises(UnsupportedSchema):
            SchemaRules().rewrite(schema)
    assert schema == before


def test_rewrite_all_required_makes_optional_properties_nullable() -> None:
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
    rewritten = OPENAI.rewrite(schema)
    nulls = {"type": "null"}
    place = {
        "type": "object",
        "properties": {"zip": {"anyOf": [{"type": "string"}, nulls]}},
        "required": ["zip"],
        "additionalProperties": False,
    }
    assert rewritten.schema == {
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
    assert rewritten.left_out == ("maxLength",)
    assert is_strict(rewritten.schema)
    value = {"name": "Ann", "age": None, "mood": None, "nick": None, "home": {"zip": None}}
    assert mismatch(rewritten.schema, value) is None
    assert without_optional_nulls(schema, value) == {
        "name": "Ann",
        "nick": None,
        "home": {},
    }  # The original schema allows null for `nick`.


@pytest.mark.parametrize(
    ("schema", "error_text"),
    [
        ({"type": "array", "items": {"type": "string"}}, "must be an object"),
        ({"anyOf": [CLOSED, {**CLOSED, "title": "Other"}]}, "must be an object"),
        ({"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(101)}}, "101 properties"),
        ({"type": "object", "properties": {"a": {"enum": [*range(501)]}}}, "501 enum values"),
    ],
)
def test_rewrite_schema_beyond_limits_raises(schema: dict[str, Any], error_text: str) -> None:
    with pytest.raises(UnsupportedSchema, match=error_text):
        AZURE.rewrite(schema)


def test_rewrite_schema_deeper_than_max_depth_raises() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(6):
        schema = {"type": "object", "properties": {"a": schema}}
    assert OPENAI.rewrite(schema)
    with pytest.raises(UnsupportedSchema, match="deeper than 5"):
        AZURE.rewrite(schema)


def test_rewrite_recursive_schema_is_supported_only_with_recursive() -> None:
    tree = {"$ref": "#/$defs/T", "$defs": {"T": {"type": "object", "properties": {
        "left": {"$ref": "#/$defs/T"}, "value": {"type": "integer"}}, "required": ["value"]}}}  # fmt: skip
    with pytest.raises(UnsupportedSchema, match="itself"):
        BEDROCK.rewrite(tree)
    root = {**tree["$defs"]["T"], "$defs": tree["$defs"]}  # type: ignore[index, dict-item]
    rewritten = OPENAI.rewrite(root).schema
    value = {"value": 1, "left": {"value": 2, "left": None}}
    assert mismatch(rewritten, value) is None
    assert without_optional_nulls(root, value) == {"value": 1, "left": {"value": 2}}


def test_remove_optional_nulls_follows_the_branch_of_the_value() -> None:
    cat = {
        "type": "object",
        "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
        "required": ["kind"],
    }
    dog = {"type": "object", "properties": {"kind": {"const": "dog"}, "lives": {"type": ["integer", "null"]}},
           "required": ["kind", "lives"]}  # fmt: skip
    schema = {"type": "array", "items": {"oneOf": [cat, dog], "discriminator": {"propertyName": "kind"}}}
    assert without_optional_nulls(schema, [{"kind": "cat", "lives": None}, {"kind": "dog", "lives": None}]) == [
        {"kind": "cat"}, {"kind": "dog", "lives": None},
    ]  # fmt: skip


def test_rewrite_one_of_with_disjoint_types_is_not_left_out() -> None:
    assert SchemaRules().rewrite({"oneOf": [{"type": "string"}, {"type": "null"}]}).left_out == ()
    assert SchemaRules().rewrite({"oneOf": [{"type": "integer"}, {"type": "number"}]}).left_out == ("oneOf",)


def test_rewrite_any_object_is_supported_only_with_any_object() -> None:
    assert OPENAI.rewrite({"type": "object"}).schema == {"type": "object"}
    with pytest.raises(UnsupportedSchema):
        BEDROCK.rewrite({"type": "object"})


def test_schema_rules_in_capabilities_round_trip_through_json() -> None:
    declared = Capabilities(schema_rules=OPENAI)
    assert Capabilities(**json.loads(json.dumps(declared.to_dict()))).schema_rules == OPENAI
    with pytest.raises(InvalidRequest, match="'keyword' is not a rule"):
        Capabilities(schema_rules={"keyword": ["pattern"]})  # type: ignore[arg-type]


LEAVES = st.sampled_from([
    {"type": "string"}, {"type": "string", "minLength": 2}, {"type": "integer", "minimum": 1}, {"type": "null"},
    {"enum": ["a", 1, None]}, {"const": "x"}, {"type": ["boolean", "null"]}, {"type": "string", "format": "date"},
])  # fmt: skip


def _objects(parts: Any) -> Any:
    names = st.lists(st.sampled_from("abc"), unique=True, min_size=1)

    def make(names: list[str], parts: list[Any], flags: list[bool]) -> dict[str, Any]:
        required = [name for name, is_required in zip(names, flags, strict=False) if is_required]
        return {"type": "object", "properties": dict(zip(names, parts, strict=False)), "required": required}

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
    """Return a random value of a rewritten schema, which has only the structure and no other keywords."""
    if "anyOf" in schema:
        return value_of(draw(st.sampled_from(schema["anyOf"])), draw)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if "const" in schema:
        return schema["const"]
    types = schema["type"]
    json_type = types if isinstance(types, str) else draw(st.sampled_from(types))
    if json_type == "object":
        names = [n for n in schema["properties"] if n in schema["required"] or draw(st.booleans())]
        return {name: value_of(schema["properties"][name], draw) for name in names}
    if json_type == "array":
        return [value_of(schema["items"], draw) for _ in range(draw(st.integers(0, 2)))]
    return {"string": "2026-01-31", "integer": 3, "boolean": True, "null": None}[json_type]


@examples(100)
@given(SCHEMAS, st.sampled_from([OPENAI, AZURE, BEDROCK]), st.data())
def test_rewrite_values_of_rewritten_schema_are_valid_for_original(schema: Any, rules: SchemaRules, data: Any) -> None:
    original = {"type": "object", "properties": {"it": schema}, "required": ["it"]}
    rewritten = rules.rewrite(original)
    Draft202012Validator.check_schema(rewritten.schema)
    assert not rules.all_required or is_strict(rewritten.schema)
    assert set(rewritten.left_out) <= CONSTRAINTS | {"oneOf"}
    value = value_of(rewritten.schema, data.draw)
    assert mismatch(rewritten.schema, value) is None
    assert mismatch(original, without_optional_nulls(original, value) if rules.all_required else value) is None


def test_rewrite_warnings_name_what_is_checked_and_what_is_not() -> None:
    """A keyword that a warning calls checked makes validation fail for some value; the other keywords never do."""
    texts = {
        "a": {"type": "string", "format": "date", "maxLength": 20},
        "b": {"type": "string", "format": "iri", "contentEncoding": "base64"},
        "c": {"type": "string", "contentMediaType": "application/json"},
    }
    schema = {"type": "object", "properties": texts, "required": [*"abc"]}
    rewritten = SchemaRules().rewrite(schema)
    assert rewritten.left_out == ("contentEncoding", "contentMediaType", "format", "format='iri'", "maxLength")
    assert rewritten.warnings == (
        "The schema's format, maxLength are checked, not enforced.",
        "The schema's contentEncoding, contentMediaType, format='iri' are neither enforced nor checked.",
    )
    valid = {"a": "2024-01-01", "b": "nope nope", "c": "{"}
    assert mismatch(schema, valid) is None
    assert mismatch(schema, {**valid, "a": "banana"}) == "at $.a: 'banana' is not a 'date'"
    assert SchemaRules(formats=frozenset({"date", "iri"})).rewrite(
        {**schema, "properties": {"a": texts["a"]}, "required": []}
    ).warnings == ("The schema's maxLength is checked, not enforced.",)
    assert SchemaRules().rewrite({"type": "integer"}).warnings == ()
    dependent = {"type": "integer", "dependencies": {"a": ["b"]}}
    assert SchemaRules().rewrite(dependent).unchecked == ("dependencies",)
    assert mismatch({"dependencies": {"a": ["b"]}}, {"a": 1}) is None
