"""What is known of models by name, laid over what their service can do. Later rows go before earlier ones.

Sources: https://platform.openai.com/docs/guides/reasoning, https://docs.x.ai/docs/models,
https://api-docs.deepseek.com/guides/reasoning_model, https://developers.openai.com/api/docs/guides/structured-outputs
"""

from __future__ import annotations

from typing import Any

from modelport.grammar import Choice, JSONSchema, Lark, Regex

#: Through a custom tool; see https://developers.openai.com/api/docs/guides/function-calling#custom-tools
_CUSTOM_TOOLS = {"grammars": frozenset({JSONSchema, Regex, Choice, Lark})}
_NO_SCHEMAS: dict[str, Any] = {"grammars": frozenset()}  # which leaves them a forced tool
_COMPLETION_TOKENS = {"renamed": {"max_tokens": "max_completion_tokens"}}

#: Pairs of a shell pattern, held against the last part of the model's name, and the capabilities it changes.
PROFILES: list[tuple[str, dict[str, Any]]] = [
    ("o[134]", _COMPLETION_TOKENS),
    ("o[134]-*", _COMPLETION_TOKENS),
    ("o[34]", {"stop": False}),
    ("o[34]-*", {"stop": False}),
    ("o3-mini*", {"stop": True}),
    ("gpt-3.5*", _NO_SCHEMAS),
    ("gpt-4", _NO_SCHEMAS),
    ("gpt-4-*", _NO_SCHEMAS),
    ("gpt-5*", {"stop": False, **_COMPLETION_TOKENS, **_CUSTOM_TOOLS}),
    ("gpt-5-chat*", {"grammars": frozenset({JSONSchema})}),
    ("deepseek-chat", _NO_SCHEMAS),
    ("deepseek-reasoner", _NO_SCHEMAS),
    ("*grok-*", {"stop": False}),
    ("deepseek-reasoner*", {"tool_choices": ["auto", "none"], "sends_reasoning": True, "logprobs": False}),
]
