"""Writes the fields of a body that request structured output.

OpenAI's API takes a JSON schema as `response_format`. It takes any other output type (regular expression, choice, Lark
grammar) only as the input format of a custom tool, which the model is then forced to call. A server's dialect may
request an output type by other fields (`Dialect.output_fields`).
"""

from __future__ import annotations

from typing import Any

from modelport.constrained.lark import as_lark
from modelport.protocols.chat_completions.dialects import Dialect
from modelport.schema.rules import is_any_object
from modelport.types.output_types import Grammar, JSONSchema, Regex

#: The name of the custom tool. What the model writes as input for this tool is the output of the call.
OUTPUT_TOOL = "give_answer"


def output_fields(output_type: Grammar, dialect: Dialect) -> dict[str, Any]:
    """Return the fields of a body that request this output type."""
    if dialect.output_fields is not None and (fields := dialect.output_fields(output_type)) is not None:
        return fields
    if isinstance(output_type, JSONSchema):
        return _schema_fields(output_type)
    return _custom_tool_fields(output_type)


def _schema_fields(output_type: JSONSchema) -> dict[str, Any]:
    if is_any_object(output_type.schema):
        # Strict mode requires `additionalProperties: false`, so it can't express "any object". JSON mode can.
        return {"response_format": {"type": "json_object"}}
    schema = {"name": output_type.name, "schema": output_type.schema, "strict": is_strict(output_type.schema)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _custom_tool_fields(output_type: Grammar) -> dict[str, Any]:
    """Return the fields that force a call of `OUTPUT_TOOL`, whose input OpenAI constrains to a grammar.

    OpenAI takes regular expressions and Lark grammars in llguidance's syntax, in which modelport also writes them for
    local engines.

    See https://developers.openai.com/api/docs/guides/function-calling#context-free-grammars
    """
    if isinstance(output_type, Regex):
        syntax, definition = "regex", output_type.for_engines()
    else:
        syntax, definition = "lark", as_lark(output_type)
    input_format = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    custom = {"name": OUTPUT_TOOL, "description": "Give the answer through this tool.", "format": input_format}
    return {
        "tools": [{"type": "custom", "custom": custom}],
        "tool_choice": {"type": "custom", "custom": {"name": OUTPUT_TOOL}},
    }


def is_strict(schema: Any) -> bool:
    """Return whether OpenAI's strict mode accepts the schema.

    Strict mode requires `additionalProperties: false` in each object, and every property in `required`.

    See https://platform.openai.com/docs/guides/structured-outputs#supported-schemas

    Args:
        schema: A JSON schema, or any value inside one.
    """
    if isinstance(schema, list):
        return all(map(is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
        return all(map(is_strict, properties.values())) and is_strict(schema.get("$defs", {}))
    return all(is_strict(value) for key, value in schema.items() if key not in ("const", "enum", "default", "examples"))
