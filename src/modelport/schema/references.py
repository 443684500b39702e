"""The references in a JSON schema: whether they lead anywhere, and how they read from another place. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_REFERENCES = ("$ref", "$dynamicRef")
_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_DATA = {"const", "enum", "default", "examples"}


def moved(schema: Schema, place: str) -> Schema:
    """The schema as it reads as a part of another one, with its own definitions in it.

    Args:
        schema: Whose references begin at its own root.
        place: The JSON pointer to where it is put.
    """
    own = schema.get("$id", "")

    def anew(reference: str) -> str:
        inside = reference.removeprefix(own) or "#"
        return f"#{place}{inside[1:]}" if inside == "#" or inside.startswith("#/") else reference

    # A part that calls itself a document would have its references begin there.
    result: Schema = _referring({key: value for key, value in schema.items() if key not in ("$id", "$schema")}, anew)
    return result


def rooted(schema: Schema) -> Schema:
    """The schema with its definition in the place of a reference that is all of it.

    pydantic writes models that hold themselves so, and services look for the root's `type`.
    """
    reference = schema.get("$ref")
    for key in ("$defs", "definitions"):
        head, _, name = str(reference).partition(f"#/{key}/")
        definition = None if head else (schema.get(key) or {}).get(name)
        if isinstance(definition, dict) and "$ref" not in definition:
            return {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def unresolved(schema: Schema) -> str | None:
    """The first reference that leads nowhere within the schema; nothing is fetched."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    def first(resource: Resource[Any], resolver: Any) -> str | None:
        contents = resource.contents
        for key in _REFERENCES:
            reference = contents.get(key) if isinstance(contents, dict) else None
            if reference is None:
                continue
            try:
                resolver.lookup(reference)
            except Unresolvable:
                return str(reference)
        found = (first(part, resolver.in_subresource(part)) for part in resource.subresources())
        return next((reference for reference in found if reference is not None), None)

    whole = DRAFT202012.create_resource(schema)
    return first(whole, Registry().resolver_with_root(whole))


def _referring(part: Any, anew: Callable[[str], str]) -> Any:
    """The part with each of its references changed."""
    if isinstance(part, list):
        return [_referring(item, anew) for item in part]
    if not isinstance(part, dict) or "$id" in part:
        return part
    return {
        key: {name: _referring(item, anew) for name, item in value.items()} if key in _MAPS and isinstance(value, dict)
        else anew(value) if key in _REFERENCES and isinstance(value, str)
        else value if key in _DATA
        else _referring(value, anew)
        for key, value in part.items()
    }  # fmt: skip
