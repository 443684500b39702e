"""Converts LangChain's messages to messages that a modelport model accepts.

LangChain itself converts the content of each message to its standard content blocks (`content_blocks`), whichever
service or version of LangChain the content comes from. This module knows only these blocks.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage

from modelport.errors import InvalidRequest
from modelport.types.warnings import CallWarning

#: The key of `additional_kwargs` under which a message of LangChain has what modelport must send back to the service.
PROVIDER_KEY = "modelport"
_ROLES = ((HumanMessage, "user"), (AIMessage, "assistant"), (SystemMessage, "system"), (ToolMessage, "tool"))
_CALL_BLOCKS = ("tool_call", "invalid_tool_call", "tool_call_chunk", "tool_use")
#: Names that media types have for the formats of audio that chat completions know.
_AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav"}


def messages_from_langchain(messages: Iterable[BaseMessage]) -> tuple[list[dict[str, Any]], list[CallWarning]]:
    """Return the messages as dicts that `Model.generate` accepts, and warnings about what was left out or added.

    Raises:
        InvalidRequest: A message can't be sent to any model; the error has its path.
    """
    warnings: list[CallWarning] = []
    result = [_message_from(message, f"messages[{i}]", warnings) for i, message in enumerate(messages)]
    _add_missing_results(result, warnings)
    return result, warnings


def _message_from(message: BaseMessage, path: str, warnings: list[CallWarning]) -> dict[str, Any]:
    role = next((role for cls, role in _ROLES if isinstance(message, cls)), None)
    if role is None and isinstance(message, ChatMessage):
        role = message.role
    if role is None:
        raise InvalidRequest(f"{path}: a {type(message).__name__} can't be sent to a model")
    result: dict[str, Any] = {"role": role}
    if message.name:
        result["name"] = message.name
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        _add_response(result, message, path, warnings)
    elif isinstance(message.content, str):
        result["content"] = message.content
    else:
        blocks = enumerate(message.content_blocks)
        result["content"] = [_part_from(block, f"{path}.content[{i}]") for i, block in blocks]
    return result


def _add_missing_results(messages: list[dict[str, Any]], warnings: list[CallWarning]) -> None:
    """Add the errors of invalid calls as their results, where the messages have no result of a call.

    LangChain's agents run only valid calls. Services refuse a conversation in which a call has no result.
    """
    for i in range(len(messages) - 1, -1, -1):  # From the end, so that the indices stay right.
        calls = messages[i].get("tool_calls") or []
        missing = {call["id"]: call["error"] for call in calls if "error" in call}
        for later in messages[i + 1 :] if missing else ():
            if any(call["id"] in missing for call in later.get("tool_calls") or ()):
                break  # Some models give the same ids in each turn.
            missing.pop(later.get("tool_call_id"), None)
        if not missing:
            continue
        end = i + 1
        while end < len(messages) and messages[end]["role"] == "tool":
            end += 1
        added = [{"role": "tool", "tool_call_id": key, "content": error} for key, error in missing.items()]
        indices = {call["id"]: index for index, call in enumerate(calls)}
        results = messages[i + 1 : end] + added
        messages[i + 1 : end] = sorted(results, key=lambda item: indices.get(item["tool_call_id"], len(calls)))
        text = f"messages[{i}] has an invalid tool call without a result. Its error was sent as the result."
        warnings.append(CallWarning("changed", "messages", text))


def _add_response(result: dict[str, Any], message: AIMessage, path: str, warnings: list[CallWarning]) -> None:
    """Add the content, the reasoning, the calls and the provider data of a model's message."""
    blocks: Sequence[Mapping[str, Any]] = [_unwrapped(block) for block in message.content_blocks]
    texts = [_text_part(block) for block in blocks if block["type"] == "text" and block.get("text")]
    is_plain = all(part.keys() == {"type", "text"} for part in texts)
    result["content"] = "".join(part["text"] for part in texts) if is_plain else texts
    if reasoning := "".join(block.get("reasoning") or "" for block in blocks if block["type"] == "reasoning"):
        result["reasoning"] = reasoning
    for i, block in enumerate(blocks):
        if block["type"] not in ("text", "reasoning", *_CALL_BLOCKS):
            text = f"{path}.content[{i}] was left out: a {block['type']} block can't be sent back to a model."
            warnings.append(CallWarning("left_out", "messages", text))
    data = message.additional_kwargs.get(PROVIDER_KEY) or {}
    if isinstance(data, Mapping) and data.get("provider_data") is not None:
        result["provider_data"] = data["provider_data"]
    data_of_calls = data.get("calls") if isinstance(data, Mapping) else None
    calls: list[Any] = [*message.tool_calls, *message.invalid_tool_calls]
    if not calls:  # A message that was made from content blocks may have calls only there.
        calls = [block for block in blocks if block["type"] in ("tool_call", "invalid_tool_call", "tool_use")]
    if isinstance(data, Mapping) and (order := data.get("order")):
        calls.sort(key=lambda call: order.index(call["id"]) if call["id"] in order else len(order))
    if calls:
        result["tool_calls"] = [_call_from(call, data_of_calls or {}) for call in calls]


