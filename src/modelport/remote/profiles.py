"""What is known about the capabilities of models, by name. `bedrock.model` has its own profiles.

A profile overrides the capabilities of the backend. If several profiles match a model, the later ones override the
earlier ones.

Sources: https://platform.openai.com/docs/guides/reasoning, https://docs.x.ai/docs/models,
https://api-docs.deepseek.com/guides/reasoning_model, https://developers.openai.com/api/docs/guides/structured-outputs
"""

from __future__ import annotations

from typing import Any

from modelport.types.output_types import Choice, JSONSchema, Lark, Regex

#: OpenAI takes grammars only as the input format of a custom tool, through which the model then gives its output; see
#: https://developers.openai.com/api/docs/guides/function-calling#custom-tools
_CUSTOM_TOOL_GRAMMARS = {"grammars": frozenset({JSONSchema, Regex, Choice, Lark})}
#: For models without structured output. modelport then requests an output schema as the arguments of a tool call.
_NO_SCHEMAS: dict[str, Any] = {"grammars": frozenset()}
_LOW_MEDIUM_HIGH = {"reasoning_efforts": frozenset({"low", "medium", "high"})}
_NO_EFFORT_CONTROL: dict[str, Any] = {"reasoning_efforts": frozenset(), "reasoning_budget": False}
_NO_REASONING = {**_NO_EFFORT_CONTROL, "reasoning": False}
_RENAMED_MAX_TOKENS = {"renamed": {"max_tokens": "max_completion_tokens"}}

#: Pairs of a shell pattern and the capabilities to change. The pattern must match the last part of the model's name,
#: after any slash, in lower case.
PROFILES: list[tuple[str, dict[str, Any]]] = [
    ("o[134]", {**_RENAMED_MAX_TOKENS, **_LOW_MEDIUM_HIGH}),
    ("o[134]-*", {**_RENAMED_MAX_TOKENS, **_LOW_MEDIUM_HIGH}),
    ("gpt-oss*", _LOW_MEDIUM_HIGH),
    ("o[34]", {"stop": False}),
    ("o[34]-*", {"stop": False}),
    ("o3-mini*", {"stop": True}),
    ("gpt-3.5*", {**_NO_SCHEMAS, **_NO_REASONING}),
    ("gpt-4*", _NO_REASONING),
    ("gpt-4", _NO_SCHEMAS),
    ("gpt-4-*", _NO_SCHEMAS),
    ("gpt-[5-9]*", {"stop": False, **_RENAMED_MAX_TOKENS, **_CUSTOM_TOOL_GRAMMARS}),
    ("gpt-5-chat*", {"grammars": frozenset({JSONSchema})}),
    ("deepseek-chat", _NO_SCHEMAS),
    ("deepseek-reasoner", _NO_SCHEMAS),
    ("*grok-*", {"stop": False}),
    ("grok-3-mini*", {"reasoning_efforts": frozenset({"low", "high"})}),
    ("grok-4*", _NO_EFFORT_CONTROL),
    (
        "deepseek-reasoner*",
        {**_NO_EFFORT_CONTROL, "tool_choices": ["auto", "none"], "sends_reasoning": True, "logprobs": False},
    ),
]
