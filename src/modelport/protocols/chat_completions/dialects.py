"""What particular servers accept beyond OpenAI's chat-completions API.

A user names one of `DIALECTS` for a server; without a name, the server gets `OPENAI_API`. Everything that differs
between servers is data in this module, or a small function that the data names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex

_ALL_GRAMMARS = frozenset({JSONSchema, Regex, Choice, Lark})
#: The chat templates of most models can only switch reasoning off. Other efforts are sent as a reasoning budget.
_OFF_ONLY = frozenset({"none"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server differs from OpenAI's API.

    Args:
        capabilities: The values of `Capabilities` that differ.
        output_fields: A function that returns the fields of a body which request structured output, or `None` for an
            output type that is requested as in OpenAI's API.
        strict_tools: Whether a tool is sent with `strict: true` unless the caller set it.
        effort_in_template: Whether `reasoning_effort` is sent as variables of the chat template.
        streams_always: Whether a non-streaming call is sent as a stream too.
        constrains_reasoning: Whether a grammar constrains the reasoning together with the output, so that the grammar
            itself must leave the reasoning unconstrained.
    """

    capabilities: Mapping[str, Any] = field(default_factory=dict)
    output_fields: Callable[[Grammar], dict[str, Any] | None] | None = None
    strict_tools: bool = False
    effort_in_template: bool = False
    streams_always: bool = False
    constrains_reasoning: bool = False


def llama_grammar(lark: str) -> str:
    """Return a grammar in llguidance's Lark as llama.cpp accepts it."""
    return f"%llguidance {{}}\n{lark}"


def effort_variables(effort: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a reasoning effort as the variables that chat templates use for it.

    Args:
        effort: The value of `reasoning_effort`.
        variables: The caller's own variables, which take precedence.
    """
    result: dict[str, Any] = {"enable_thinking": effort != "none"}
    if effort != "none":
        result["reasoning_effort"] = effort
    return {**result, **(variables or {})}


def _llama_cpp_output_fields(grammar: Grammar) -> dict[str, Any]:
    # llama.cpp's own converter of JSON schemas ignores keywords silently. llguidance enforces or rejects them.
    return {"grammar": llama_grammar(as_lark(grammar, old_llguidance=True))}


def _vllm_output_fields(grammar: Grammar) -> dict[str, Any] | None:
    if isinstance(grammar, JSONSchema):
        return None
    if isinstance(grammar, Regex):
        return {"structured_outputs": {"regex": grammar.for_engines()}}
    if isinstance(grammar, Choice):
        return {"structured_outputs": {"choice": list(grammar.options)}}
    return {"structured_outputs": {"grammar": grammar.grammar}}


def _tgi_output_fields(grammar: Grammar) -> dict[str, Any] | None:
    """Return the fields for TGI, which takes a JSON schema or a regular expression.

    See https://huggingface.co/docs/text-generation-inference/conceptual/guidance
    """
    if isinstance(grammar, Lark):
        return None
    if isinstance(grammar, JSONSchema):
        return {"response_format": {"type": "json", "value": grammar.schema}}
    if isinstance(grammar, Choice):
        grammar = Regex("|".join(map(re.escape, grammar.options)))
    return {"response_format": {"type": "regex", "value": grammar.for_engines()}}


#: OpenAI's API itself, for a server without a named dialect.
OPENAI_API = Dialect()

#: By the name that a user passes as `dialect`. As `schema_rules`, `None` means that the server takes any JSON schema.
#: As `max_stop_sequences`, `None` means that the server takes any number.
DIALECTS: dict[str, Dialect] = {
    "llama.cpp": Dialect(
        capabilities={
            "grammars": _ALL_GRAMMARS,
            "grammar_with_tools": False,
            "max_stop_sequences": None,
            "tool_choices": frozenset({"auto", "none", "required"}),
            "image_urls": False,
            "schema_rules": None,
            "reasoning_efforts": _OFF_ONLY,
            "reasoning_budget": True,
            "renamed": {"reasoning_budget": "thinking_budget_tokens"},
        },
        output_fields=_llama_cpp_output_fields,
        # The server ignores `reasoning_effort` in the body.
        effort_in_template=True,
        # The server frees a slot at once when the reader of a stream leaves. It finishes a non-streaming response even
        # after the caller has left.
        streams_always=True,
        constrains_reasoning=True,
    ),
    "vllm": Dialect(
        capabilities={
            "grammars": _ALL_GRAMMARS,
            "schema_rules": None,
            "reasoning_efforts": _OFF_ONLY,
            "reasoning_budget": True,
            "renamed": {"reasoning_budget": "thinking_token_budget"},
        },
        output_fields=_vllm_output_fields,
        # Without `strict`, vLLM constrains only the name of a forced tool call. The arguments may then be a string
        # instead of an object.
        strict_tools=True,
    ),
    "tgi": Dialect(
        capabilities={
            "grammars": _ALL_GRAMMARS - {Lark},
            "grammar_with_tools": False,
            "schema_rules": None,
            "reasoning_efforts": frozenset(),
        },
        output_fields=_tgi_output_fields,
    ),
}
