"""Turns messages into the items of the field `input`. All functions are pure.

A message that the Responses API returned has its items as provider data: messages, reasoning, tool calls and the calls
of server-side tools. They are sent back unchanged and in the same order, apart from their ids: with `store: false` the
service has not stored the items, and rejects their ids.

A caller, or a layer of modelport, may have changed the message in the meantime: a stop sequence truncates the text, and
only the first of several tool calls may be used. So each item is compared with the message. Where they differ, the
message is sent, and not the item. A reasoning item is sent only with the item that follows it, because the service
rejects one without the other.

See https://developers.openai.com/api/docs/guides/reasoning#keeping-reasoning-items-in-context. Every message has its
type: OpenAI does not require it, but Azure Foundry (https://github.com/microsoft/vscode/issues/318125) and Open
Responses do (https://www.openresponses.org/specification).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.types.content import Image, Text
from modelport.types.messages import INVALID_ARGUMENTS, ChatMessage, ChatMessageToolCall, MessageRole

#: Between the texts of two messages of one response, such as a commentary and the final answer.
MESSAGE_SEPARATOR = "\n\n"
#: The argument that holds the input of a custom tool, which is text and not JSON.
CUSTOM_INPUT = "input"
_CALLS = ("function_call", "custom_tool_call")
#: The most characters of a call's ID. Some services return longer ones, and refuse them in the next request, see
#: https://github.com/NousResearch/hermes-agent/issues/73492
_MAX_CALL_ID = 64


def input_items(
    messages: Iterable[ChatMessage],
    *,
    service: str | None = None,
    keeps_ids: bool = False,
    sends_reasoning: bool = False,
) -> list[dict[str, Any]]:
    """Return the items of a conversation.

    Args:
        messages: Messages as `inputs` has normalised them.
        service: The name of the service to which the items are sent. Provider data of other services is not sent.
        keeps_ids: Whether the service has stored earlier items, so that their ids are sent.
        sends_reasoning: Whether the reasoning text of messages without provider data is sent.

    Raises:
        UnsupportedFeature: A message has audio, which this API does not accept.
        InvalidRequest: Provider data is not a list of items.
    """
    result: list[dict[str, Any]] = []
    custom_calls: set[str] = set()  # The IDs of calls whose results have a type of their own.
    for message in messages:
        if message.role == MessageRole.ASSISTANT:
            data = message.provider_data
            own = data is not None and data.fits("responses", service)
            try:
                returned = [_with_text(item) for item in data.items] if data is not None and own else []
                items = _assistant_items(message, returned, keeps_ids, sends_reasoning)
            except (TypeError, ValueError, AttributeError, KeyError, RecursionError) as error:
                raise InvalidRequest(
                    f"provider_data of an assistant's message: its items are not those of the Responses API ({error}); "
                    "pass the message as it was returned"
                ) from None
            custom_calls.update(item["call_id"] for item in items if item.get("type") == "custom_tool_call")
            result += items if keeps_ids else map(_without_id, items)
        elif message.role == MessageRole.TOOL:
            kind = "custom_tool_call_output" if message.tool_call_id in custom_calls else "function_call_output"
            result.append({"type": kind, "call_id": message.tool_call_id, "output": _content(message)})
        else:
            result.append({"type": "message", "role": str(message.role), "content": _content(message)})
    for item in result:
        if len(item.get("call_id") or "") > _MAX_CALL_ID:
            # The same ID becomes the same digest in the call, in its result, and in every later request.
            digest = hashlib.sha256(item["call_id"].encode("utf-8", "surrogatepass"))
            item["call_id"] = f"call_{digest.hexdigest()[:40]}"
    return result


def message_text(items: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the messages among these items, including refusals."""
    texts = (_text_of(item) for item in items if item.get("type") == "message")
    return MESSAGE_SEPARATOR.join(text for text in texts if text)


def _text_of(item: Mapping[str, Any]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in item.get("content") or ())


