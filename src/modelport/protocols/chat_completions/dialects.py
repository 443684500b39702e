"""How particular servers differ from OpenAI's chat-completions API.

The caller passes a key of `DIALECTS` as the setting `dialect` of a model. Without it, requests follow OpenAI's API.
Everything that differs between servers is data in this module, or a small function to which the data refers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex

_ALL_GRAMMARS = frozenset({JSONSchema, Regex, Choice, Lark})
#: The capability `reasoning_efforts` of servers that support only the effort "none", which switches reasoning off. For
#: any other effort, the layer `adapt` sends a `reasoning_budget` in tokens instead: the chat templates of most models
#: have no levels of effort.
_EFFORT_NONE_ONLY = frozenset({"none"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server differs from OpenAI's API.

    Args:
        capabilities: The values of `Capabilities` in which the server differs.
        output_fields: A function that takes an output type and returns the fields of the body that request it. It
            returns `None` for an output type that is requested as in OpenAI's API. Without such a function, all output
            types are requested as in OpenAI's API.
        strict_tools: Whether a tool is sent with `strict: true` unless the caller set `strict`.
        effort_in_template: Whether `reasoning_effort` is sent as variables for the chat template (in the field
            `chat_template_kwargs`), and not as a field of its own.
        streams_always: Whether the server is asked for a stream even if the caller did not ask for one.
        constrains_reasoning: Whether the server applies a grammar from the first token, and so to the reasoning before
            the output. If the model may reason, modelport then sends a grammar that begins with any reasoning.
        drops_tools: Whether the server leaves out tools, without a word, if the model's chat template has none.
    """

    capabilities: Mapping[str, Any] = field(default_factory=dict)
    output_fields: Callable[[Grammar], dict[str, Any] | None] | None = None
    strict_tools: bool = False
    effort_in_template: bool = False
    streams_always: bool = False
    constrains_reasoning: bool = False
    drops_tools: bool = False


def llama_grammar(lark: str) -> str:
    """Return the value of llama.cpp's parameter `grammar` for a Lark grammar.

    The first line of the value makes llama.cpp use llguidance instead of its own grammar engine.
    """
    return f"%llguidance {{}}\n{lark}"


def template_variables_for(effort: str, callers_variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the variables for a model's chat template that request a reasoning effort.

    Some templates read `enable_thinking`, others `reasoning_effort`.

    Args:
        effort: The value of `reasoning_effort`.
        callers_variables: Variables for the chat template that the caller passed. They are added, and take precedence.
    """
    result: dict[str, Any] = {"enable_thinking": effort != "none"}
    if effort != "none":
        result["reasoning_effort"] = effort
    return {**result, **(callers_variables or {})}


def _llama_cpp_output_fields(output_type: Grammar) -> dict[str, Any]:
    # A JSON schema is sent as a grammar, because llama.cpp's own converter of schemas silently ignores keywords that it
    # does not support. llguidance enforces or rejects each keyword. llama.cpp contains an older llguidance.
    return {"grammar": llama_grammar(as_lark(output_type, old_llguidance=True))}


def _vllm_output_fields(output_type: Grammar) -> dict[str, Any] | None:
    if isinstance(output_type, JSONSchema):
        return None  # vLLM takes JSON schemas as OpenAI does.
    if isinstance(output_type, Regex):
        return {"structured_outputs": {"regex": output_type.for_engines()}}
    if isinstance(output_type, Choice):
        return {"structured_outputs": {"choice": list(output_type.options)}}
    return {"structured_outputs": {"grammar": output_type.grammar}}  # A `Lark`, whose field `grammar` is its text.


def _tgi_output_fields(output_type: Grammar) -> dict[str, Any] | None:
    """Return the fields for TGI, which takes a JSON schema or a regular expression.

    See https://huggingface.co/docs/text-generation-inference/conceptual/guidance
    """
    if isinstance(output_type, Lark):
        return None  # TGI's `capabilities` in `DIALECTS` exclude Lark, so no such request is sent.
    if isinstance(output_type, JSONSchema):
        return {"response_format": {"type": "json", "value": output_type.schema}}
    if isinstance(output_type, Choice):
        output_type = Regex("|".join(map(re.escape, output_type.options)))
    return {"response_format": {"type": "regex", "value": output_type.for_engines()}}


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
            "reasoning_efforts": _EFFORT_NONE_ONLY,
            "reasoning_budget": True,
            "renamed": {"reasoning_budget": "thinking_budget_tokens", "repetition_penalty": "repeat_penalty"},
        },
        output_fields=_llama_cpp_output_fields,
        # The server ignores `reasoning_effort` in the body.
        effort_in_template=True,
        # When a client closes its connection, the server stops generating a stream at once, but it generates a
        # non-streaming response to its end.
        streams_always=True,
        constrains_reasoning=True,
        drops_tools=True,
    ),
    "vllm": Dialect(
        capabilities={
            "grammars": _ALL_GRAMMARS,
            "schema_rules": None,
            "reasoning_efforts": _EFFORT_NONE_ONLY,
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
