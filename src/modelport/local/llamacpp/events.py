"""Turns the events of llama.cpp's engine into deltas, in the thread that runs the request.

For each token, the engine calls `EventHandler.on_event` with a chunk of a streamed chat completion. Before the first
token, it calls `on_event` with the progress of the prompt. If `on_event` returns True, the engine ends the request.
"""

from __future__ import annotations

from typing import Any

from modelport.errors import UnsupportedFeature
from modelport.local.grammar_matching import TextMatcher
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.runtime.threads import Emit
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.usage import TokenUsage


class EventReader(ChatResponseReader):
    """Reads the events of one response."""

    #: Whether to drop line breaks at the beginning of the content. `LlamaCppModel` sets this if the model reasons
    #: before structured output, because the engine counts line breaks after the reasoning as content.
    drop_leading_line_breaks = False
    #: Checks the content against the grammar; set by `detect_ignored_grammar`. `None` if there is nothing to check.
    _matcher: TextMatcher | None = None
    #: Whether the grammar contains a JSON schema.
    _is_json = False

    def detect_ignored_grammar(self, matcher: TextMatcher, is_json: bool) -> None:
        """Have `read` check the content against a grammar. The engine ignores a grammar that it can't read.

        Args:
            matcher: Follows the content through the grammar.
            is_json: Whether the grammar contains a JSON schema.
        """
        self._matcher, self._is_json = matcher, is_json

    def read(self, event: dict[str, Any]) -> ChatMessageStreamDelta | None:
        """Return the delta of an event; `None` for an event without output, such as the progress of the prompt.

        Raises:
            UnsupportedFeature: The content does not match the grammar, so the engine has ignored the grammar.
            ModelError: The event is an error of the engine.
        """
        if "error" in event:
            raise error_from(event["error"].get("code"), event, from_engine=True)
        delta = self.read_chunk(event)
        if delta is None:
            return None
        if delta.content and self.drop_leading_line_breaks:
            delta.content = delta.content.lstrip("\n") or None
            self.drop_leading_line_breaks = delta.content is None
        if delta.content and self._matcher is not None:
            self._check_content(delta.content)
        timings = event.get("timings")
        if timings and "predicted_n" in timings:
            # `prompt_n` counts only the tokens of the prompt that were not in the prompt cache.
            cached = timings["cache_n"]
            delta.token_usage = TokenUsage(
                input_tokens=cached + timings["prompt_n"],
                output_tokens=timings["predicted_n"],
                cached_input_tokens=cached,
            )
        return delta

    def _check_content(self, content: str) -> None:
        if self._matcher is not None and not self._matcher.try_consume(content):
            raise UnsupportedFeature(
                "grammar: llama.cpp did not enforce it. llama.cpp contains an older version of llguidance, and ignores "
                "a grammar that this version can't read: write the grammar in simpler terms",
                parameter="grammar",
            )
        if self._is_json:
            # The llguidance in llama.cpp allows spellings of JSON that the installed, newer one refuses. So only the
            # first part of the content is checked here. If the output type is a JSON schema, the layer `adapt`
            # validates the complete output.
            self._matcher = None


class EventHandler:
    """Passes the deltas of one response to the event loop, several tokens at a time.

    Args:
        reader: Turns events into deltas.
        emit: Passes a delta to the event loop, and returns True if nobody reads deltas any more. Without a delta, it
            only returns whether that is so.
        tokens_per_delta: How many tokens to collect in one delta.
    """

    def __init__(self, reader: EventReader, emit: Emit[ChatMessageStreamDelta], tokens_per_delta: int) -> None:
        self._reader, self._emit, self._tokens_per_delta = reader, emit, tokens_per_delta
        #: The output of the last `_count` tokens, which has not been emitted yet.
        self._joined: ChatMessageStreamDelta | None = None
        self._count = 0
        self._error: Exception | None = None

    def on_event(self, event: dict[str, Any]) -> bool:
        """Handle an event; return True to end the request."""
        try:
            delta = self._reader.read(event)
        except Exception as error:  # `finish` raises the error, because the engine's C++ code can't pass it on.
            self._error = error
            return True
        if delta is not None:
            self._joined = delta if self._joined is None else _join(self._joined, delta)
            self._count += 1
        if self._count < self._tokens_per_delta:
            return self._emit()
        return self._flush()

    def finish(self) -> None:
        """Emit the output that has not been emitted yet.

        Raises:
            ModelError: An event could not be read, or was an error of the engine.
        """
        self._flush()
        if self._error is not None:
            raise self._error

    def _flush(self) -> bool:
        delta, self._joined, self._count = self._joined, None, 0
        return self._emit() if delta is None else self._emit(delta)


def _join(first: ChatMessageStreamDelta, second: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
    """Return one delta with the output of both, and with the latest token usage."""
    return ChatMessageStreamDelta(
        content=(first.content or "") + (second.content or "") or None,
        reasoning=(first.reasoning or "") + (second.reasoning or "") or None,
        tool_calls=[*(first.tool_calls or ()), *(second.tool_calls or ())] or None,
        logprobs=[*(first.logprobs or ()), *(second.logprobs or ())] or None,
        token_usage=second.token_usage or first.token_usage,
    )
