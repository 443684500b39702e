"""Structured output after unconstrained reasoning, on llama.cpp's server.

llama.cpp applies a grammar from the first token, so it would constrain the reasoning too. The grammar must therefore
begin with unconstrained reasoning wherever the model reasons: if the prompt ends within an open reasoning block, or if
the caller requested reasoning. How the prompt ends depends on the model's chat template, so the server is asked to
render the prompt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import allow_reasoning, ends_inside_reasoning
from modelport.errors import ModelError
from modelport.protocols.chat_completions.dialects import llama_grammar
from modelport.types.request import Request

#: The path, below the server's root, that renders the prompt of a chat completion's body.
RENDER_PATH = "/apply-template"
#: The fields of the body on which the prompt depends.
_RENDERED_FIELDS = ("messages", "tools", "chat_template_kwargs")


async def grammar_after_reasoning(
    body: Mapping[str, Any], request: Request, render: Callable[[dict[str, Any]], Awaitable[Any]]
) -> str | None:
    """Return a grammar that begins with unconstrained reasoning, or `None` if the body's grammar is right as it is.

    Args:
        body: The body of the chat completion.
        request: The request from which the body was made.
        render: Posts a body to `RENDER_PATH` and returns the parsed response.
    """
    if request.grammar is None:
        return None
    try:
        rendered = await render({name: body[name] for name in _RENDERED_FIELDS if name in body})
        is_open = ends_inside_reasoning(rendered["prompt"])
    except (ModelError, LookupError, TypeError, AttributeError):
        # A gateway may not offer this path. If the server itself fails, the chat completion fails too and reports it.
        is_open = False
    effort = request.parameters.get("reasoning_effort", "none")
    if not is_open and effort == "none" and not request.parameters.get("reasoning_budget"):
        return None  # The grammar then also constrains any reasoning that the caller did not request.
    # The server counts line breaks after the reasoning as output, so the grammar allows none there.
    return llama_grammar(allow_reasoning(as_lark(request.grammar, old_llguidance=True), is_open, line_breaks=False))
