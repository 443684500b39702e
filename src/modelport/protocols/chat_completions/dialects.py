"""How particular servers differ from OpenAI's chat-completions API.

The user of a server passes a key of `DIALECTS` as `dialect`. Without it, requests follow `OPENAI_API`. Everything that
differs between servers is data in this module, or a small function to which the data refers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex

_ALL_GRAMMARS = frozenset({JSONSchema, Regex, Choice, Lark})
#: The supported values of `reasoning_effort`. The chat templates of most models can only switch reasoning on or off, so
#: the layer `adapt` sends any other effort as a reasoning budget.
_OFF_ONLY = frozenset({"none"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server differs from OpenAI's API.

    Args:
        capabilities: The values of `Capabilities` in which the server differs.
        output_fields: A function that takes an output type and returns the fields of the body that request it, or
            `None` if they are the same as in OpenAI's API. By default, they are the same for all output types.
        strict_tools: Whether a tool is sent with `strict: true` unless the caller set `strict`.
        effort_in_template: Whether `reasoning_effort` is sent as variables of the chat template, and not as a field.
        streams_always: Whether the server is asked for a stream even if the caller did not ask for one.
        constrains_reasoning: Whether the server applies a grammar to the reasoning too. The grammar that is sent must
            then allow any reasoning before the output.
    """

    capabilities: Mapping[str, Any] = field(default_factory=dict)
    output_fields: Callable[[Grammar], dict[str, Any] | None] | None = None
    strict_tools: bool = False
    effort_in_template: bool = False
    streams_always: bool = False
    constrains_reasoning: bool = False


def llama_grammar(lark: str) -> str:
    """Return the value of llama.cpp's parameter `grammar` for a Lark grammar.

    Its first line makes llama.cpp use llguidance instead of its own grammar engine.
    """
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
    # llama.cpp's own converter of JSON schemas silently ignores keywords that it does not support. llguidance enforces
    # or rejects each keyword.
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
        return None  # The capabilities below exclude Lark, so no such request is sent.
    if isinstance(grammar, JSONSchema):
        return {"response_format": {"type": "json", "value": grammar.schema}}
    if isinstance(grammar, Choice):
        grammar = Regex("|".join(map(re.escape, grammar.options)))
    return {"response_format": {"type": "regex", "value": grammar.for_engines()}}


#: OpenAI's API itself, for a server without a named dialect.
OPENAI_API = Dialect()

#: Name that a user passes as `dialect` -> dialect. `"schema_rules": None` means that the server takes any JSON schema,
#: and `"max_stop_sequences": None` that it takes any number of stop sequences.
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
        # When a client closes its connection, the server stops generating a stream at once, but it generates a
        # non-streaming response to its end.
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
        # Without `strict`, vLLM constrains only the tool's name in a forced tool call. The arguments may then be a
        # string instead of an object.
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
