"""Capabilities of models by name. They override the capabilities of the service, and later entries earlier ones.

Sources: https://platform.openai.com/docs/guides/reasoning, https://docs.x.ai/docs/models,
https://api-docs.deepseek.com/guides/reasoning_model, https://developers.openai.com/api/docs/guides/structured-outputs
"""

from __future__ import annotations

from typing import Any

from modelport.types.output_types import Choice, JSONSchema, Lark, Regex

#: Grammars are the input format of a custom tool; see
#: https://developers.openai.com/api/docs/guides/function-calling#custom-tools
_CUSTOM_TOOLS = {"grammars": frozenset({JSONSchema, Regex, Choice, Lark})}
_NO_SCHEMAS: dict[str, Any] = {"grammars": frozenset()}  # A forced tool call takes the place of a schema.
_EFFORTS = {"reasoning_efforts": frozenset({"low", "medium", "high"})}
_NO_EFFORTS: dict[str, Any] = {"reasoning_efforts": frozenset(), "reasoning_budget": False}
_NO_REASONING = {**_NO_EFFORTS, "reasoning": False}
_COMPLETION_TOKENS = {"renamed": {"max_tokens": "max_completion_tokens"}}

#: Pairs of a shell pattern, which must match the last part of the model's name, and the capabilities that differ.
PROFILES: list[tuple[str, dict[str, Any]]] = [
    ("o[134]", {**_COMPLETION_TOKENS, **_EFFORTS}),
    ("o[134]-*", {**_COMPLETION_TOKENS, **_EFFORTS}),
    ("gpt-oss*", _EFFORTS),
    ("o[34]", {"stop": False}),
    ("o[34]-*", {"stop": False}),
    ("o3-mini*", {"stop": True}),
    ("gpt-3.5*", {**_NO_SCHEMAS, **_NO_REASONING}),
    ("gpt-4*", _NO_REASONING),
    ("gpt-4", _NO_SCHEMAS),
    ("gpt-4-*", _NO_SCHEMAS),
    ("gpt-5*", {"stop": False, **_COMPLETION_TOKENS, **_CUSTOM_TOOLS}),
    ("gpt-5-chat*", {"grammars": frozenset({JSONSchema})}),
    ("deepseek-chat", _NO_SCHEMAS),
    ("deepseek-reasoner", _NO_SCHEMAS),
    ("*grok-*", {"stop": False}),
    ("grok-3-mini*", {"reasoning_efforts": frozenset({"low", "high"})}),
    ("grok-4*", _NO_EFFORTS),
    (
        "deepseek-reasoner*",
        {**_NO_EFFORTS, "tool_choices": ["auto", "none"], "sends_reasoning": True, "logprobs": False},
    ),
]
