"""References in JSON schemas: how unresolved ones are found, and how they change when a schema is relocated."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest

from modelport.schema.references import find_unresolved_reference, inline_root_reference, relocate
from modelport.schema.validation import mismatch

NODE: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}


@pytest.mark.parametrize(
    ("schema", "reference"),
    [
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}, None),
        ({"items": {"$ref": "#/definitions/a"}, "definitions": {"a": True}}, None),
        ({"items": {"$ref": "#a"}, "$defs": {"x": {"$anchor": "a"}}}, None),
        ({"$id": "https://e.com/a", "items": {"$ref": "a"}}, None),
        ({"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "#/no"}}, None),
        ({"$ref": "#/$defs/a"}, "#/$defs/a"),
        ({"anyOf": [True, {"properties": {"x": {"$ref": "https://e.com/x"}}}]}, "https://e.com/x"),
        ({"$defs": {"a": {"items": {"$ref": "#no"}}}}, "#no"),
    ],
)
def test_find_unresolved_reference_returns_first_or_none(schema: dict[str, Any], reference: str | None) -> None:
    assert find_unresolved_reference(schema) == reference


def test_inline_root_reference_replaces_root_by_definition() -> None:
    for key in ("$defs", "definitions"):
        schema = {"$ref": f"#/{key}/Node", "title": "Mine", key: {"Node": NODE}}
        assert inline_root_reference(schema) == {**NODE, "title": "Mine", key: {"Node": NODE}}


@pytest.mark.parametrize(
    "schema",
    [{"type": "object"}, {"$ref": "#"}, {"$ref": "#/$defs/no"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}],
)
def test_inline_root_reference_leaves_other_roots_unchanged(schema: dict[str, Any]) -> None:
    assert inline_root_reference(schema) is schema


def test_relocate_changes_references_to_new_path() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {"a": {"$ref": "#"}, "b": {"anyOf": [{"$ref": "#/$defs/B"}, {"$ref": "#anchor"}]}},
        "$defs": {"B": {"$id": "https://e.com/b", "items": {"$ref": "#"}}},
        "default": {"$ref": "#"},
    }
    before = copy.deepcopy(schema)
    assert relocate(schema, "/x") == {
        "properties": {"a": {"$ref": "#/x"}, "b": {"anyOf": [{"$ref": "#/x/$defs/B"}, {"$ref": "#anchor"}]}},
        "$defs": {"B": {"$id": "https://e.com/b", "items": {"$ref": "#"}}},
        "default": {"$ref": "#"},
    }
    assert schema == before


def test_inline_root_reference_ignores_definitions_that_are_no_dict() -> None:
    for schema in ({"$ref": "#/$defs/a", "$defs": ["a"]}, {"$ref": "#/definitions/a", "definitions": "a"}):
        assert inline_root_reference(schema) == schema


@pytest.mark.parametrize(
    ("definition", "reference"),
    [({"$anchor": "a{}"}, "#a{}"), ({"$dynamicAnchor": "a{}"}, "#a{}"), ({"$id": "http://a/{}"}, "http://a/{}")],
    ids=["anchor", "dynamic anchor", "document"],
)
def test_many_references_by_name_are_resolved_quickly(definition: dict[str, str], reference: str) -> None:
    """The whole schema was searched for each reference: 1000 of them took 15 s, before anything was sent."""
    definitions = {
        f"d{i}": {**{key: text.format(i) for key, text in definition.items()}, "type": "integer"} for i in range(500)
    }
    schema = {"$defs": definitions, "properties": {f"p{i}": {"$ref": reference.format(i)} for i in range(500)}}
    mismatch({}, 1)  # The modules are imported now.
    started = time.thread_time()
    assert find_unresolved_reference(schema) is None
    assert mismatch(schema, {f"p{i}": i for i in range(500)}) is None
    assert str(mismatch(schema, {"p9": "a"})).startswith("at $.p9")
    assert time.thread_time() - started < 0.5
