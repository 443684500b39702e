"""A form after a free thought, on llama.cpp's server, whose mask by itself would hold the thought too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import allow_reasoning, ends_inside_reasoning
from modelport.errors import ModelError
from modelport.protocols.chat_completions.output_format import llama_grammar
from modelport.types.request import Request

#: Below the server's root: renders the prompt of a chat completion's body.
PATH = "/apply-template"
_RENDERED = ("messages", "tools", "chat_template_kwargs")


async def grammar_after_thought(
    body: Mapping[str, Any], request: Request, ask: Callable[[dict[str, Any]], Awaitable[Any]]
) -> str | None:
    """The grammar that begins where the thought ends; `None` where the form's own is right as it is.

    Args:
        body: Of the chat completion.
        request: What it was made of.
        ask: Posts to `PATH`.
    """
    if request.grammar is None:
        return None
    try:
        rendered = await ask({name: body[name] for name in _RENDERED if name in body})
        opened = ends_inside_reasoning(rendered["prompt"])
    except (ModelError, LookupError, TypeError, AttributeError):
        opened = False  # Behind a gateway there may be no such path; what fails for good fails in the call too.
    effort = request.parameters.get("reasoning_effort", "none")
    if not opened and effort == "none" and not request.parameters.get("reasoning_budget"):
        return None
    return llama_grammar(allow_reasoning(as_lark(request.grammar, old_llguidance=True), opened, line_breaks=False))
