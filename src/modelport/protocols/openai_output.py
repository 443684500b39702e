"""What OpenAI's two wire formats have in common in structured output: strict schemas, and grammars as a custom tool.

Both take a JSON schema as a response format. They take any other output type (regular expression, choice, Lark grammar)
only as the input format of a custom tool, which the model is then forced to call.
"""

from __future__ import annotations

from typing import Any

from modelport.constrained.lark import as_lark
from modelport.types.output_types import Grammar, Regex

#: The name of the custom tool. What the model writes as input for this tool is the output of the call.
OUTPUT_TOOL = "give_answer"
OUTPUT_TOOL_DESCRIPTION = "Give the answer through this tool."


def custom_tool_grammar(output_type: Grammar) -> dict[str, str]:
    """Return the grammar of a custom tool's input, as `{"syntax": …, "definition": …}`.

    OpenAI takes regular expressions and Lark grammars in llguidance's syntax, in which modelport also writes them for
    local engines.

    See https://developers.openai.com/api/docs/guides/function-calling#context-free-grammars
    """
    if isinstance(output_type, Regex):
        return {"syntax": "regex", "definition": output_type.for_engines()}
    return {"syntax": "lark", "definition": as_lark(output_type)}


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
