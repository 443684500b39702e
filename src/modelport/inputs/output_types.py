"""Converts the arguments `grammar` and `response_format` to output types, such as `JSONSchema`."""

from __future__ import annotations

import json
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.python_types import schema_from_type
from modelport.schema.rules import CONSTRAINTS
from modelport.schema.validation import checked_schema
from modelport.types.output_types import Grammar, JSONSchema, Regex

#: A dict is a JSON schema if it has one of these keywords.
_SCHEMA_KEYS = CONSTRAINTS | {
    "type", "properties", "required", "additionalProperties", "patternProperties", "items", "prefixItems", "enum",
    "const", "anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "$defs", "$schema",
}  # fmt: skip


def grammar_from(value: Any) -> Grammar:
    """Return the output type from a caller's `grammar` argument.

    Args:
        value: A `JSONSchema`, `Regex`, `Choice` or `Lark`; a JSON schema as a dict; a pydantic model, dataclass,
            TypedDict, Enum, Literal or other type; or `{"type": "json" | "regex", "value": …}`, the format of
            https://huggingface.co/docs/text-generation-inference/conceptual/guidance

    Raises:
        InvalidRequest: `value` is none of these, or its schema or regular expression is not valid.
    """
    if isinstance(value, JSONSchema) and value.type is None:
        checked_schema(value.schema)
    if isinstance(value, Grammar):
        return value
    if isinstance(value, str):
        raise InvalidRequest(
            f"grammar={value!r} is a bare string, whose meaning is not clear: write Regex({value!r}), "
            f"Choice({value!r}, …) or Lark(…)"
        )
    if isinstance(value, dict):
        return _from_dict(value)
    return _from_type(value)


def grammar_from_response_format(value: Any) -> Grammar | None:
    """Return the output type from a caller's `response_format` argument; `None` for plain text.

    Args:
        value: A `response_format` of the chat completions API, or a pydantic model, as OpenAI's SDK accepts it. See
            https://platform.openai.com/docs/guides/structured-outputs

    Raises:
        InvalidRequest: `value` is neither, or its schema is not valid.
    """
    if isinstance(value, type):
        return _from_type(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return JSONSchema({"type": "object"}, name="json_object")
    if kind == "json_schema":
        inner = value.get("json_schema")
        name = (inner.get("name") or "answer") if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict) and isinstance(name, str):
            return JSONSchema(checked_schema(inner["schema"]), name=name)
        raise InvalidRequest("response_format['json_schema'] needs a 'schema' (a dict) and a 'name'")
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"response_format={value!r}: must be a dict with a 'type', or a pydantic model; for another output type "
            "write grammar=…"
        )
    raise InvalidRequest(
        f"response_format's type is {kind!r}; it must be 'text', 'json_object' or 'json_schema' "
        "(see https://platform.openai.com/docs/guides/structured-outputs)"
    )


def _from_dict(value: dict[str, Any]) -> Grammar:
    kind = value.get("type")
    if "value" in value and kind in ("json", "json_object", "regex"):
        inner = value["value"]
        if kind == "regex":
            return Regex(inner)
        try:
            return JSONSchema(checked_schema(json.loads(inner) if isinstance(inner, str) else inner))
        except ValueError as error:
            raise InvalidRequest(f"grammar['value'] is a string that is not valid JSON: {error}") from None
    if kind == "json_schema" and "json_schema" in value:
        grammar = grammar_from_response_format(value)
        assert grammar is not None
        return grammar
    if not _SCHEMA_KEYS & set(value):
        raise InvalidRequest(
            f"grammar is a dict with the keys {sorted(map(str, value))}, which is not a JSON schema; a schema has at "
            "least a 'type', 'properties', 'enum', 'anyOf' or '$ref'"
        )
    return JSONSchema(checked_schema(value))


def _from_type(python_type: Any) -> JSONSchema:
    schema, name = schema_from_type(python_type)
    return JSONSchema(schema, name=name, type=python_type)
