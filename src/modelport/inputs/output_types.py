"""Callers' spellings of output types: `grammar` and `response_format`."""

from __future__ import annotations

import json
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.python_types import schema_of
from modelport.schema.rules import CONSTRAINTS
from modelport.schema.validation import _checked
from modelport.types.output_types import Grammar, JSONSchema, Regex

#: A dict that has none of them is hardly meant for a schema.
_SCHEMA_KEYS = CONSTRAINTS | {
    "type", "properties", "required", "additionalProperties", "patternProperties", "items", "prefixItems", "enum",
    "const", "anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "$defs", "$schema",
}  # fmt: skip


def grammar_from(value: Any) -> Grammar:
    """The grammar that a caller's `grammar` argument means.

    Args:
        value: One of `JSONSchema`, `Regex`, `Choice`, `Lark`; a JSON schema as a dict; a pydantic model, dataclass,
            TypedDict, Enum, Literal or other type; or `{"type": "json" | "regex", "value": …}`, the form of
            https://huggingface.co/docs/text-generation-inference/conceptual/guidance

    Raises:
        InvalidRequest: It is none of these.
    """
    if isinstance(value, JSONSchema) and value.type is None:
        _checked(value.schema)
    if isinstance(value, Grammar):
        return value
    if isinstance(value, str):
        raise InvalidRequest(
            f"grammar={value!r} is a bare string, which could mean many things: write Regex({value!r}), "
            f"Choice({value!r}, …) or Lark(…)"
        )
    if isinstance(value, dict):
        return _from_dict(value)
    return _from_type(value)


def grammar_from_response_format(value: Any) -> Grammar | None:
    """The grammar that OpenAI's `response_format` means; `None` for plain text.

    Raises:
        InvalidRequest: It is no form of `response_format`.
    """
    if isinstance(value, type):
        return _from_type(value)  # OpenAI's SDK takes a pydantic model here.
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return JSONSchema({"type": "object"}, name="json_object")
    if kind == "json_schema":
        inner = value.get("json_schema")
        name = (inner.get("name") or "answer") if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict) and isinstance(name, str):
            return JSONSchema(_checked(inner["schema"]), name=name)
        raise InvalidRequest("response_format['json_schema'] needs a 'schema' (a dict) and a 'name'")
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"response_format={value!r}: it takes a dict in OpenAI's form or a pydantic model; for another form write "
            "grammar=…"
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
            return JSONSchema(_checked(json.loads(inner) if isinstance(inner, str) else inner))
        except ValueError as error:
            raise InvalidRequest(f"grammar['value'] is a string and no JSON: {error}") from None
    if kind == "json_schema" and "json_schema" in value:
        grammar = grammar_from_response_format(value)
        assert grammar is not None
        return grammar
    if not _SCHEMA_KEYS & set(value):
        raise InvalidRequest(
            f"grammar is a dict with the keys {sorted(map(str, value))}, which is no JSON schema; a schema has at "
            "least a 'type', 'properties', 'enum', 'anyOf' or '$ref'"
        )
    return JSONSchema(_checked(value))


def _from_type(kind: Any) -> JSONSchema:
    schema, name = schema_of(kind)
    return JSONSchema(schema, name=name, type=kind)
