"""Ends a response before the first stop sequence that it completes, however the text is split into deltas.

This layer runs for every backend, because a service's own stop may not exist, may take only four sequences, or may look
only at whole tokens. It also makes sure that usage and finish reason come once, in a last delta of their own. A call
that needs neither passes through: one that does not stream, without stop sequences.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import aclosing
from functools import lru_cache

from modelport.errors import ModelError
from modelport.layers.base import Deltas, Next
from modelport.types.deltas import ChatMessageStreamDelta, copy_delta
from modelport.types.request import Request
from modelport.types.usage import TokenUsage


@lru_cache
def _proper_prefixes(stops: tuple[str, ...]) -> tuple[str, ...]:
    """Return every beginning of every stop sequence, the longest first. Text that ends in one is buffered."""
    prefixes = {stop[:n] for stop in stops for n in range(1, len(stop))}
    return tuple(sorted(prefixes, key=len, reverse=True))


class StopScanner:
    """Finds the first stop sequence that is completed in a text that arrives in pieces.

    If two stop sequences are completed at the same character, the longer one counts. So the result does not depend on
    how the text is split.

    Args:
        stops: The stop sequences, none empty.

    Attributes:
        buffered: Text at the end that may be the beginning of a stop sequence.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._prefixes = _proper_prefixes(tuple(stops))
        self.buffered = ""

    def feed(self, piece: str) -> tuple[str, str | None]:
        """Scan the next piece.

        Returns:
            The text that can be emitted now, and the stop sequence that was completed, or `None`.
        """
        text = self.buffered + piece
        end, found = sys.maxsize, ""
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0 and (start + len(stop), -len(stop)) < (end, -len(found)):
                end, found = start + len(stop), stop
        self.buffered = ""
        if found:
            return text[: end - len(found)], found
        if not text.endswith(self._prefixes):
            return text, None
        self.buffered = next(prefix for prefix in self._prefixes if text.endswith(prefix))
        return text.removesuffix(self.buffered), None

    def flush(self) -> str:
        """Return the buffered text, when nothing can follow that would complete a stop sequence."""
        buffered, self.buffered = self.buffered, ""
        return buffered


class Stop:
    """The layer."""

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Pass text on up to the first stop sequence, then close the backend."""
        if not (request.stop_sequences or request.stream or request.needs_closing_delta):
            return next(request)
        return _end_at_stop_sequence(next(request), request.stop_sequences)


async def _end_at_stop_sequence(deltas: Deltas, stops: Sequence[str]) -> Deltas:
    scanner = StopScanner(stops)
    usage: TokenUsage | None = None
    closing = ChatMessageStreamDelta()
    last: ChatMessageStreamDelta | None = None
    delivered = False
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text, found = delta.content or "", None
                if text and stops:
                    text, found = scanner.feed(text)
                if (delta.tool_calls or delta.finish_reason) and not found:
                    text += scanner.flush()
                if delta.token_usage or delta.finish_reason or delta.stop_sequence or delta.raw:
                    # Some services report usage in every chunk, and a response that is stopped here never reaches its
                    # last chunk. So the latest report is stored, and emitted once at the end.
                    usage = delta.token_usage or usage
                    closing.finish_reason = delta.finish_reason or closing.finish_reason
                    closing.stop_sequence = delta.stop_sequence or closing.stop_sequence
                    closing.raw = delta.raw or closing.raw
                    delta = copy_delta(delta)
                    delta.token_usage = delta.finish_reason = delta.stop_sequence = delta.raw = None
                if text != (delta.content or ""):
                    delta = copy_delta(delta)
                    delta.content = text or None
                if found:
                    # If one delta holds both text and tool calls, the calls came after the text, so the stop sequence
                    # precedes them.
                    last = copy_delta(delta)
                    last.tool_calls = None
                    closing.finish_reason, closing.stop_sequence = "stop", found
                    break
                if text or delta.has_output:  # Most deltas hold text, so `has_output` is seldom called.
                    delivered = True
                    yield delta
                elif not delta.is_empty:
                    yield delta
        except ModelError:
            # Buffered text had arrived too. If it is all that had arrived, the request can still be sent again.
            if delivered and (buffered := scanner.flush()):
                yield ChatMessageStreamDelta(content=buffered)
            raise
    # The backend is closed here already, and not only once the caller has processed the last text.
    if last is None and (buffered := scanner.flush()):
        last = ChatMessageStreamDelta(content=buffered)
    if last is not None and not last.is_empty:
        yield last
    closing.token_usage = usage
    yield closing
