"""The end of the chain for a model whose author implemented `generate` instead of `deltas`.

The request is converted to the arguments of `generate`: messages as plain dicts, `stop_sequences`, and parameters by
name. `generate` blocks, so it runs in a thread. What it returns becomes one delta.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from modelport.errors import MalformedResponse
from modelport.protocols.chat_completions.request import plain_dict
from modelport.runtime.portal import in_callers_thread
from modelport.runtime.threads import in_thread
from modelport.types.deltas import ChatMessageStreamDelta, as_delta
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request
from modelport.types.usage import TokenUsage


async def run_generate(generate: Callable[..., Any], request: Request, class_name: str) -> ChatMessageStreamDelta:
    """Run an author's `generate`: in the caller's thread for a synchronous call, otherwise in a thread of its own.

    Args:
        generate: The method.
        request: The call.
        class_name: The class that implements the method, for errors.

    Returns:
        The complete response.

    Raises:
        MalformedResponse: The method returned something that is not a response.
    """
    arguments = _arguments_from(request)

    def work() -> Any:
        return generate(**arguments)

    # `in_callers_thread` returns `None` if no synchronous caller waits for this call.
    response = await (in_callers_thread(work) or in_thread(work))
    if isinstance(response, str):
        response = ChatMessage(MessageRole.ASSISTANT, response)
    if inspect.iscoroutine(response):
        # The author wrote an `async def generate`: close its coroutine, so that Python does not warn that it was never
        # awaited. The error below names the type.
        response.close()
    if not hasattr(response, "content"):
        raise MalformedResponse(
            f"{class_name}.generate returned {type(response).__name__}; it must return an object with a `.content`"
        )
    try:
        delta = as_delta(response)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedResponse(f"{class_name}.generate returned an unusable response: {error}") from error
    delta.finish_reason = delta.finish_reason or ("tool_calls" if delta.tool_calls else "stop")
    if not isinstance(delta.token_usage, TokenUsage):
        delta.token_usage = None
    return delta


def _arguments_from(request: Request) -> dict[str, Any]:
    arguments: dict[str, Any] = {"messages": [plain_dict(message) for message in request.messages]}
    arguments |= request.parameters
    if request.stop_sequences:
        arguments["stop_sequences"] = list(request.stop_sequences)
    if request.grammar is not None:
        arguments["grammar"] = request.grammar
    if request.tools:
        arguments |= {"tools": list(request.tools), "tool_choice": request.tool_choice}
    return arguments
