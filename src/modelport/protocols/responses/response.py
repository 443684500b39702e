"""Reads responses and the events of streams into deltas.

A response is a list of output items: messages, reasoning, tool calls, and calls of server-side tools. A stream
announces each item (`response.output_item.added`), sends it in pieces, and then completely
(`response.output_item.done`). The complete items become the provider data of the message.

`ResponsesReader` reads OpenAI's format, and accepts these deviations of other servers:

- An event may name its item by `output_index`, by `item_id`, or by both. llama.cpp has only `item_id`, and GitHub
  Copilot's `item_id` changes with each event.
- Text, reasoning or arguments may come only with the complete item, or only with the complete response.
- The arguments of a tool call may come parsed. Its ID may be missing, empty or that of another call: it then gets a new
  one, so that its result can be sent.
- A server may have no `incomplete_details`. Then output of as many tokens as the request allowed counts as truncated.

A stream that ends before `response.completed` was interrupted. All other events (of server-side tools, of annotations)
are ignored. Audio and images are left out with a warning; see `media`. The events are those of
https://developers.openai.com/api/reference/resources/responses/streaming-events
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from modelport.errors import MalformedResponse, ModelError
from modelport.protocols.media import MEDIA_EVENTS, media_in_item, media_warnings
from modelport.protocols.openai_output import OUTPUT_TOOL
from modelport.protocols.responses.errors import error_payload
from modelport.protocols.responses.items import CUSTOM_INPUT, MESSAGE_SEPARATOR
from modelport.schema.json_text import excerpt
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.provider_data import ProviderData
from modelport.types.usage import TokenUsage, token_count_from
from modelport.types.warnings import CallWarning

T = TypeVar("T")
#: `incomplete_details.reason` -> modelport's finish reason.
_INCOMPLETE = {
    "max_output_tokens": "length", "max_tokens": "length", "max_messages": "length", "content_filter": "content_filter",
}  # fmt: skip
#: Events with a piece of reasoning. The last one is that of Open Responses.
_REASONING_EVENTS = frozenset({
    "response.reasoning_summary_text.delta", "response.reasoning_text.delta", "response.reasoning.delta",
})  # fmt: skip


@dataclass(slots=True)
class _Item:
    """What has been emitted of one output item.

    Args:
        call_index: The index of a tool call in modelport's deltas; `None` for other items.
        is_output: Whether the item is a call of `OUTPUT_TOOL`, whose input is emitted as content.
        is_custom: Whether the item is a call of a custom tool, whose input is text.
        has_text: Whether text, reasoning, or arguments of the item have been emitted.
    """

    call_index: int | None = None
    is_output: bool = False
    is_custom: bool = False
    has_text: bool = False


class ResponsesReader:
    """Reads one response, non-streaming or in events, into deltas.

    Args:
        error_from: Returns the exception for the code and the body of an error.
        service: The name of the service, for the provider data.
        max_tokens: The most tokens of output that the request allowed, if it said so.
    """

    #: This API separates reasoning from text, so no tags are looked for.
    think_tags = None

    def __init__(
        self,
        error_from: Callable[[Any, Any], ModelError],
        service: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self._error_from, self._service, self._max_tokens = error_from, service, max_tokens
        #: Collects token usage, finish reason and provider data until `finish` returns it.
        self._last_delta = ChatMessageStreamDelta()
        self._is_complete = False
        #: The kinds of media that were left out, because deltas have no field for them.
        self._left_out: set[str] = set()
        self._has_refusal = False
        #: The IDs of the tool calls so far.
        self._call_ids: set[str] = set()
        #: `output_index` or `item_id` of an event -> the item.
        self._items: dict[Any, _Item] = {}
        #: The complete items, each with its `output_index`.
        self._done: list[tuple[Any, Mapping[str, Any]]] = []
        #: The last item with text, and the last with reasoning: between two of them, a separator is emitted.
        self._text_item: _Item | None = None
        self._reasoning_part: Any = None

    def read_response(self, data: Any) -> ChatMessageStreamDelta:
        """Return the one delta of a non-streaming response.

        Args:
            data: The parsed body.

        Raises:
            MalformedResponse: The body is not a response, or the response is not complete.
            ModelError: The body is the service's error.
        """
        delta = self._guarded(self._read_complete, data)
        last = self.finish()
        for name in ("token_usage", "finish_reason", "model_id", "raw", "provider_data", "warnings"):
            setattr(delta, name, getattr(last, name))
        return delta

    def read_chunk(self, data: Any) -> ChatMessageStreamDelta | None:
        """Return the delta of an event, or `None` for an event that delivers nothing.

        Args:
            data: The parsed event.

        Raises:
            MalformedResponse: The data is not an event of a response.
            ModelError: The data is the service's error.
        """
        return self._guarded(self._read_event, data)

    def finish(self) -> ChatMessageStreamDelta:
        """Return the last delta, which holds token usage, finish reason and provider data.

        Raises:
            MalformedResponse: The stream ended before its last event.
        """
        if not self._is_complete:
            raise MalformedResponse(
                "The stream ended before the event response.completed, so the response may be truncated."
            )
        last = self._last_delta
        if self._has_refusal:
            last.finish_reason = "content_filter"
        elif last.finish_reason is None:
            last.finish_reason = "tool_calls" if self._call_ids else "stop"
        if self._left_out:
            last.warnings = [*(last.warnings or ()), *media_warnings(self._left_out)]
        if self._done:
            if all(type(index) is int for index, _ in self._done):
                self._done.sort(key=lambda pair: pair[0])
            last.provider_data = ProviderData("responses", tuple(item for _, item in self._done), self._service)
        return last

    def _guarded(self, read: Callable[[Any], T], data: Any) -> T:
        try:
            return read(data)
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise MalformedResponse(
                f"The service's response is not of the Responses API ({type(error).__name__}: {error}): "
                f"{excerpt(data)}."
            ) from None

    # --- a response ---------------------------------------------------------------------------------------------------

    def _read_complete(self, data: Any) -> ChatMessageStreamDelta:
        if data.get("error"):
            raise self._failure_of(data)
        if data.get("object", "response") != "response" or not isinstance(data.get("output"), list):
            raise TypeError("it has no list 'output'")
        self._read_end(data, data)
        return _joined(self._complete_items(data["output"])) or ChatMessageStreamDelta()

    def _read_end(self, response: Any, raw: Any) -> None:
        """Read the status and the usage of a complete response."""
        status, last = response.get("status") or "completed", self._last_delta
        if status == "failed" or response.get("error"):
            raise self._failure_of(response)
        if status == "incomplete":
            reason = (response.get("incomplete_details") or {}).get("reason")
            last.finish_reason = _INCOMPLETE.get(str(reason), "length")
            if reason not in _INCOMPLETE:
                text = f"The response is incomplete for a reason that modelport does not know: {excerpt(reason)}."
                last.warnings = [CallWarning("other", None, text)]
        elif status != "completed":
            raise ValueError(f"its status is {excerpt(status)}")
        if usage := response.get("usage"):
            last.token_usage = usage_from(usage)
            count = last.token_usage.output_tokens
            if self._max_tokens and count and count >= self._max_tokens and "incomplete_details" not in response:
                last.finish_reason = "length"
        self._read_model(response)
        last.raw, self._is_complete = raw, True

    def _failure_of(self, response: Mapping[str, Any]) -> ModelError:
        error = self._error_from(*error_payload(response.get("error")))
        error.token_usage = usage_from(usage) if (usage := response.get("usage")) else None
        return error

    def _read_model(self, response: Mapping[str, Any]) -> None:
        if isinstance(model_id := response.get("model"), str):
            self._last_delta.model_id = model_id

    # --- events -------------------------------------------------------------------------------------------------------

    def _read_event(self, data: Any) -> ChatMessageStreamDelta | None:
        kind = data.get("type")
        if kind == "response.output_text.delta":  # Most events are of this type.
            return self._text(self._item_of(data), data["delta"], data.get("logprobs"))
        if kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            return self._input(self._item_of(data), data["delta"])
        if kind in _REASONING_EVENTS:
            part = (kind, data.get("output_index"), data.get("summary_index"), data.get("content_index"))
            return self._reasoning(self._item_of(data), data["delta"], part)
        if kind == "response.output_item.added":
            return self._start(data, data["item"])[1]
        if kind == "response.output_item.done":
            return self._end_item(data, data["item"])
        if kind == "response.refusal.delta":
            self._has_refusal = True
            return self._text(self._item_of(data), data["delta"])
        if kind in ("response.completed", "response.incomplete"):
            return self._read_last(data["response"], data)
        if kind == "response.failed":
            raise self._failure_of(data["response"])
        if kind == "response.created":
            self._read_model(data["response"])
        elif kind == "error" or data.get("error"):
            # `EventReader` puts an event of type `error` into the key "error".
            raise self._error_from(*error_payload(data.get("error") or data))
        elif kind in MEDIA_EVENTS:
            self._left_out.add(MEDIA_EVENTS[kind])
            return ChatMessageStreamDelta(raw=data)
        elif kind is None:
            return self._read_complete(data)  # The server answers without streaming.
        return None

    def _read_last(self, response: Any, data: Any) -> ChatMessageStreamDelta | None:
        self._read_end(response, data)
        if self._done:
            return None
        # The server sent no complete items, or no items at all.
        return _joined(self._complete_items(response.get("output") or ()))

    def _item_of(self, data: Mapping[str, Any]) -> _Item:
        """Return the item of an event. If the server did not announce it, it is a new one."""
        key = _key_of(data)
        if key not in self._items:
            self._items[key] = _Item()
        return self._items[key]

    def _start(self, data: Mapping[str, Any], item: Mapping[str, Any]) -> tuple[_Item, ChatMessageStreamDelta | None]:
        """Read the beginning of an item: of a tool call, it holds the ID and the name.

        Returns:
            The item, and the delta of its beginning.
        """
        kind, entry = item.get("type"), _Item()
        for key in _keys_of(data, item):
            self._items[key] = entry
        if kind not in ("function_call", "custom_tool_call"):
            return entry, None
        entry.is_custom = kind == "custom_tool_call"
        if entry.is_custom and item.get("name") == OUTPUT_TOOL:
            entry.is_output = True
            return entry, None
        entry.call_index = len(self._call_ids)
        call_id, name = item.get("call_id"), item["name"]
        if not isinstance(call_id, str | None) or not isinstance(name, str):
            raise TypeError("a call's ID or name is not a string")
        if not call_id or call_id in self._call_ids:
            call_id = f"call_{os.urandom(12).hex()}"
        self._call_ids.add(call_id)
        function = ChatMessageToolCallFunction(f'{{"{CUSTOM_INPUT}": "' if entry.is_custom else "", name)
        piece = ChatMessageToolCallStreamDelta(entry.call_index, call_id, "function", function)
        return entry, ChatMessageStreamDelta(tool_calls=[piece])

    def _end_item(self, data: Mapping[str, Any], item: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """Read a complete item, and return what has not been emitted of it."""
        entry = next((self._items[key] for key in _keys_of(data, item)[:1] if key in self._items), None)
        deltas: list[ChatMessageStreamDelta | None] = []
        if entry is None:
            entry, start = self._start(data, item)
            deltas.append(start)
        self._done.append((data.get("output_index"), item))
        if media := media_in_item(item):
            self._left_out.update(media)
            deltas.append(ChatMessageStreamDelta(raw=data))
        kind = item.get("type")
        if kind == "message":
            parts = item.get("content") or ()
            self._has_refusal = self._has_refusal or any(part.get("type") == "refusal" for part in parts)
            if not entry.has_text:
                deltas += [self._message_part(entry, part) for part in parts]
        elif kind == "reasoning" and not entry.has_text:
            for group in ("summary", "content"):
                for number, part in enumerate(item.get(group) or ()):
                    deltas.append(self._reasoning(entry, part.get("text") or "", (len(self._done), group, number)))
        elif kind in ("function_call", "custom_tool_call"):
            text = item.get("input" if entry.is_custom else "arguments")
            if not entry.has_text and text:
                deltas.append(self._input(entry, text if isinstance(text, str) else json.dumps(text)))
            if entry.is_custom and not entry.is_output:
                deltas.append(self._call_piece(entry, '"}'))
        return _joined(deltas)

    def _complete_items(self, items: Iterable[Mapping[str, Any]]) -> list[ChatMessageStreamDelta | None]:
        return [self._end_item({"output_index": number}, item) for number, item in enumerate(items)]

    def _message_part(self, entry: _Item, part: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        if part.get("type") == "refusal":
            return self._text(entry, part["refusal"])
        return self._text(entry, part.get("text") or "", part.get("logprobs"))

    # --- pieces of items ----------------------------------------------------------------------------------------------

    def _text(self, entry: _Item, text: Any, logprobs: Any = None) -> ChatMessageStreamDelta | None:
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}, not a string")
        if not text and not logprobs:
            return None
        if not entry.has_text:
            if self._text_item is not None and self._text_item is not entry:
                text = MESSAGE_SEPARATOR + text
            self._text_item, entry.has_text = entry, True
        return ChatMessageStreamDelta(content=text or None, logprobs=[*map(_logprob, logprobs)] if logprobs else None)

    def _reasoning(self, entry: _Item, text: Any, part: Any) -> ChatMessageStreamDelta | None:
        if not isinstance(text, str):
            raise TypeError(f"reasoning is {type(text).__name__}, not a string")
        if not text:
            return None
        if part != self._reasoning_part:
            if self._reasoning_part is not None:
                text = MESSAGE_SEPARATOR + text
            self._reasoning_part = part
        entry.has_text = True
        return ChatMessageStreamDelta(reasoning=text)

    def _input(self, entry: _Item, text: Any) -> ChatMessageStreamDelta | None:
        """Return the delta of a piece of a call's arguments, or of the input of a custom tool."""
        if not isinstance(text, str):
            raise TypeError(f"arguments are {type(text).__name__}, not a string")
        if entry.is_output:
            return self._text(entry, text)
        if entry.call_index is None:
            raise ValueError("it is a piece of a call that was not announced")
        entry.has_text = True
        return self._call_piece(entry, json.dumps(text)[1:-1] if entry.is_custom else text)

    def _call_piece(self, entry: _Item, text: str) -> ChatMessageStreamDelta:
        function = ChatMessageToolCallFunction(text, "")
        return ChatMessageStreamDelta(tool_calls=[ChatMessageToolCallStreamDelta(entry.call_index, function=function)])


