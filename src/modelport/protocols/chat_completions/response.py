"""Reads chat-completions responses, whole or in chunks, into deltas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelport.errors import MalformedResponse
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.output_format import ANSWER_TOOL
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.usage import TokenUsage, token_count_from

_FINISH = {
    "stop": "stop", "eos": "stop", "end_turn": "stop", "stop_sequence": "stop", "abort": "stop",
    "length": "length", "max_tokens": "length", "model_length": "length",
    "tool_calls": "tool_calls", "function_call": "tool_calls", "tool_use": "tool_calls",
    "content_filter": "content_filter", "safety": "content_filter",
}  # fmt: skip


class ChatResponseReader:
    """Reads one answer, whole or in chunks, into deltas.

    Args:
        accept_missing_finish: Whether a stream that ends without a finish reason is complete; some servers send none.
    """

    def __init__(self, accept_missing_finish: bool = False) -> None:
        self._accept_missing_finish = accept_missing_finish
        self._closing = ChatMessageStreamDelta()
        self._ids: dict[int, str | None] = {}  # our index of a call -> its id
        self._slots: dict[int, int] = {}  # the service's index -> ours
        self._refused = False
        self._answers: set[Any] = set()  # the service's indices of the calls that are the answer itself

    def whole(self, data: Any) -> ChatMessageStreamDelta:
        """The one delta of an answer that was not streamed.

        Raises:
            MalformedResponse: It is none.
            ModelError: It is the service's error.
        """
        self._accept_missing_finish = True  # A JSON text that parses is not cut short.
        delta = self._read(data, "message")
        if delta is None:
            raise MalformedResponse(f"The service's answer holds no choices: {_shown(data)}.")
        closing = self.end()
        for name in ("token_usage", "finish_reason", "stop_sequence", "model_id", "raw"):
            setattr(delta, name, getattr(closing, name))
        return delta

    def chunk(self, data: Any) -> ChatMessageStreamDelta | None:
        """The delta that a chunk of a stream holds, or `None` for one that delivers nothing.

        Raises:
            MalformedResponse: It is no chunk.
            ModelError: It is the service's error.
        """
        return self._read(data, "delta")

    def end(self) -> ChatMessageStreamDelta:
        """The closing delta: usage and finish reason, once.

        Raises:
            MalformedResponse: The stream ended before its answer did.
        """
        closing = self._closing
        if closing.finish_reason is None:
            if not self._accept_missing_finish:
                raise MalformedResponse(
                    "The stream ended without a finish reason, so the answer may be cut short. If this server never "
                    "sends one, pass accept_missing_finish=True."
                )
            closing.finish_reason = "tool_calls" if self._ids else "stop"
        elif self._refused:
            closing.finish_reason = "content_filter"
        elif self._answers and not self._ids and closing.finish_reason == "tool_calls":
            closing.finish_reason = "stop"
        elif self._ids and closing.finish_reason == "stop":
            closing.finish_reason = "tool_calls"
        return closing

    def _read(self, data: Any, key: str) -> ChatMessageStreamDelta | None:
        try:
            error = data.get("error")
            if error or ("choices" not in data and isinstance(data.get("message"), str)):
                error = error or data  # some gateways send it bare
                raise error_from(error.get("code") if isinstance(error, dict) else None, {"error": error})
            if usage := data.get("usage"):
                self._closing.token_usage = usage_from(usage)
                self._closing.raw = data
            choices = data.get("choices")
            if not choices:
                return None  # the first chunk of Azure, the last of many
            choice = choices[0]
            if reason := choice.get("finish_reason"):
                self._closing.finish_reason = _FINISH.get(reason, "stop")
                self._closing.raw = data
                if isinstance(stop := choice.get("stop_reason"), str):
                    self._closing.stop_sequence = stop
            # A service that does not stream answers a request for a stream with the whole message.
            return self._piece(choice, choice.get(key) or choice.get("message") or {}, data)
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise MalformedResponse(
                f"The service sent what is no chat completion ({type(error).__name__}: {error}): {_shown(data)}."
            ) from None

    def _piece(self, choice: Any, message: Any, data: Any) -> ChatMessageStreamDelta | None:
        content = message.get("content")
        if isinstance(content, list):  # Mistral's thinking models
            content = "".join(part.get("text", "") for part in content if part.get("type") == "text")
        if refusal := message.get("refusal"):
            content, self._refused = (content or "") + refusal, True
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if content is not None and not isinstance(content, str):
            raise TypeError(f"content is {type(content).__name__}, not a string")
        if reasoning is not None and not isinstance(reasoning, str):
            raise TypeError(f"reasoning is {type(reasoning).__name__}, not a string")
        calls: list[ChatMessageToolCallStreamDelta] = []
        if given := message.get("tool_calls"):
            if answers := [call["custom"]["input"] for call in given if self._is_answer(call)]:
                content = (content or "") + "".join(answers)
            calls = [self._call(call) for call in given if not self._is_answer(call)]
        if logprobs := choice.get("logprobs"):
            logprobs = logprobs.get("content") or None
        if logprobs and not (isinstance(logprobs, list) and all(isinstance(item, dict) for item in logprobs)):
            raise TypeError("logprobs are no list of objects")
        if self._closing.model_id is None:
            named = data.get("model")
            self._closing.model_id = named if isinstance(named, str) else None
        if not (content or reasoning or calls or logprobs):
            return ChatMessageStreamDelta() if "message" in choice else None
        return ChatMessageStreamDelta(content or None, calls or None, None, reasoning, logprobs=logprobs or None)

    def _is_answer(self, call: Any) -> bool:
        """Whether the call is that of the tool through which the answer in its grammar comes."""
        custom = call.get("custom")
        if not isinstance(custom, dict):
            return False
        if custom.get("name") == ANSWER_TOOL:
            self._answers.add(call.get("index"))
        return call.get("index") in self._answers

    def _call(self, call: Any) -> ChatMessageToolCallStreamDelta:
        function = call.get("function") or {}
        identifier, name, arguments = call.get("id"), function.get("name"), function.get("arguments")
        for what, value in (("id", identifier), ("name", name)):
            if not isinstance(value, str | None):
                raise TypeError(f"a call's {what} is {type(value).__name__}, not a string")
        return ChatMessageToolCallStreamDelta(
            self._index(call.get("index"), identifier, name),
            identifier,
            kind if isinstance(kind := call.get("type"), str) and kind else "function",
            ChatMessageToolCallFunction(arguments if arguments is not None else "", name or ""),
        )

    def _index(self, given: int | None, identifier: str | None, name: str | None) -> int:
        """Our index of a call: some servers reuse index 0 for parallel calls, some send null."""
        known = self._slots.get(given) if given is not None else (len(self._ids) - 1 if self._ids else None)
        starts = bool(identifier) and known is not None and self._ids[known] not in (None, identifier)
        starts = starts or (given is None and bool(name) and not identifier)
        if known is None or starts:
            known = len(self._ids)
            self._ids[known] = None
        if given is not None:
            self._slots[given] = known
        self._ids[known] = identifier or self._ids[known]
        return known


def usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    """Token usage; what the service does not say is unknown, not zero."""
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return TokenUsage(
        token_count_from(usage.get("prompt_tokens")),
        token_count_from(usage.get("completion_tokens")),
        token_count_from(prompt.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))),
        token_count_from(completion.get("reasoning_tokens")),
    )


def _shown(data: Any) -> str:
    try:
        shown = repr(data)
    except RecursionError:
        return f"{type(data).__name__}, nested too deep to be shown"
    return shown if len(shown) <= 200 else shown[:200] + "…"
