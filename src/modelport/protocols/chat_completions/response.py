"""Reads chat-completions responses and the chunks of streams into deltas.

`ChatResponseReader` reads OpenAI's format, and accepts these deviations of other services:

- The token usage of a stream may come in its own chunk without choices, in the last chunk, or in every chunk. It is
  emitted once, with the finish reason, in the delta that `finish` returns.
- A service may answer a streaming request with one complete message.
- Content may be a list of parts, of which only the text is used.
- Reasoning may be called `reasoning_content` or `reasoning`.
- Parallel tool calls may all have index 0, or no index at all. They are distinguished by their ids and names.
- An error may come inside a response with status 200, or as a chunk of a stream.
- A stream that ends without a finish reason may be incomplete. It is an error unless `accept_missing_finish` is set.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from modelport.errors import MalformedResponse
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.output_format import OUTPUT_TOOL
from modelport.protocols.chat_completions.stream_quirks import MessageParts, error_in, unwrap_error_list, usage_in
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.usage import TokenUsage, token_count_from

#: Finish reasons of services -> finish reasons of modelport.
_FINISH_REASONS = {
    "stop": "stop", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "abort": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
    "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "safety": "content_filter",
}  # fmt: skip


class ChatResponseReader:
    """Reads one response, non-streaming or in chunks, into deltas.

    Args:
        accept_missing_finish: Whether a stream without a finish reason counts as complete, because the server never
            sends one.
    """

    def __init__(self, accept_missing_finish: bool = False) -> None:
        self._accept_missing_finish = accept_missing_finish
        self._parts = MessageParts()
        #: Collects token usage and finish reason until `finish` returns it.
        self._last_delta = ChatMessageStreamDelta()
        #: Index of a tool call in modelport's deltas -> the call's id.
        self._call_ids: dict[int, str | None] = {}
        #: Index of a tool call in the service's chunks -> its index in modelport's deltas.
        self._call_indices: dict[int, int] = {}
        #: The service's indices of calls of `OUTPUT_TOOL`. The input of this tool is emitted as content.
        self._output_indices: set[Any] = set()
        #: Whether the model refused to answer. The finish reason is then `content_filter`.
        self._has_refusal = False

    def read_response(self, data: Any) -> ChatMessageStreamDelta:
        """Return the one delta of a non-streaming response.

        Args:
            data: The parsed body.

        Raises:
            MalformedResponse: The body is not a chat completion.
            ModelError: The body is the service's error.
        """
        self._accept_missing_finish = True  # A body that parses as JSON is complete.
        delta = self._read(data, "message")
        if delta is None:
            raise MalformedResponse(f"The service's response holds no choices: {_excerpt(data)}.")
        last = self.finish()
        delta.token_usage, delta.finish_reason, delta.stop_sequence = (
            last.token_usage, last.finish_reason, last.stop_sequence,
        )  # fmt: skip
        delta.model_id, delta.raw = last.model_id, last.raw
        return delta

    def read_chunk(self, data: Any) -> ChatMessageStreamDelta | None:
        """Return the delta of a chunk, or `None` for a chunk that delivers nothing.

        Args:
            data: The parsed chunk.

        Raises:
            MalformedResponse: The data is not a chunk of a chat completion.
            ModelError: The data is the service's error.
        """
        return self._read(data, "delta")

    def finish(self) -> ChatMessageStreamDelta:
        """Return the last delta, which holds token usage and finish reason.

        Raises:
            MalformedResponse: The stream ended without a finish reason, and `accept_missing_finish` is not set.
        """
        last = self._last_delta
        if last.finish_reason is None:
            if not self._accept_missing_finish:
                raise MalformedResponse(
                    "The stream ended without a finish reason, so the response may be truncated. If this server never "
                    "sends a finish reason, pass accept_missing_finish=True."
                )
            last.finish_reason = "tool_calls" if self._call_ids else "stop"
        elif self._has_refusal:
            last.finish_reason = "content_filter"
        elif self._output_indices and not self._call_ids and last.finish_reason == "tool_calls":
            last.finish_reason = "stop"  # The only tool that was called is `OUTPUT_TOOL`.
        elif self._call_ids and last.finish_reason == "stop":
            last.finish_reason = "tool_calls"  # Some services send "stop" with tool calls.
        return last

    def _read(self, data: Any, message_key: str) -> ChatMessageStreamDelta | None:
        try:
            data = unwrap_error_list(data)
            error = error_in(data)
            if error or ("choices" not in data and isinstance(data.get("message"), str)):
                error = error or data  # Some gateways send the error's fields without the key "error".
                raise error_from(error.get("code") if isinstance(error, dict) else None, {"error": error})
            # Azure's first chunk, and the chunk with the usage, have no choices.
            delta = self._read_choice(choices[0], message_key, data) if (choices := data.get("choices")) else None
            if usage := usage_in(data):
                self._last_delta.token_usage = usage_from(usage)
                self._last_delta.raw = data
            return delta
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise MalformedResponse(
                f"The service's response is not a chat completion ({type(error).__name__}: {error}): {_excerpt(data)}."
            ) from None

    def _read_choice(self, choice: Any, message_key: str, data: Any) -> ChatMessageStreamDelta | None:
        if reason := choice.get("finish_reason"):
            self._last_delta.finish_reason = _FINISH_REASONS.get(reason, "stop")
            self._last_delta.raw = data
            if isinstance(stop := choice.get("stop_reason"), str):
                self._last_delta.stop_sequence = stop
        message = self._parts.read(choice, message_key)
        content = message.get("content")
        if isinstance(content, list):  # Mistral's reasoning models send a list of parts.
            content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
        if refusal := message.get("refusal"):
            content, self._has_refusal = (content or "") + refusal, True
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if content is not None and not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}, not a string")
        if reasoning is not None and not isinstance(reasoning, str):
            raise TypeError(f"reasoning is {type(reasoning).__name__}, not a string")
        calls: list[ChatMessageToolCallStreamDelta] = []
        if received := message.get("tool_calls"):
            if outputs := [call["custom"]["input"] for call in received if self._is_output(call)]:
                content = (content or "") + "".join(outputs)
            calls = [self._call_delta(call) for call in received if not self._is_output(call)]
        if logprobs := choice.get("logprobs"):
            logprobs = logprobs.get("content") or None
        if logprobs and not (isinstance(logprobs, list) and all(isinstance(item, dict) for item in logprobs)):
            raise TypeError("logprobs is not a list of objects")
        if self._last_delta.model_id is None:
            model_id = data.get("model")
            self._last_delta.model_id = model_id if isinstance(model_id, str) else None
        if not (content or reasoning or calls or logprobs):
            # An empty message is a valid response, but an empty chunk delivers nothing.
            return ChatMessageStreamDelta() if "message" in choice else None
        return ChatMessageStreamDelta(
            content=content or None, tool_calls=calls or None, reasoning=reasoning, logprobs=logprobs or None
        )

    def _is_output(self, call: Any) -> bool:
        """Return whether a tool call, or a fragment of one, belongs to a call of `OUTPUT_TOOL`."""
        custom = call.get("custom")
        if not isinstance(custom, dict):
            return False
        if custom.get("name") == OUTPUT_TOOL:
            self._output_indices.add(call.get("index"))
        return call.get("index") in self._output_indices

    def _call_delta(self, call: Any) -> ChatMessageToolCallStreamDelta:
        function = call.get("function") or {}
        call_id, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
        for field, value in (("id", call_id), ("name", name)):
            if not isinstance(value, str | None):
                raise TypeError(f"a call's {field} is {type(value).__name__}, not a string")
        return ChatMessageToolCallStreamDelta(
            index=self._index_of(call.get("index"), call_id, name),
            id=call_id,
            type=kind if isinstance(kind := call.get("type"), str) and kind else "function",
            function=ChatMessageToolCallFunction(arguments=arguments if arguments is not None else "", name=name or ""),
        )

    def _index_of(self, service_index: int | None, call_id: str | None, name: str | None) -> int:
        """Return the index, in modelport's deltas, of the call to which a fragment belongs.

        Some servers give every parallel call the index 0, and some send no index. So a fragment starts a new call not
        only if its index is new, but also if its id differs from that of the call with its index (of the last call, if
        it has no index), or if it has a name but neither an index nor an id.
        """
        if service_index is not None:
            index = self._call_indices.get(service_index)
        else:
            index = len(self._call_ids) - 1 if self._call_ids else None
        has_new_id = bool(call_id) and index is not None and self._call_ids[index] not in (None, call_id)
        has_only_name = service_index is None and bool(name) and not call_id
        if index is None or has_new_id or has_only_name:
            index = len(self._call_ids)
            self._call_ids[index] = None
        if service_index is not None:
            self._call_indices[service_index] = index
        self._call_ids[index] = call_id or self._call_ids[index]
        return index


def usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    """Return the token usage of a response. A count that the service does not send is unknown, not zero."""
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return TokenUsage(
        input_tokens=token_count_from(usage.get("prompt_tokens")),
        output_tokens=token_count_from(usage.get("completion_tokens")),
        cached_input_tokens=token_count_from(prompt.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))),
        reasoning_tokens=token_count_from(completion.get("reasoning_tokens")),
    )


def _excerpt(data: Any) -> str:
    text = _REPR.repr(data)  # It reads only the beginning of large data.
    return text if len(text) <= 200 else text[:200] + "…"


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxstring, _REPR.maxother = 8, 20, 20, 300, 300