def _key_of(data: Mapping[str, Any]) -> Any:
    index = data.get("output_index")
    return data.get("item_id") if index is None else index


def _keys_of(data: Mapping[str, Any], item: Mapping[str, Any]) -> list[Any]:
    """Return by what later events may name an item, the most reliable first."""
    keys = (data.get("output_index"), data.get("item_id"), item.get("id"), item.get("call_id"))
    return [key for key in keys if key is not None]


def _joined(deltas: Iterable[ChatMessageStreamDelta | None]) -> ChatMessageStreamDelta | None:
    """Return one delta with the output of several; `None` if they have none."""
    parts = [delta for delta in deltas if delta is not None]
    if len(parts) < 2:
        return parts[0] if parts else None
    return ChatMessageStreamDelta(
        content="".join(part.content or "" for part in parts) or None,
        tool_calls=[call for part in parts for call in part.tool_calls or ()] or None,
        reasoning="".join(part.reasoning or "" for part in parts) or None,
        logprobs=[item for part in parts for item in part.logprobs or ()] or None,
        raw=next((part.raw for part in parts if part.raw is not None), None),
    )


def _logprob(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log probability of a token, with the keys that chat completions have too."""
    token = item["token"]
    encoded = item.get("bytes") or list(token.encode("utf-8", "surrogatepass"))
    top = [_logprob(one) for one in item.get("top_logprobs") or ()]
    return {"token": token, "logprob": item.get("logprob"), "bytes": encoded, "top_logprobs": top}


def usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    """Return the token usage of a response. A count that the service does not send is unknown, not zero."""
    return TokenUsage(
        input_tokens=token_count_from(usage.get("input_tokens")),
        output_tokens=token_count_from(usage.get("output_tokens")),
        cached_input_tokens=token_count_from((usage.get("input_tokens_details") or {}).get("cached_tokens")),
        reasoning_tokens=token_count_from((usage.get("output_tokens_details") or {}).get("reasoning_tokens")),
    )
