"""Translation of Converse responses and stream events into deltas.

`ConverseResponseReader` reads one response. `read_response` returns the one delta of a non-streaming response.
`read_event` returns the delta of each stream event that carries content, and records stop reason and usage; `finish`
returns the last delta. Parts of a response for which modelport has no field are left out with a warning. They
can be read from `message.raw`, or in a stream from the `raw` of the deltas.

The text of reasoning is emitted as it arrives. A reasoning block is also collected with its signature, or its encrypted
content (`redactedContent`), and emitted as provider data when the block ends, because it must be sent back to the
service complete.

See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStreamOutput.html
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

from modelport.errors import InvalidToolCall, MalformedResponse, ModelError
from modelport.protocols.converse.request import ConverseCall
from modelport.protocols.finish_reasons import finish_error, finish_reason_from, finish_warning
from modelport.protocols.media import kind_of_part, media_warnings
from modelport.schema.json_text import MAX_JSON_DEPTH, excerpt, is_nested_too_deeply
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.provider_data import ProviderData, join
from modelport.types.usage import TokenUsage, token_count_from
from modelport.types.warnings import CallWarning

#: The name of this service in `ProviderData.service`.
SERVICE = "bedrock"
#: So many kinds of content that a message leaves out are named in its warnings.
_MOST_LEFT_OUT = 16


class ConverseResponseReader:
    """Reads one response, non-streaming or event by event, into deltas.

    Args:
        call: The call whose response is read.
    """

    def __init__(self, call: ConverseCall) -> None:
        self._call = call
        #: The error that the stop reason means. `finish` raises it, because the token usage comes later in a stream.
        self._failure: ModelError | None = None
        #: Collects stop reason and token usage until `finish` returns it.
        self._last_delta = ChatMessageStreamDelta()
        #: The complete non-streaming response, or the last events of a stream by their names.
        self._raw: dict[str, Any] = {}
        #: Index of a tool call's block in the response -> index of the tool call in modelport's deltas.
        self._call_indices: dict[int, int] = {}
        #: Index of an unfinished reasoning block -> the pieces of its `text`, its `signature`, and its encrypted bytes
        #: (`redacted`).
        self._reasoning: dict[int, dict[str, list[Any]]] = {}
        #: The kinds of content that were left out, because modelport has no field for them.
        self._left_out: set[str] = set()
        #: The warning about a stop reason that modelport does not know.
        self._unknown_reason: CallWarning | None = None

    @property
    def has_stop_reason(self) -> bool:
        """Whether the service has sent its stop reason."""
        return self._last_delta.finish_reason is not None

    def read_response(self, response: Any) -> ChatMessageStreamDelta:
        """The one delta of a non-streaming response.

        Raises:
            MalformedResponse: The response does not have the structure that the API documents.
            InvalidToolCall: The response has a malformed tool call, or a tool call although none was allowed.
        """
        try:
            _check_nesting(response)
            content = response["output"]["message"]["content"]
            delta = ChatMessageStreamDelta()
            blocks = [self._read_block(index, block) for index, block in enumerate(content)]
            delta.content = "".join(block.content or "" for block in blocks) or None
            delta.reasoning = "".join(block.reasoning or "" for block in blocks) or None
            delta.tool_calls = [call for block in blocks for call in block.tool_calls or ()] or None
            delta.provider_data = join(block.provider_data for block in blocks if block.provider_data is not None)
            self._record_stop(response)
            self._record_usage(response)
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise _malformed_response(error, response) from None
        self._raw = response
        last_delta = self.finish()
        for name in ("token_usage", "finish_reason", "stop_sequence", "model_id", "warnings", "raw"):
            setattr(delta, name, getattr(last_delta, name))
        return delta

    def read_event(self, event: Any) -> ChatMessageStreamDelta | None:
        """The delta of a stream event, or `None` for an event that carries no content.

        Raises:
            MalformedResponse: The event does not have the structure that the API documents.
            InvalidToolCall: The event starts a tool call although none was allowed.
        """
        try:
            ((kind, data),) = event.items()
            _check_nesting(data)
            if kind == "contentBlockStart":
                return self._read_start(data["contentBlockIndex"], data["start"])
            if kind == "contentBlockDelta":
                return self._read_delta(data["contentBlockIndex"], data["delta"])
            if kind == "contentBlockStop":
                return self._finish_reasoning(data["contentBlockIndex"])
            if kind == "messageStop":
                self._record_stop(data)
            elif kind == "metadata":
                self._record_usage(data)
            if kind in ("messageStop", "metadata"):
                self._raw[kind] = data
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise _malformed_response(error, event) from None
        return None

    def finish(self) -> ChatMessageStreamDelta:
        """The last delta, with token usage and finish reason. Call this method once, after the last event.

        Raises:
            MalformedResponse: The stream ended before the service sent its stop reason.
            ModelError: The stop reason says that the service or the model failed.
        """
        last_delta = self._last_delta
        if self._failure is not None:
            self._failure.token_usage = last_delta.token_usage
            raise self._failure
        if last_delta.finish_reason is None:
            raise MalformedResponse("The stream ended without a messageStop event, so the response is incomplete.")
        if self._call_indices and last_delta.finish_reason == "stop":
            last_delta.finish_reason = "tool_calls"
        left_out = media_warnings(self._left_out)
        if self._unknown_reason is not None:
            left_out.append(self._unknown_reason)
        last_delta.warnings = [*self._call.warnings, *left_out] or None
        last_delta.raw = self._raw
        return last_delta

    # --- blocks of a non-streaming response ---------------------------------------------------------------------------

    def _read_block(self, index: int, block: Mapping[str, Any]) -> ChatMessageStreamDelta:
        if "text" in block:
            return ChatMessageStreamDelta(content=_require_text(block["text"]))
        if "reasoningContent" in block:
            reasoning = block["reasoningContent"]
            text = reasoning.get("reasoningText", {})
            self._add_reasoning(index, text or reasoning)
            delta = self._finish_reasoning(index) or ChatMessageStreamDelta()
            delta.reasoning = text.get("text") or None
            return delta
        if "toolUse" in block:
            use = block["toolUse"]
            delta = self._read_start(index, {"toolUse": use}) or ChatMessageStreamDelta()
            for call in delta.tool_calls or ():
                arguments = use["input"]
                assert call.function is not None
                call.function.arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
            return delta
        if "citationsContent" in block:
            self._left_out.add("citations")
            texts = (part.get("text", "") for part in block["citationsContent"].get("content", ()))
            return ChatMessageStreamDelta(content="".join(texts) or None)
        self._leave_out(block)
        return ChatMessageStreamDelta()

    # --- events of a stream -------------------------------------------------------------------------------------------

    def _read_start(self, index: int, start: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        """The delta for the start of a block: the id and the name of a tool call."""
        use = start.get("toolUse")
        if use is None or use.get("type") == "server_tool_use":  # The service itself executes such a call.
            self._leave_out(start if use is None else ("server-side tool use",))
            return None
        if not self._call.allows_tool_calls:
            raise InvalidToolCall(
                f"The model called {excerpt(use['name'])} although no tool call was allowed. Bedrock requires "
                "toolConfig because the history contains tool calls.",
                text=json.dumps(use.get("input", "")),
            )
        call_index = self._call_indices[index] = len(self._call_indices)
        function = ChatMessageToolCallFunction(arguments="", name=_require_text(use["name"]))
        call = ChatMessageToolCallStreamDelta(
            call_index, id=_require_text(use["toolUseId"]), type="function", function=function
        )
        return ChatMessageStreamDelta(tool_calls=[call])

    def _read_delta(self, index: int, delta: Mapping[str, Any]) -> ChatMessageStreamDelta | None:
        if "text" in delta:
            return ChatMessageStreamDelta(content=delta["text"]) if _require_text(delta["text"]) else None
        if "toolUse" in delta:
            if index not in self._call_indices:
                return None  # This is a fragment of a call that the service itself executes.
            function = ChatMessageToolCallFunction(arguments=_require_text(delta["toolUse"]["input"]), name="")
            return ChatMessageStreamDelta(
                tool_calls=[ChatMessageToolCallStreamDelta(self._call_indices[index], function=function)]
            )
        if "reasoningContent" in delta:
            part = delta["reasoningContent"]
            self._add_reasoning(index, part)
            return ChatMessageStreamDelta(reasoning=part["text"]) if part.get("text") else None
        self._leave_out(delta)
        return ChatMessageStreamDelta(raw={"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}})

    def _leave_out(self, kinds: Iterable[str]) -> None:
        """Record kinds of content that the message leaves out, of which services have a few."""
        for kind in kinds:
            if len(self._left_out) < _MOST_LEFT_OUT:
                self._left_out.add(kind_of_part(_require_text(kind))[:100])

    def _add_reasoning(self, index: int, part: Mapping[str, Any]) -> None:
        """Collect a piece of a reasoning block. The pieces are joined once, because a block may have very many."""
        pieces = self._reasoning.setdefault(index, {})
        if "redactedContent" in part:
            pieces.setdefault("redacted", []).append(_require_bytes(part["redactedContent"]))
        for key in ("text", "signature"):
            if key in part:
                pieces.setdefault(key, []).append(_require_text(part[key]))

    def _finish_reasoning(self, index: int) -> ChatMessageStreamDelta | None:
        """The delta with the provider data of a block that has ended; the next turn sends it back to the service.

        The result is `None` if the block is neither signed nor encrypted.
        """
        pieces = self._reasoning.pop(index, {})
        if "redacted" in pieces:
            detail: dict[str, Any] = {"redactedContent": base64.b64encode(b"".join(pieces["redacted"])).decode()}
        elif signature := "".join(pieces.get("signature", ())):
            detail = {"reasoningText": {"text": "".join(pieces.get("text", ())), "signature": signature}}
        else:
            return None
        return ChatMessageStreamDelta(provider_data=ProviderData("converse", (detail,), SERVICE))

    # --- stop reason and usage ----------------------------------------------------------------------------------------

    def _record_stop(self, data: Mapping[str, Any]) -> None:
        reason = _require_text(data["stopReason"])
        if reason == "malformed_tool_use" and self._call_indices:
            reason = "tool_use"  # The layer `adapt` reports the call, with its arguments as the model wrote them.
        self._failure = finish_error(reason)
        self._unknown_reason = finish_warning(reason)
        self._last_delta.finish_reason = finish_reason_from(reason)
        stop_sequences = self._call.arguments.get("inferenceConfig", {}).get("stopSequences", ())
        # The service does not say which sequence ended the output, so this is known only if there is a single one.
        if reason == "stop_sequence" and len(stop_sequences) == 1:
            self._last_delta.stop_sequence = stop_sequences[0]

    def _record_usage(self, data: Mapping[str, Any]) -> None:
        if (usage := data.get("usage")) is not None:
            self._last_delta.token_usage = usage_from(usage)
        model_id = data.get("trace", {}).get("promptRouter", {}).get("invokedModelId")
        self._last_delta.model_id = model_id if isinstance(model_id, str) else None


def usage_from(usage: Mapping[str, Any]) -> TokenUsage:
    """The token usage of a response.

    Bedrock counts the tokens that are read from and written to the cache separately from the other input tokens.
    In modelport, `input_tokens` include both.
    """
    cached = token_count_from(usage.get("cacheReadInputTokens"))
    input_tokens = token_count_from(usage.get("inputTokens"))
    if input_tokens is not None:
        input_tokens += (cached or 0) + (token_count_from(usage.get("cacheWriteInputTokens")) or 0)
    output_tokens = token_count_from(usage.get("outputTokens"))
    return TokenUsage(input_tokens, output_tokens, cached_input_tokens=cached)


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text was expected")
    return value


def _require_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} where bytes were expected")
    return value


def _check_nesting(data: Any) -> None:
    if is_nested_too_deeply(data):
        raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} levels deep")


def _malformed_response(error: Exception, data: Any) -> MalformedResponse:
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key != "ResponseMetadata"}
    return MalformedResponse(
        f"The service sent something that is not a Converse response ({type(error).__name__}: {error}): "
        f"{excerpt(data)}."
    )
