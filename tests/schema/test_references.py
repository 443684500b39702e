"""References in JSON schemas: found where they lead nowhere, and changed where the schema moves."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from modelport.schema.references import moved, rooted, unresolved

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
def test_a_reference_that_leads_nowhere_is_found(schema: dict[str, Any], reference: str | None) -> None:
    assert unresolved(schema) == reference


def test_a_root_that_is_a_reference_is_put_in_its_place() -> None:
    for key in ("$defs", "definitions"):
        schema = {"$ref": f"#/{key}/Node", "title": "Mine", key: {"Node": NODE}}
        assert rooted(schema) == {**NODE, "title": "Mine", key: {"Node": NODE}}


@pytest.mark.parametrize(
    "schema",
    [{"type": "object"}, {"$ref": "#"}, {"$ref": "#/$defs/no"}, {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#"}}}],
)
def test_other_roots_stay(schema: dict[str, Any]) -> None:
    assert rooted(schema) is schema


def test_what_moves_refers_to_its_new_place() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "properties": {"a": {"$ref": "#"}, "b": {"anyOf": [{"$ref": "#/$defs/B"}, {"$ref": "#anchor"}]}},
        "$defs": {"B": {"$id": "https://e.com/b", "items": {"$ref": "#"}}},
        "default": {"$ref": "#"},
    }
    before = copy.deepcopy(schema)
    assert moved(schema, "/x") == {
        "properties": {"a": {"$ref": "#/x"}, "b": {"anyOf": [{"$ref": "#/x/$defs/B"}, {"$ref": "#anchor"}]}},
        "$defs": {"B": {"$id": "https://e.com/b", "items": {"$ref": "#"}}},
        "default": {"$ref": "#"},
    }
    assert schema == before
