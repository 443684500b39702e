"""Words to write schemas with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def text(pattern: str | None = None, **more: Any) -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def of(form: str) -> Schema:
    return {"type": "string", "format": form}


def integer(low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", **{key: value for key, value in bounds.items() if value is not None}, **more}


def number(low: float | None = None, high: float | None = None, **more: Any) -> Schema:
    return {**integer(low, high), "type": "number", **more}  # type: ignore[arg-type]


def one(*values: Any) -> Schema:
    return {"enum": list(values)}


def word(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def several(items: Schema, low: int | None = None, high: int | None = None, **more: Any) -> Schema:
    bounds = {"minItems": low, "maxItems": high}
    return {"type": "array", "items": items, **{k: v for k, v in bounds.items() if v is not None}, **more}


def table(values: Schema | bool = True, **more: Any) -> Schema:
    """An object with any keys."""
    return {"type": "object", "additionalProperties": values, **more}


def named(pattern: str, values: Schema, **more: Any) -> Schema:
    """An object whose keys follow a pattern."""
    return {"type": "object", "patternProperties": {pattern: values}, "additionalProperties": False, **more}


def ref(name: str, place: str = "$defs") -> Schema:
    return {"$ref": f"#/{place}/{name}"}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def obj(properties: Mapping[str, Any], **more: Any) -> Schema:
    """An object; a name that ends in `?` is that of an optional property."""
    required = [name for name in properties if not name.endswith("?")]
    listed = {name.removesuffix("?"): schema for name, schema in properties.items()}
    return {"type": "object", "properties": listed, **({"required": required} if required else {}), **more}


def closed(properties: Mapping[str, Any], **more: Any) -> Schema:
    return obj(properties, additionalProperties=False, **more)


def strict(schema: Any) -> Any:
    """Every object closed, its properties required and those that were optional nullable: a service's strict mode."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" not in schema:
        return {key: value if key in ("enum", "const") else strict(value) for key, value in schema.items()}
    needed = schema.get("required", [])
    listed = {
        name: strict(part) if name in needed else {"anyOf": [strict(part), NULL]}
        for name, part in schema["properties"].items()
    }
    return {**schema, "properties": listed, "required": list(listed), "additionalProperties": False}


def all_closed(schema: Any) -> Any:
    """Every object that lists its properties closed."""
    if isinstance(schema, list):
        return [all_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {
        key: {name: all_closed(part) for name, part in value.items()} if key in ("properties", "$defs", "definitions")
        else value if key in ("enum", "const") else all_closed(value)
        for key, value in schema.items()
    }  # fmt: skip
    return {**parts, "additionalProperties": False} if "properties" in schema and "type" in schema else parts
