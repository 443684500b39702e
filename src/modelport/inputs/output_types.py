"""Converts the arguments `grammar` and `response_format` to output types, such as `JSONSchema`."""

from __future__ import annotations

import json
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.python_types import schema_from_type
from modelport.schema.rules import CONSTRAINTS
from modelport.schema.validation import checked_schema
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex

#: A dict is a JSON schema if it has one of these keywords.
_SCHEMA_KEYS = CONSTRAINTS | {
    "type", "properties", "required", "additionalProperties", "patternProperties", "items", "prefixItems", "enum",
    "const", "anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "$defs", "$schema",
}  # fmt: skip


def grammar_from(value: Any, name: str = "grammar") -> Grammar | None:
    """Return the output type from a caller's `grammar` or `response_format` argument; `None` for plain text.

    Args:
        value: A `JSONSchema`, `Regex`, `Choice` or `Lark`; a JSON schema as a dict; a pydantic model, dataclass,
            TypedDict, Enum, Literal or other type; a `response_format` of the chat completions API (see
            https://platform.openai.com/docs/guides/structured-outputs); `{"type": "json" | "regex", "value": …}`, the
            format of https://huggingface.co/docs/text-generation-inference/conceptual/guidance; or a dict that
            `to_dict` of an output type returned
        name: The name of the argument, for errors.

    Raises:
        InvalidRequest: `value` is none of these, or its schema or regular expression is not valid.
    """
    if isinstance(value, JSONSchema) and value.type is None:
        checked_schema(value.schema)
    if isinstance(value, Grammar):
        return value
    if isinstance(value, str):
        raise InvalidRequest(
            f"{name}={value!r} is a bare string, whose meaning is not clear: write Regex({value!r}), "
            f"Choice({value!r}, …) or Lark(…)"
        )
    if isinstance(value, dict):
        return _from_dict(value, name)
    schema, title = schema_from_type(value, name)
    return JSONSchema(schema, name=title, type=value)


def _from_dict(value: dict[str, Any], name: str) -> Grammar | None:
    kind = value.get("type")
    if kind == "text":
        return None
    if "value" in value and kind in ("json", "json_object", "regex", "choice", "lark"):
        inner = value["value"]
        if kind == "regex":
            return Regex(inner)
        if kind == "choice":
            return Choice(inner)
        if kind == "lark":
            return Lark(inner)
        try:
            return JSONSchema(checked_schema(json.loads(inner) if isinstance(inner, str) else inner))
        except ValueError as error:
            raise InvalidRequest(f"{name}['value'] is a string that is not valid JSON: {error}") from None
    if kind == "json_object" and isinstance(value.get("schema"), dict):  # As some compatible servers take a schema.
        return JSONSchema(checked_schema(value["schema"]))
    if kind == "json_object":
        return JSONSchema({"type": "object"}, name="json_object")
    if kind == "json_schema":
        inner = value.get("json_schema")
        title = (inner.get("name") or "answer") if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict) and isinstance(title, str):
            return JSONSchema(checked_schema(inner["schema"]), name=title)
        raise InvalidRequest(f"{name}['json_schema'] needs a 'schema' (a dict) and a 'name'")
    if not _SCHEMA_KEYS & set(value):
        raise InvalidRequest(
            f"{name} is a dict with the keys {sorted(map(str, value))}, which is not a JSON schema; a schema has at "
            "least a 'type', 'properties', 'enum', 'anyOf' or '$ref'"
        )
    return JSONSchema(checked_schema(value))
