"""Calls the `generate` of a model whose author implemented that method instead of `deltas`.

The request is converted to keyword arguments of `generate`: `messages` as plain dicts, each parameter by its name, and
`stop_sequences`, `grammar`, `tools` and `tool_choice` if the request has them. `generate` blocks, so it does not run in
the thread of the event loop. The value that it returns becomes one delta.
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
    """Run an author's `generate`: in the caller's thread for a synchronous call, otherwise in a worker thread.

    Args:
        generate: The author's method.
        request: The request of the call.
        class_name: The name of the class that implements the method. Error messages contain it.

    Returns:
        The complete response as one delta.

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
        # The author wrote an `async def generate`. The error below says that it returned a coroutine, which is closed
        # so that Python does not warn that it was never awaited.
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