def _unwrapped(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the call of a message in Anthropic's format, which LangChain does not convert; else the block."""
    value = block.get("value") if block["type"] == "non_standard" else None
    return value if isinstance(value, Mapping) and value.get("type") == "tool_use" else block


def _call_from(call: Mapping[str, Any], data_of_calls: Mapping[str, Any]) -> dict[str, Any]:
    arguments = call.get("input") if call["type"] == "tool_use" else call.get("args")
    arguments = {} if arguments is None else arguments
    function = {"name": call.get("name") or "", "arguments": arguments}
    result: dict[str, Any] = {"id": call.get("id") or "", "type": "function", "function": function}
    if (data := data_of_calls.get(result["id"])) is not None:
        result["provider_data"] = data
    if call["type"] == "invalid_tool_call":  # modelport makes the arguments of such a call valid JSON again.
        result["error"] = call.get("error") or "The call can't be used: its arguments contain no valid JSON."
    return result


def _text_part(block: Mapping[str, Any]) -> dict[str, Any]:
    return _with_cache_control({"type": "text", "text": block.get("text") or ""}, block)


def _with_cache_control(part: dict[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    cache_control = block.get("cache_control") or (block.get("extras") or {}).get("cache_control")
    return {**part, "cache_control": cache_control} if cache_control else part


def _part_from(block: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a content block of a caller's message as a part in the format of chat completions.

    Raises:
        InvalidRequest: modelport has no such part.
    """
    kind = block["type"]
    if kind == "text":
        return _text_part(block)
    if kind == "text-plain" and isinstance(block.get("text"), str):
        return {"type": "text", "text": block["text"]}
    if kind == "non_standard":
        return dict(block["value"])  # modelport knows more formats than LangChain, and refuses the others itself.
    extras = block.get("extras") or {}
    data = block.get("base64")
    if kind == "image":
        if data is None and not block.get("url"):
            return {key: value for key, value in block.items() if key not in ("id", "index", "extras")}
        url = block.get("url") if data is None else _data_url(block, data, "image/png")
        image_url = {"url": url} | ({"detail": extras["detail"]} if "detail" in extras else {})
        return _with_cache_control({"type": "image_url", "image_url": image_url}, block)
    if kind == "audio" and data is not None:
        subtype = str(block.get("mime_type") or "audio/wav").rpartition("/")[2]
        audio = {"data": _base64(data), "format": _AUDIO_FORMATS.get(subtype, subtype)}
        return _with_cache_control({"type": "input_audio", "input_audio": audio}, block)
    if kind in ("file", "text-plain") and data is not None:
        media_type = "text/plain" if kind == "text-plain" else "application/pdf"
        name = extras.get("filename") or block.get("filename") or block.get("title") or "file"
        file = {"filename": name, "file_data": _data_url(block, data, media_type)}
        return _with_cache_control({"type": "file", "file": file}, block)
    given = next((key for key in ("url", "file_id") if block.get(key)), None)
    problem = f"by its {given} is not supported: pass its 'base64'" if given else "is not supported"
    raise InvalidRequest(f"{path}: content of type {kind!r} {problem}")


def _data_url(block: Mapping[str, Any], data: Any, default: str) -> str:
    return f"data:{block.get('mime_type') or default};base64,{_base64(data)}"


def _base64(data: Any) -> str:
    return base64.b64encode(data).decode() if isinstance(data, bytes) else str(data)
