"""Converts the responses of a modelport model to messages and chunks of LangChain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from modelport.errors import InvalidOutput, InvalidToolCall, StreamInterrupted
from modelport.integrations.langchain.messages import PROVIDER_KEY
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage
from modelport.types.usage import TokenUsage
from modelport.types.warnings import CallWarning

#: The provider's name in messages. By this name LangChain finds the functions at the end of this module.
PROVIDER = "modelport"
#: Keys of `response_metadata` with `include_raw=True`: why the output is not valid; in a stream, why calls are not.
OUTPUT_ERROR = "output_error"
INVALID_CALLS = "invalid_calls"


def result_from(
    message: ChatMessage, warnings: Iterable[CallWarning], error: InvalidOutput | None = None
) -> ChatResult:
    """Return the result of a call.

    Args:
        message: The model's response.
        warnings: Warnings about the conversion of the request.
        error: Why the output is not valid, if the caller wants it anyway.
    """
    calls: list[dict[str, Any]] = []
    invalid_calls: list[dict[str, Any]] = []
    for call in message.tool_calls or ():
        values = {"name": call.function.name, "id": call.id}
        if isinstance(call.function.arguments, dict):
            calls.append({**values, "args": call.function.arguments})
        else:
            invalid_calls.append({**values, "args": call.function.arguments_json(), "error": call.error})
    result = AIMessage(
        message.text,
        tool_calls=calls,
        invalid_tool_calls=invalid_calls,
        additional_kwargs=({"reasoning_content": message.reasoning} if message.reasoning else {})
        | _provider_data(message),
        response_metadata={"model_provider": PROVIDER, **_metadata(message, warnings, error)},
        usage_metadata=_usage(message.token_usage),
    )
    return ChatResult(generations=[ChatGeneration(message=result)])


class ChunkReader:
    """Converts the deltas of one stream to chunks. The last chunk has everything that is known only at the end."""

    def __init__(self) -> None:
        self._indices: set[int] = set()
        self._has_output = False

    def chunk_from(self, delta: ChatMessageStreamDelta) -> ChatGenerationChunk | None:
        """Return the chunk of a delta, or `None` if the delta has no output.

        Raises:
            StreamInterrupted: The response starts anew, but LangChain has no way to discard the chunks so far.
        """
        if delta.restart and self._has_output:
            text = (
                "The response was interrupted, and the next model started it anew. A stream of LangChain can't discard "
                "the chunks so far: use `invoke`, or on_interrupted='raise'."
            )
            raise StreamInterrupted(text, partial=ChatMessage("assistant"))
        calls = []
        for piece in delta.tool_calls or ():
            index = len(self._indices) if piece.index is None else piece.index
            is_first = index not in self._indices
            self._indices.add(index)
            if (function := piece.function) is not None:
                arguments = None if function.arguments is None else function.arguments_json()
                if is_first and arguments is not None and arguments.strip() == "null":  # A call without arguments.
                    arguments = "{}"
                calls.append({"name": function.name or None, "args": arguments, "id": piece.id, "index": index})
        if not (delta.content or delta.reasoning or calls):
            return None
        self._has_output = True
        return _chunk(
            content=delta.content or "",
            tool_call_chunks=calls,
            additional_kwargs={"reasoning_content": delta.reasoning} if delta.reasoning else {},
            response_metadata={"model_provider": PROVIDER},
        )

    def last_chunk(
        self,
        message: ChatMessage,
        warnings: Iterable[CallWarning],
        error: InvalidOutput | None = None,
        keep_invalid: bool = False,
    ) -> ChatGenerationChunk:
        """Return the chunk that ends the stream.

        Args:
            message: The complete message.
            warnings: Warnings about the conversion of the request.
            error: Why the output is not valid, if the caller wants it anyway.
            keep_invalid: Whether the chunk has the errors of invalid calls.

        Raises:
            InvalidToolCall: The arguments of a call are not valid JSON. LangChain would complete the text of a chunk to
                other arguments, without an error.
        """
        invalid = {}
        for call in message.tool_calls or ():
            if not isinstance(call.function.arguments, dict):
                default = (
                    f"The model's call of {call.function.name!r} can't be used: its arguments contain no valid JSON"
                )
                invalid[call.id] = call.error or default
                if not keep_invalid:
                    raise InvalidToolCall(invalid[call.id], text=call.function.arguments_json(), partial=message)
        metadata = _metadata(message, warnings, error) | ({INVALID_CALLS: invalid} if invalid else {})
        return _chunk(
            content="",
            additional_kwargs=_provider_data(message),
            response_metadata={"model_provider": PROVIDER, **metadata},
            usage_metadata=_usage(message.token_usage),
            chunk_position="last",
        )


def _chunk(**values: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**values))


def _provider_data(message: ChatMessage) -> dict[str, Any]:
    """Return what `messages_from_langchain` reads again, as JSON types."""
    data: dict[str, Any] = {}
    if message.provider_data is not None:
        data["provider_data"] = message.provider_data.to_dict()
    calls = {c.id: c.provider_data.to_dict() for c in message.tool_calls or () if c.provider_data is not None}
    if calls:
        data["calls"] = calls
    if len({isinstance(call.function.arguments, dict) for call in message.tool_calls or ()}) == 2:
        data["order"] = [call.id for call in message.tool_calls or ()]  # LangChain separates valid and invalid calls.
    return {PROVIDER_KEY: data} if data else {}


def _metadata(message: ChatMessage, warnings: Iterable[CallWarning], error: InvalidOutput | None) -> dict[str, Any]:
    all_warnings = [*warnings, *message.warnings]
    values = {
        "model_name": message.model_id,
        "finish_reason": message.finish_reason,
        "stop_sequence": message.stop_sequence,
        "enforcement": message.enforcement,
        OUTPUT_ERROR: None if error is None else error.message,
        "logprobs": {"content": message.logprobs} if message.logprobs else None,
        "attempts": [asdict(attempt) for attempt in message.attempts] or None,
        "warnings": [asdict(warning) for warning in all_warnings] or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _usage(usage: TokenUsage | None) -> dict[str, Any] | None:
    """Return the token counts, or `None` if one of them is not known: LangChain would add it up as zero."""
    if usage is None or usage.total_tokens is None:
        return None
    counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    result: dict[str, Any] = {**counts, "total_tokens": usage.total_tokens}
    if usage.cached_input_tokens is not None:
        result["input_token_details"] = {"cache_read": usage.cached_input_tokens}
    if usage.reasoning_tokens is not None:
        result["output_token_details"] = {"reasoning": usage.reasoning_tokens}
    return result


# --- The content blocks of the messages above, for LangChain's `content_blocks` and `output_version="v1"`. ------------


def _blocks_of(message: AIMessage) -> list[dict[str, Any]]:
    blocks = _text_blocks(message)
    if any(block.get("type") in ("tool_call", "invalid_tool_call") for block in blocks):
        return blocks  # The content is in this form already.
    blocks += [{**call, "type": "tool_call"} for call in message.tool_calls]
    return blocks + [{**call, "type": "invalid_tool_call"} for call in message.invalid_tool_calls]


def _blocks_of_chunk(chunk: AIMessageChunk) -> list[dict[str, Any]]:
    if chunk.chunk_position == "last":  # The calls of a stream that has been added up are complete.
        return _blocks_of(chunk)
    # An index joins the pieces of a block. It differs from the numbers that LangChain gives to text and reasoning.
    calls = [{**piece, "type": "tool_call_chunk", "index": f"lc_call_{piece['index']}"} for piece in _pieces_of(chunk)]
    return _text_blocks(chunk) + calls


def _pieces_of(chunk: AIMessageChunk) -> Iterable[Mapping[str, Any]]:
    return chunk.tool_call_chunks  # type: ignore[no-any-return]


def _text_blocks(message: AIMessage) -> list[dict[str, Any]]:
    content = [message.content] if isinstance(message.content, str) else message.content
    blocks = [{"type": "text", "text": item} if isinstance(item, str) else item for item in content if item]
    reasoning = message.additional_kwargs.get("reasoning_content")
    if reasoning and not any(block.get("type") == "reasoning" for block in blocks):
        blocks.insert(0, {"type": "reasoning", "reasoning": reasoning})
    return blocks


register_translator(PROVIDER, _blocks_of, _blocks_of_chunk)
