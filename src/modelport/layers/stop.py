"""Cuts an answer at the first stop sequence to complete, exactly, however the text is split into deltas.

This layer always runs, for every backend: a service's own stop may not exist, may take four sequences at most, or may
look only at whole tokens. It also keeps the promise that usage and finish reason come once, last.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import lru_cache

from modelport.errors import ModelError
from modelport.layers.base import Deltas, Next
from modelport.types.deltas import ChatMessageStreamDelta, copied
from modelport.types.request import Request
from modelport.types.usage import TokenUsage


@lru_cache
def _beginnings(stops: tuple[str, ...]) -> tuple[str, ...]:
    """Every beginning of every stop sequence, the longest first: what text must be held back for."""
    beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
    return tuple(sorted(beginnings, key=len, reverse=True))


class StopScanner:
    """Finds the first stop sequence to complete in a text that comes in pieces.

    Of two that complete at the same character the longer wins; so the cut does not depend on how the text is split.

    Args:
        stops: The stop sequences, none empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._beginnings = _beginnings(tuple(stops))
        self.held = ""

    def feed(self, piece: str) -> tuple[str, str | None]:
        """Takes the next piece.

        Returns:
            The text that can be given out now, and the stop sequence that has completed, or `None`.
        """
        text = self.held + piece
        cut, found = len(text) + 1, ""
        for stop in self._stops:
            at = text.find(stop)
            if at >= 0 and (at + len(stop), -len(stop)) < (cut, -len(found)):
                cut, found = at + len(stop), stop
        if found:
            self.held = ""
            return text[: cut - len(found)], found
        self.held = ""
        if text.endswith(self._beginnings):
            self.held = next(beginning for beginning in self._beginnings if text.endswith(beginning))
        return text.removesuffix(self.held), None

    def release(self) -> str:
        """What is held back, where nothing more can complete it."""
        held, self.held = self.held, ""
        return held


class Stop:
    """The layer."""

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Passes text on up to the first stop sequence, then closes the backend."""
        return _watched(next(request), request.stop_sequences)


async def _watched(deltas: Deltas, stops: Sequence[str]) -> Deltas:
    scanner = StopScanner(stops)
    usage: TokenUsage | None = None
    closing = ChatMessageStreamDelta()
    last: ChatMessageStreamDelta | None = None
    passed = False
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text, found = delta.content or "", None
                if text and stops:
                    text, found = scanner.feed(text)
                if (delta.tool_calls or delta.finish_reason) and not found:
                    text += scanner.release()
                if delta.token_usage or delta.finish_reason or delta.stop_sequence or delta.raw:
                    # Some services count in every chunk and a cut hides the last: keep the latest, send it once, last.
                    usage = delta.token_usage or usage
                    closing.finish_reason = delta.finish_reason or closing.finish_reason
                    closing.stop_sequence = delta.stop_sequence or closing.stop_sequence
                    closing.raw = delta.raw or closing.raw
                    delta = copied(delta)
                    delta.token_usage = delta.finish_reason = delta.stop_sequence = delta.raw = None
                if text != (delta.content or ""):
                    delta = copied(delta)
                    delta.content = text or None
                if found:
                    # Text before a cut and calls in one delta: the calls came after the text, so the cut goes first.
                    last = copied(delta)
                    last.tool_calls = None
                    closing.finish_reason, closing.stop_sequence = "stop", found
                    break
                if delta.delivers:
                    passed = True
                    yield delta
                elif delta != _NOTHING:
                    yield delta
        except ModelError:
            # Held text had arrived too; but where it is all there is, the request can still be sent again.
            if passed and (held := scanner.release()):
                yield ChatMessageStreamDelta(content=held)
            raise
    # The backend is closed by now, and not only when the caller has done with the last of the text.
    if last is None and (held := scanner.release()):
        last = ChatMessageStreamDelta(content=held)
    if last is not None and last != _NOTHING:
        yield last
    closing.token_usage = usage
    yield closing


_NOTHING = ChatMessageStreamDelta()