def _assistant_items(
    message: ChatMessage, returned: Sequence[dict[str, Any]], keeps_ids: bool, sends_reasoning: bool
) -> list[dict[str, Any]]:
    """Return the items of an assistant's message.

    Args:
        message: The message.
        returned: The items that the service returned for it; empty if it is another service's message.
        keeps_ids: See `input_items`.
        sends_reasoning: See `input_items`.
    """
    text, calls = message.text, {call.id: call for call in message.tool_calls or ()}
    is_text_unchanged = bool(returned) and text == message_text(returned)
    result: list[dict[str, Any]] = []
    reasoning: list[dict[str, Any]] = []  # Reasoning items, until the item that follows them is known.
    has_text = not text
    if not returned and sends_reasoning and message.reasoning:
        content = [{"type": "reasoning_text", "text": message.reasoning}]
        result.append({"type": "reasoning", "summary": [], "content": content})
    for item in returned:
        kind = item.get("type")
        if kind == "reasoning":
            reasoning.append(item)
            continue
        replacement: dict[str, Any] | None = item
        if kind == "message":
            if not is_text_unchanged:
                replacement = None if has_text else _message(text)
            has_text = True
        elif kind in _CALLS and not _is_call(item, call := calls.pop(item.get("call_id", ""), None)):
            replacement = None if call is None else _call(call)
            if replacement is not None and _has_invalid_arguments(item, replacement):
                item = replacement  # It is the same call, so it keeps its reasoning.
        if replacement is item:
            # Without its id, an item that holds neither encrypted reasoning nor text says nothing.
            result += (one for one in reasoning if keeps_ids or one.get("encrypted_content") or one.get("content"))
        if replacement is not None:
            result.append(replacement)
        reasoning = []
    if not has_text:
        # Text without an item, such as the output of a forced tool, stands before the calls, as in the message.
        position = next((i for i, item in enumerate(result) if item.get("type") in _CALLS), len(result))
        while position and result[position - 1].get("type") == "reasoning" and returned:
            position -= 1
        result.insert(position, _message(text))
    return [*result, *map(_call, calls.values())]


def _with_text(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an item, whose arguments are text again.

    smolagents parses every text that looks like JSON when it saves the memory of an agent.
    """
    result = dict(item)
    for field in ("arguments", "input"):
        if result.get("type") in _CALLS and not isinstance(result.get(field), str | None):
            result[field] = json.dumps(result[field], ensure_ascii=False)
    return result


def _without_id(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "id"}


def _message(text: str) -> dict[str, Any]:
    # Some servers, such as llama.cpp's, do not accept a string as the content of an assistant's message.
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


def _call(call: ChatMessageToolCall) -> dict[str, Any]:
    function = call.function
    arguments = function.arguments_json() or "{}"
    return {"type": "function_call", "call_id": call.id, "name": function.name, "arguments": arguments}


def _is_call(item: Mapping[str, Any], call: ChatMessageToolCall | None) -> bool:
    """Return whether an item is this call: the same tool, with the same arguments."""
    if call is None or item.get("name") != call.function.name:
        return False
    arguments = call.function.arguments_json()
    if item.get("type") == "function_call" and (item.get("arguments") or "{}") == arguments:
        return True  # The service's own text.
    try:
        parsed = json.loads(arguments)
        if item.get("type") == "custom_tool_call":
            return bool(parsed == {CUSTOM_INPUT: item.get("input")})
        return bool(parsed == json.loads(item.get("arguments") or "{}"))
    except (ValueError, RecursionError):
        return False


def _has_invalid_arguments(item: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    """Return whether a call is this item, whose arguments are no JSON object and so became a text in one."""
    text = json.dumps({INVALID_ARGUMENTS: item.get("arguments")}, ensure_ascii=False)
    return (item.get("name"), text) == (call["name"], call["arguments"])


def _content(message: ChatMessage) -> str | list[dict[str, Any]]:
    """Return the content of a message of the user, the system or a tool."""
    if not isinstance(message.content, tuple):
        return message.text
    return [_part(part) for part in message.content]


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": part.as_url(), "detail": part.detail or "auto"}
    if part.kind == "audio":
        raise UnsupportedFeature("the Responses API accepts no audio; pass api='chat' to use chat completions")
    file = part.to_dict()["file"]
    return {"type": "input_file", "filename": file["filename"], "file_data": file["file_data"]}


def has_cache_control(messages: Iterable[ChatMessage]) -> bool:
    """Return whether a part asks for prompt caching by `cache_control`, which this API does not have."""
    return any(part.cache_control is not None for part in _parts(messages))


def _parts(messages: Iterable[ChatMessage]) -> Iterator[Any]:
    for message in messages:
        if isinstance(message.content, tuple):
            yield from message.content
