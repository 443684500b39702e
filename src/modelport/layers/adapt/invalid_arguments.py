"""Makes the arguments of earlier tool calls JSON objects, as servers require.

A model may have written broken JSON. The caller gets such a call with `tool_errors="return"`, and sends it back with
the error as its result, so that the model corrects it. vLLM's, llama.cpp's and MiniMax's servers then refuse every
later request of the conversation. See docs/decisions/087.
"""

from __future__ import annotations

import json
from dataclasses import replace

from modelport.types.messages import INVALID_ARGUMENTS, ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.request import Request
from modelport.types.warnings import CallWarning


def with_object_arguments(request: Request) -> tuple[Request, list[CallWarning]]:
    """Return the request with an object in place of arguments that are none, and a warning if there are any.

    The arguments of most calls are not parsed: only those that do not look like an object, and those of calls that
    modelport returned with an error.
    """
    changed: dict[int, ChatMessage] = {}
    invalid: list[int] = []
    for i, message in enumerate(request.messages):
        for call in message.tool_calls or ():
            text = call.function.arguments
            if isinstance(text, str) and (call.error is not None or text[:1] != "{" or text[-1:] != "}"):
                break
        else:
            continue
        calls = [_with_object(call) for call in message.tool_calls or ()]
        if calls != message.tool_calls:
            changed[i] = replace(message, tool_calls=calls)
            invalid += [i] * any(INVALID_ARGUMENTS in call.function.arguments for call in calls)
    if not changed:
        return request, []
    messages = tuple(changed.get(i, message) for i, message in enumerate(request.messages))
    warnings = [
        CallWarning(
            "changed",
            "messages",
            f"Arguments of a tool call in messages[{i}] are no JSON object. They were sent as a text in one, because "
            "servers refuse them otherwise.",
        )
        for i in invalid
    ]
    return request.replace(messages=messages), warnings


def _with_object(call: ChatMessageToolCall) -> ChatMessageToolCall:
    text = call.function.arguments
    if not isinstance(text, str) or _is_object(text):
        return call
    is_empty = text.strip() in ("", "null")
    arguments = "{}" if is_empty else json.dumps({INVALID_ARGUMENTS: text}, ensure_ascii=False)
    return replace(call, function=ChatMessageToolCallFunction(arguments, call.function.name, call.function.description))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
