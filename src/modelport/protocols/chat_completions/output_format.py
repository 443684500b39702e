"""How a chat completion asks for the form of its answer: as OpenAI has it, or a server's dialect. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.schema.rules import is_any_object
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex

#: The custom tool whose input is an answer in its grammar.
ANSWER_TOOL = "answer_in_its_form"


def llama_grammar(lark: str) -> str:
    """llguidance's Lark as llama.cpp takes it."""
    return f"%llguidance {{}}\n{lark}"


def grammar_fields(grammar: Grammar, dialect: str | None) -> dict[str, Any]:
    """The fields of a body that ask for this form."""
    if dialect == "llama.cpp":
        # Its own converter of schemas passes over keywords in silence; llguidance knows them or refuses.
        return {"grammar": llama_grammar(as_lark(grammar, old_llguidance=True))}
    if dialect == "tgi" and not isinstance(grammar, Lark):
        return {"response_format": _tgi_format(grammar)}
    if isinstance(grammar, JSONSchema):
        if is_any_object(grammar.schema):  # which a schema enforces nowhere that takes only closed objects
            return {"response_format": {"type": "json_object"}}
        inner = {"name": grammar.name, "schema": grammar.schema, "strict": is_strict(grammar.schema)}
        return {"response_format": {"type": "json_schema", "json_schema": inner}}
    if dialect == "vllm":
        key, value = (
            ("regex", grammar.for_engines()) if isinstance(grammar, Regex)
            else ("choice", list(grammar.options)) if isinstance(grammar, Choice)
            else ("grammar", grammar.grammar)
        )  # fmt: skip
        return {"structured_outputs": {key: value}}
    # OpenAI holds the input of a custom tool to a grammar, in the dialects that the engines' library reads. See
    # https://developers.openai.com/api/docs/guides/function-calling#context-free-grammars
    syntax, definition = ("regex", grammar.for_engines()) if isinstance(grammar, Regex) else ("lark", as_lark(grammar))
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    custom = {"name": ANSWER_TOOL, "description": "Give the answer through this tool.", "format": form}
    return {
        "tools": [{"type": "custom", "custom": custom}],
        "tool_choice": {"type": "custom", "custom": {"name": ANSWER_TOOL}},
    }


def _tgi_format(grammar: Grammar) -> dict[str, Any]:
    """See https://huggingface.co/docs/text-generation-inference/conceptual/guidance"""
    if isinstance(grammar, JSONSchema):
        return {"type": "json", "value": grammar.schema}
    if isinstance(grammar, Choice):
        grammar = Regex("|".join(map(re.escape, grammar.options)))
    assert isinstance(grammar, Regex)
    return {"type": "regex", "value": grammar.for_engines()}


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes the schema: every object closed, and every property required.

    See https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
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


def effort_variables(effort: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An effort of thinking as chat templates know it; the caller's own variables go before it."""
    names = {"enable_thinking": effort != "none"}
    return {**names, **({} if effort == "none" else {"reasoning_effort": effort}), **(given or {})}
