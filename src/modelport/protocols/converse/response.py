"""Answers of Bedrock's Converse API, whole and in events.

See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from modelport.errors import InvalidToolCall, MalformedResponse
from modelport.protocols.converse.request import ConverseCall
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.usage import TokenUsage, token_count_from

_FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "tool_calls", "malformed_tool_use": "tool_calls",
    "max_tokens": "length", "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
}  # fmt: skip


class ConverseResponseReader:
    """Reads one answer, whole or event by event, into deltas.

    Args:
        call: What was asked.
    """

    def __init__(self, call: ConverseCall) -> None:
        self._call = call
        self._closing = ChatMessageStreamDelta()
        self._raw: dict[str, Any] = {}
        self._calls: dict[int, int] = {}  # the service's index of a block -> ours of a call
        self._thoughts: dict[int, dict[str, Any]] = {}  # index of a block -> its text and signature
        self._left_out: set[str] = set()

    @property
    def finished(self) -> bool:
        """Whether the service has said how the answer ended."""
        return self._closing.finish_reason is not None

    def whole(self, response: Any) -> ChatMessageStreamDelta:
        """The one delta of an answer that was not streamed.

        Raises:
            MalformedResponse: It is none.
        """
        try:
            content = response["output"]["message"]["content"]
            delta = ChatMessageStreamDelta()
            pieces = [self._block(index, block) for index, block in enumerate(content)]
            delta.content = "".join(piece.content or "" for piece in pieces) or None
            delta.reasoning = "".join(piece.reasoning or "" for piece in pieces) or None
            delta.tool_calls = [call for piece in pieces for call in piece.tool_calls or ()] or None
            delta.reasoning_details = [detail for piece in pieces for detail in piece.reasoning_details or ()] or None
            self._stopped(response)
            self._counted(response)
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise _malformed(error, response) from None
        self._raw = response
        closing = self.end()
        for name in ("token_usage", "finish_reason", "stop_sequence", "model_id", "warnings", "raw"):
            setattr(delta, name, getattr(closing, name))
        return delta

    def event(self, event: Any) -> ChatMessageStreamDelta | None:
        """The delta that an event of a stream holds, or `None` for one that delivers nothing.

        Raises:
            MalformedResponse: It is no event of this API.
        """
        try:
            ((kind, data),) = event.items()
            if kind == "contentBlockStart":
                return self._start(data["contentBlockIndex"], data["start"])
            if kind == "contentBlockDelta":
                return self._piece(data["contentBlockIndex"], data["delta"])
            if kind == "contentBlockStop":
                return self._thought(data["contentBlockIndex"])
            if kind == "messageStop":
                self._stopped(data)
            elif kind == "metadata":
                self._counted(data)
            if kind in ("messageStop", "metadata"):
                self._raw[kind] = data
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise _malformed(error, event) from None
        return None

    def end(self) -> ChatMessageStreamDelta:
        """The closing delta: usage and finish reason, once.

        Raises:
            MalformedResponse: The stream ended before its answer did.
        """
        closing = self._closing
        if closing.finish_reason is None:
            raise MalformedResponse("The stream ended without a messageStop event, so the answer is cut short.")
        if self._calls and closing.finish_reason == "stop":
            closing.finish_reason = "tool_calls"
        left_out = sorted(f"{kind} is only in the answer's raw form, if at all" for kind in self._left_out)
        closing.warnings = [*self._call.warnings, *left_out] or None
        closing.raw = self._raw
        return closing

    # --- blocks of a whole answer -------------------------------------------------------------------------------------

    def _block(self, index: int, block: Mapping[str, Any]) -> ChatMessageStreamDelta:
        if "text" in block:
            return ChatMessageStreamDelta(content=_text(block["text"]))
        if "reasoningContent" in block:
            inner = block["reasoningContent"]
            thought = inner.get("reasoningText", {})
            if thought:
                self._thoughts[index] = dict(thought)
            elif "redactedContent" in inner:
                self._thoughts[index] = {"sealed": inner["redactedContent"]}
            delta = self._thought(index) or ChatMessageStreamDelta()
            delta.reasoning = _text(thought.get("text", "")) or None
            return delta
        if "toolUse" in block:
            use = block["toolUse"]
            delta = self._start(index, {"toolUse": use}) or ChatMessageStreamDelta()
            for call in delta.tool_calls or ():
                given = use["input"]
                assert call.function is not None
                call.function.arguments = given if isinstance(given, str) else json.dumps(given)
            return delta
        if "citationsContent" in block:
            self._left_out.add("citations")
            texts = (part.get("text", "") for part in block["citationsContent"].get("content", ()))
            return ChatMessageStreamDelta(content="".join(texts) or None)
        self._left_out |= set(block)
        return ChatMessageStreamDelta()

    # --- pieces of a stream -------------------------------------------------------------------------------------------

    def _start(self, index: int, start: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        use = start.get("toolUse")
        if use is None or use.get("type") == "server_tool_use":  # which the service itself carries out
            self._left_out |= set(start) if use is None else {"the service's own tool use"}
            return None
        if not self._call.may_call:
            raise InvalidToolCall(
                f"The model called {use['name']!r} though it was not to; Bedrock had to be told of tools, since the "
                "history holds calls",
                text=json.dumps(use.get("input", "")),
            )
        number = self._calls[index] = len(self._calls)
        function = ChatMessageToolCallFunction("", _text(use["name"]))
        piece = ChatMessageToolCallStreamDelta(number, _text(use["toolUseId"]), "function", function)
        return ChatMessageStreamDelta(tool_calls=[piece])

    def _piece(self, index: int, delta: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        if "text" in delta:
            return ChatMessageStreamDelta(content=delta["text"]) if _text(delta["text"]) else None
        if "toolUse" in delta:
            if index not in self._calls:
                return None  # of the service's own tool
            function = ChatMessageToolCallFunction(_text(delta["toolUse"]["input"]), "")
            return ChatMessageStreamDelta(
                tool_calls=[ChatMessageToolCallStreamDelta(self._calls[index], None, None, function)]
            )
        if "reasoningContent" in delta:
            inner, thought = delta["reasoningContent"], self._thoughts.setdefault(index, {})
            if "redactedContent" in inner:
                thought["sealed"] = thought.get("sealed", b"") + inner["redactedContent"]
            for key in ("text", "signature"):
                if key in inner:
                    thought[key] = thought.get(key, "") + inner[key]
            return ChatMessageStreamDelta(reasoning=inner["text"]) if inner.get("text") else None
        self._left_out |= set(delta)
        return None

    def _thought(self, index: int) -> ChatMessageStreamDelta | None:
        """What goes back to the service of a thought that has ended; nothing where it is neither signed nor sealed."""
        thought = self._thoughts.pop(index, {})
        if "sealed" in thought:
            detail: dict[str, Any] = {"redactedContent": base64.b64encode(thought["sealed"]).decode()}
        elif thought.get("signature"):
            detail = {"reasoningText": {"text": thought.get("text", ""), "signature": thought["signature"]}}
        else:
            return None
        return ChatMessageStreamDelta(reasoning_details=[detail])

    # --- the end ------------------------------------------------------------------------------------------------------

    def _stopped(self, data: Mapping[str, Any]) -> None:
        reason = _text(data["stopReason"])
        if reason == "malformed_model_output":
            raise MalformedResponse("The service says that the model's output was malformed.")
        if reason == "malformed_tool_use" and not self._calls:
            raise InvalidToolCall("The service says that the model's tool call was malformed, and gives nothing of it.")
        self._closing.finish_reason = _FINISH.get(reason, "stop")
        stops = self._call.arguments.get("inferenceConfig", {}).get("stopSequences", ())
        if reason == "stop_sequence" and len(stops) == 1:
            self._closing.stop_sequence = stops[0]

    def _counted(self, data: Mapping[str, Any]) -> None:
        if (usage := data.get("usage")) is not None:
            self._closing.token_usage = usage_from(usage)
        self._closing.model_id = data.get("trace", {}).get("promptRouter", {}).get("invokedModelId")


def usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    """Token usage; the service counts what it reads from and writes to the cache apart from the other input."""
    cached = token_count_from(usage.get("cacheReadInputTokens"))
    given = token_count_from(usage.get("inputTokens"))
    if given is not None:
        given += (cached or 0) + (token_count_from(usage.get("cacheWriteInputTokens")) or 0)
    return TokenUsage(given, token_count_from(usage.get("outputTokens")), cached)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text was expected")
    return value


def _malformed(error: Exception, data: Any) -> MalformedResponse:
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "ResponseMetadata"}
    try:
        shown = repr(data)[:200]
    except RecursionError:
        shown = "nested too deep to be shown"
    return MalformedResponse(f"The service sent what is no answer ({type(error).__name__}: {error}): {shown}.")
