"""Pure functions that find, change or replace the references (`$ref`, `$dynamicRef`) in a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from modelport.schema.time_limit import check_time

Schema = dict[str, Any]

_REFERENCE_KEYWORDS = ("$ref", "$dynamicRef")
#: Keywords that give a part of the schema a name, as they are in JSON text.
_NAMING_KEYWORDS = ('"$id"', '"$anchor"', '"$dynamicAnchor"')
#: The names in a schema with more characters are not collected on an event loop; it takes up to 4 µs for 4 characters.
_LONG_SCHEMA = 10_000
#: Keywords whose value is a dict of schemas by name.
_SCHEMA_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
#: Keywords whose value is data, in which `$ref` is not a reference.
_DATA_KEYWORDS = {"const", "enum", "default", "examples"}


def relocate(schema: Schema, path: str) -> Schema:
    """Return the schema with its references changed so that it can be placed inside another schema.

    Args:
        schema: A complete schema, whose references start at its own root. Its definitions stay inside it.
        path: The JSON pointer to the location in the other schema where `schema` will be placed.
    """
    schema_id = schema.get("$id", "")

    def relocate_reference(reference: str) -> str:
        pointer = reference.removeprefix(schema_id) or "#"
        return f"#{path}{pointer[1:]}" if pointer == "#" or pointer.startswith("#/") else reference

    # If the schema kept its `$id`, it would remain a separate document inside the other schema, and validators would
    # resolve its references from its own root.
    content = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
    result: Schema = _change_references(content, relocate_reference)
    return result


def inline_root_reference(schema: Schema) -> Schema:
    """If the root of the schema is a reference to a definition, return the schema with that definition as its root.

    For a class that refers to itself, pydantic generates such a reference. But services require a `type` at the root.
    """
    reference = schema.get("$ref")
    for key in ("$defs", "definitions"):
        head, _, name = str(reference).partition(f"#/{key}/")
        definitions = schema.get(key)
        definition = definitions.get(name) if isinstance(definitions, dict) and not head else None
        if isinstance(definition, dict) and "$ref" not in definition:
            return {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def find_unresolved_reference(schema: Schema) -> str | None:
    """Return the first reference whose target is not in the schema, or `None`. No URL is fetched."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable

    text = json.dumps(schema)
    if not any(f'"{keyword}"' in text for keyword in _REFERENCE_KEYWORDS):
        return None
    found_references: set[tuple[str, str]] = set()

    def find_first(resource: Resource[Any], resolver: Any) -> str | None:
        contents = resource.contents
        for keyword in _REFERENCE_KEYWORDS:
            reference = contents.get(keyword) if isinstance(contents, dict) else None
            if reference is None or (key := (resolver._base_uri, reference)) in found_references:
                continue
            try:
                resolver.lookup(reference)
                found_references.add(key)
            except Unresolvable:
                return str(reference)
        found = (find_first(part, resolver.in_subresource(part)) for part in resource.subresources())
        return next((reference for reference in found if reference is not None), None)

    resolver = resolver_for(schema, Registry())
    return find_first(_as_resource(schema), resolver)


def resolver_for(schema: Schema, registry: Any) -> Any:
    """Return the resolver of the references in a schema.

    References may name an anchor or a document inside of the schema. The `referencing` package would search the whole
    schema for each such reference, which takes 15 s for 1000 of them. So all names are collected at once.

    Args:
        schema: A complete schema.
        registry: A `Registry` of the `referencing` package, with other documents.
    """
    root = _as_resource(schema)
    uri = root.id() or ""
    registry = registry.with_resource(uri, root)
    text = json.dumps(schema)
    if any(keyword in text for keyword in _NAMING_KEYWORDS):
        check_time(long_step=len(text) > _LONG_SCHEMA)
        registry = registry.crawl()
    return registry.resolver(uri)


def _as_resource(schema: Schema) -> Any:
    from referencing.jsonschema import DRAFT202012

    return DRAFT202012.create_resource(schema)


def _change_references(part: Any, change: Callable[[str], str]) -> Any:
    """Return a part of a schema with `change` applied to each reference.

    A part with an `$id` is a separate document with references of its own, and is returned unchanged.
    """
    if isinstance(part, list):
        return [_change_references(item, change) for item in part]
    if not isinstance(part, dict) or "$id" in part:
        return part
    return {
        key: {name: _change_references(item, change) for name, item in value.items()}
        if key in _SCHEMA_MAPS and isinstance(value, dict)
        else change(value) if key in _REFERENCE_KEYWORDS and isinstance(value, str)
        else value if key in _DATA_KEYWORDS
        else _change_references(value, change)
        for key, value in part.items()
    }  # fmt: skip
