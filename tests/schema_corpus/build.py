"""Functions that build JSON schemas in short notation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def text(pattern: str | None = None, **more: Any) -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def string_of(format_name: str) -> Schema:
    return {"type": "string", "format": format_name}


def integer(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", **{key: value for key, value in bounds.items() if value is not None}, **more}


def number(low: float | None = None, high: float | None = None, **more: Any) -> Schema:
    return {**integer(low, high), "type": "number", **more}  # type: ignore[arg-type]


def enum(*values: Any) -> Schema:
    return {"enum": list(values)}


def string_enum(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def array(items: Schema, low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minItems": low, "maxItems": high}
    return {"type": "array", "items": items, **{k: v for k, v in bounds.items() if v is not None}, **more}


def map_of(values: Schema | bool = True, **more: Any) -> Schema:
    """Return the schema of an object with any keys."""
    return {"type": "object", "additionalProperties": values, **more}


def pattern_map(pattern: str, values: Schema, **more: Any) -> Schema:
    """Return the schema of an object whose keys match a pattern."""
    return {"type": "object", "patternProperties": {pattern: values}, "additionalProperties": False, **more}


def ref(name: str, keyword: str = "$defs") -> Schema:
    return {"$ref": f"#/{keyword}/{name}"}


def any_of(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def obj(properties: Mapping[str, Any], **more: Any) -> Schema:
    """Return the schema of an object. A name that ends in `?` stands for an optional property."""
    required = [name for name in properties if not name.endswith("?")]
    properties_by_name = {name.removesuffix("?"): schema for name, schema in properties.items()}
    return {"type": "object", "properties": properties_by_name, **({"required": required} if required else {}), **more}


def closed_obj(properties: Mapping[str, Any], **more: Any) -> Schema:
    return obj(properties, additionalProperties=False, **more)


def to_strict(schema: Any) -> Any:
    """Return the schema in the strict subset of services: closed objects, all required, optional ones nullable."""
    if isinstance(schema, list):
        return [to_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" not in schema:
        return {key: value if key in ("enum", "const") else to_strict(value) for key, value in schema.items()}
    required = schema.get("required", [])
    properties = {
        name: to_strict(part) if name in required else {"anyOf": [to_strict(part), NULL]}
        for name, part in schema["properties"].items()
    }
    return {**schema, "properties": properties, "required": list(properties), "additionalProperties": False}


_SCHEMA_MAPS = ("properties", "$defs", "definitions")


def with_closed_objects(schema: Any) -> Any:
    """Return the schema with `additionalProperties: false` in each object that lists its properties."""
    if isinstance(schema, list):
        return [with_closed_objects(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {
        key: {name: with_closed_objects(part) for name, part in value.items()} if key in _SCHEMA_MAPS
        else value if key in ("enum", "const") else with_closed_objects(value)
        for key, value in schema.items()
    }  # fmt: skip
    return {**parts, "additionalProperties": False} if "properties" in schema and "type" in schema else parts


def with_definitions(schema: Schema, parts: Mapping[str, Schema]) -> Schema:
    """Return the schema with the definitions of the parts to which it refers, directly or through other parts."""
    definitions: dict[str, Schema] = {}
    unread = [schema]
    while unread:
        text_of_schema = str(unread.pop())
        for name, part in parts.items():
            if f"'#/$defs/{name}'" in text_of_schema and name not in definitions:
                definitions[name] = part
                unread.append(part)
    return {**schema, **({"$defs": definitions} if definitions else {})}
