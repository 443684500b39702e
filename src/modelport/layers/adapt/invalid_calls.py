"""Gives the calls of earlier messages arguments and names that every server accepts.

A model may have written broken JSON, or the name of a tool that does not exist. The caller gets such a call with
`tool_errors="return"`, and sends it back with the error as its result, so that the model corrects it. Many servers then
refuse every later request of the conversation. See docs/decisions/087.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from modelport.schema.json_text import read_json
from modelport.types.messages import INVALID_ARGUMENTS, ChatMessage, ChatMessageToolCall
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

#: Names that every service accepts: https://platform.openai.com/docs/api-reference/chat/create
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: Names that some service accepts, such as Gemini: https://ai.google.dev/api/caching#FunctionDeclaration
_NAME_SOMEWHERE = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")
_MAX_NAME_LENGTH = 64


def with_valid_calls(request: Request) -> tuple[Request, list[CallWarning]]:
    """Return the request with valid calls in its messages, and a warning for each message that lost something.

    Arguments that are no JSON object are sent as a text in one. They are parsed only if they do not look like an
    object, or if modelport returned the call with an error. A name that is no tool's, and that servers refuse, gets
    other characters, also in the message with the call's result.
    """
    tools = {tool.name for tool in request.tools}
    names = _NAME if tools else _NAME_SOMEWHERE
    messages: list[ChatMessage] = list(request.messages)
    warnings: list[CallWarning] = []
    renamed: dict[str, str] = {}
    for i, message in enumerate(request.messages):
        for call in message.tool_calls or ():
            text, name = call.function.arguments, call.function.name
            if call.error is not None or (name not in tools and names.fullmatch(name) is None):
                break
            if isinstance(text, str) and (text[:1] != "{" or text[-1:] != "}"):
                break
        else:
            if renamed and message.name and message.tool_call_id in renamed:
                messages[i] = replace(message, name=renamed[message.tool_call_id])
            continue
        calls = []
        for call in message.tool_calls or ():
            call = _with_object(call)
            name, pattern = call.function.name, names if call.error is None else _NAME
            if name not in tools and pattern.fullmatch(name) is None:
                name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:_MAX_NAME_LENGTH] or "invalid_call"
                call = replace(call, function=replace(call.function, name=name))
                renamed[call.id] = name
                warnings.append(_warning(i, "The name", "is no tool's. It was sent with other characters"))
            calls.append(call)
        if calls != message.tool_calls:
            messages[i] = replace(message, tool_calls=calls)
        if any(INVALID_ARGUMENTS in call.function.arguments for call in calls):
            warnings.append(_warning(i, "The arguments", "are no JSON object. They were sent as a text in one"))
    if messages == list(request.messages):
        return request, []
    return request.replace(messages=tuple(messages)), warnings


def _warning(index: int, part: str, problem: str) -> CallWarning:
    text = f"{part} of a tool call in messages[{index}] {problem}, because servers refuse it otherwise."
    return CallWarning("changed", "messages", text)


def _with_object(call: ChatMessageToolCall) -> ChatMessageToolCall:
    text = call.function.arguments
    if not isinstance(text, str) or _is_object(text):
        return call
    is_empty = text.strip() in ("", "null")
    arguments = "{}" if is_empty else json.dumps({INVALID_ARGUMENTS: text}, ensure_ascii=False)
    return replace(call, function=replace(call.function, arguments=arguments))


def _is_object(text: str) -> bool:
    try:
        return isinstance(read_json(text), dict)
    except ValueError:
        return False
