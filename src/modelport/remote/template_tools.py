"""Finds out whether the chat template of a llama.cpp server has tools.

If it has none, the server accepts a request with tools, and leaves them out of the prompt without a word. So modelport
asks the server once to render a prompt with a tool, and looks for the tool's name in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from modelport.errors import ModelError

_NAME = "modelport_looks_for_this_tool"
_PROBE = {
    "messages": [{"role": "user", "content": "?"}],
    "tools": [
        {
            "type": "function",
            "function": {"name": _NAME, "description": "", "parameters": {"type": "object", "properties": {}}},
        }
    ],
}


async def template_has_tools(render: Callable[[dict[str, Any]], Awaitable[Any]]) -> bool:
    """Return whether the server puts tools into the prompt. If the server does not say so, it counts as true.

    Args:
        render: Posts a body to `unconstrained_reasoning.RENDER_PATH` and returns the parsed response.
    """
    try:
        prompt = (await render(_PROBE))["prompt"]
    except (ModelError, LookupError, TypeError):
        return True  # A gateway may not offer this path.
    return not isinstance(prompt, str) or _NAME in prompt
