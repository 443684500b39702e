"""What is known of models by name, laid over what their service can do. Later rows go before earlier ones.

Sources: https://platform.openai.com/docs/guides/reasoning, https://docs.x.ai/docs/models,
https://api-docs.deepseek.com/guides/reasoning_model
"""

from __future__ import annotations

from typing import Any

_COMPLETION_TOKENS = {"renamed": {"max_tokens": "max_completion_tokens"}}

#: Pairs of a shell pattern, held against the last part of the model's name, and the capabilities it changes.
PROFILES: list[tuple[str, dict[str, Any]]] = [
    ("o[134]", _COMPLETION_TOKENS),
    ("o[134]-*", _COMPLETION_TOKENS),
    ("o[34]", {"stop": False}),
    ("o[34]-*", {"stop": False}),
    ("o3-mini*", {"stop": True}),
    ("gpt-5*", {"stop": False, **_COMPLETION_TOKENS}),
    ("*grok-*", {"stop": False}),
    ("deepseek-reasoner*", {"tool_choices": ["auto", "none"], "sends_reasoning": True, "logprobs": False}),
]
