"""Makes a grammar for llama.cpp's server that constrains the output, but not the reasoning before it.

llama.cpp applies a grammar from the first generated token, so a grammar for the output would constrain the reasoning
too. If the model is going to reason, the grammar must therefore begin with a rule that allows any reasoning. The model
is going to reason if the caller requested it, or if the prompt ends inside a reasoning block. How the prompt ends
depends on the model's chat template, so modelport asks the server to render the prompt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import allow_reasoning, ends_inside_reasoning
from modelport.errors import ModelError
from modelport.protocols.chat_completions.dialects import llama_grammar
from modelport.types.request import Request

#: The path, below the root of llama.cpp's server, that returns the prompt for the body of a chat completion.
RENDER_PATH = "/apply-template"
#: The fields of a chat completion's body on which the prompt depends.
_RENDERED_FIELDS = ("messages", "tools", "chat_template_kwargs")


async def grammar_after_reasoning(
    body: Mapping[str, Any], request: Request, render: Callable[[dict[str, Any]], Awaitable[Any]]
) -> str | None:
    """Return a grammar that allows any reasoning and then the requested output.

    The result is `None` if the model is not going to reason, or if the request has no output type. The body is then
    sent unchanged.

    Args:
        body: The body of the chat completion.
        request: The request from which the body was made.
        render: Posts a body to `RENDER_PATH` and returns the parsed response.
    """
    if request.grammar is None:
        return None
    try:
        rendered = await render({name: body[name] for name in _RENDERED_FIELDS if name in body})
        inside_reasoning = ends_inside_reasoning(rendered["prompt"])
    except (ModelError, LookupError, TypeError, AttributeError):
        # A gateway may not offer this path. If the server itself fails, the chat completion will raise.
        inside_reasoning = False
    effort = request.parameters.get("reasoning_effort", "none")
    if not inside_reasoning and effort == "none" and not request.parameters.get("reasoning_budget"):
        return None  # No reasoning is expected, so the grammar may apply from the first token.
    # The server returns line breaks after the reasoning as part of the output, so the grammar allows none there.
    return llama_grammar(
        allow_reasoning(as_lark(request.grammar, old_llguidance=True), inside_reasoning, line_breaks=False)
    )
