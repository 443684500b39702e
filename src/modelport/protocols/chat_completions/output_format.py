"""Writes the fields of a body that request structured output.

OpenAI's API takes a JSON schema as `response_format`. It takes any other output type (regular expression, choice, Lark
grammar) only as the input format of a custom tool, which the model is then forced to call. A server's dialect may
request an output type by other fields (`Dialect.output_fields`).
"""

from __future__ import annotations

from typing import Any

from modelport.protocols.chat_completions.dialects import Dialect
from modelport.protocols.openai_output import OUTPUT_TOOL as OUTPUT_TOOL
from modelport.protocols.openai_output import OUTPUT_TOOL_DESCRIPTION, custom_tool_grammar, is_strict
from modelport.schema.rules import is_any_object
from modelport.types.output_types import Grammar, JSONSchema


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
    """Return the fields that force a call of `OUTPUT_TOOL`, whose input OpenAI constrains to a grammar."""
    input_format = {"type": "grammar", "grammar": custom_tool_grammar(output_type)}
    custom = {"name": OUTPUT_TOOL, "description": OUTPUT_TOOL_DESCRIPTION, "format": input_format}
    return {
        "tools": [{"type": "custom", "custom": custom}],
        "tool_choice": {"type": "custom", "custom": {"name": OUTPUT_TOOL}},
    }
