"""Gives the calls of earlier messages arguments and names that every server accepts.

A model may have written broken JSON, or the name of a tool that does not exist. The caller gets such a call with
`tool_errors="return"`, and sends it back with the error as its result, so that the model corrects it. Many servers then
refuse every later request of the conversation. See docs/decisions/087.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace

from modelport.types.messages import INVALID_ARGUMENTS, ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

#: Names that every service accepts: https://platform.openai.com/docs/api-reference/chat/create
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: Names that some service accepts, such as Gemini: https://ai.google.dev/api/caching#FunctionDeclaration
_NAME_SOMEWHERE = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")
_MAX_NAME_LENGTH = 64


def with_valid_calls(request: Request) -> tuple[Request, list[CallWarning]]:
    """Return the request with valid calls in its messages, and a warning for each message that lost something.

    Arguments that are no JSON object are sent as a text in one. A call without a name gets one, and a name that
    servers refuse other characters. The arguments of most calls are not parsed: only those that do
    not look like an object, and those of calls that modelport returned with an error.
    """
    changed: dict[int, ChatMessage] = {}
    warnings: list[CallWarning] = []
    for i, message in enumerate(request.messages):
        for call in message.tool_calls or ():
            text = call.function.arguments
            if call.error is not None or _NAME_SOMEWHERE.fullmatch(call.function.name) is None:
                break
            if isinstance(text, str) and (text[:1] != "{" or text[-1:] != "}"):
                break
        else:
            continue
        tools = {tool.name for tool in request.tools}
        calls = [_with_valid_name(_with_object(call), tools) for call in message.tool_calls or ()]
        if calls == message.tool_calls:
            continue
        changed[i] = replace(message, tool_calls=calls)
        if any(INVALID_ARGUMENTS in call.function.arguments for call in calls):
            warnings.append(
                _warning(i, "Arguments of a tool call", "are no JSON object. They were sent as a text in one")
            )
        if [call.function.name for call in calls] != [call.function.name for call in message.tool_calls or ()]:
            warnings.append(_warning(i, "The name of a tool call", "is no tool's. It was sent with other characters"))
    if not changed:
        return request, []
    return request.replace(messages=tuple(changed.get(i, m) for i, m in enumerate(request.messages))), warnings


def _warning(index: int, part: str, problem: str) -> CallWarning:
    return CallWarning(
        "changed", "messages", f"{part} in messages[{index}] {problem}, because servers refuse it otherwise."
    )


def _with_valid_name(call: ChatMessageToolCall, tools: Collection[str]) -> ChatMessageToolCall:
    function = call.function
    pattern = _NAME_SOMEWHERE if call.error is None else _NAME
    if function.name in tools or pattern.fullmatch(function.name):
        return call
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", function.name)[:_MAX_NAME_LENGTH] or "invalid_call"
    return replace(call, function=ChatMessageToolCallFunction(function.arguments, name, function.description))


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
