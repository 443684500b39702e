"""Truncates the text of a response before its first stop sequence, however the text is split into deltas.

This layer runs for every backend, because backends differ: some have no stop sequences, some accept only four, and some
do not report which one they found. The layer also makes sure that token usage and finish reason come only once, in a
last delta without output. Requests that need neither truncation nor such a last delta are passed on unchanged: those
without stop sequences that do not stream, unless the layer `adapt` has set `needs_closing_delta`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from functools import lru_cache

from modelport.errors import ModelError
from modelport.layers.base import Deltas, Next
from modelport.types.deltas import ChatMessageStreamDelta, copy_delta
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

#: Stop sequences that have together at most so many characters are compared by a list of their beginnings, in one call
#: of C. The list of longer ones would take memory that grows with the square of their length.
_SHORT = 256


@lru_cache
def _proper_prefixes(stops: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return every incomplete beginning of every stop sequence, the longest first; `None` if they are not short.

    Text that ends in one of them is buffered, because the next piece may complete the stop sequence.
    """
    if sum(map(len, stops)) > _SHORT:
        return None
    prefixes = {stop[:n] for stop in stops for n in range(1, len(stop))}
    return tuple(sorted(prefixes, key=len, reverse=True))


def _longest_beginning_at_end(text: str, stops: Sequence[str]) -> str:
    """Return the longest end of the text that is an incomplete beginning of a stop sequence; empty if none is."""
    longest = ""
    for stop in stops:
        start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while 0 <= start < len(text) - len(longest):
            if stop.startswith(text[start:]):
                longest = text[start:]
                break
            start = text.find(stop[0], start + 1)
    return longest


class StopScanner:
    """Finds the first stop sequence in a text that arrives in pieces.

    Of several stop sequences in the text, the one that ends first counts. If two end at the same character, the longer
    one counts. By these two rules, the result does not depend on how the text is split.

    Args:
        stops: The stop sequences, none of them empty.

    Attributes:
        buffered: The end of the text so far, if it may be the beginning of a stop sequence; otherwise empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._prefixes = _proper_prefixes(tuple(stops))
        self.buffered = ""

    def feed(self, piece: str) -> tuple[str, str | None]:
        """Scan the next piece.

        Returns:
            The text that can be emitted now, and the stop sequence that was found, or `None`.
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
        if self._prefixes is None:
            self.buffered = _longest_beginning_at_end(text, self._stops)
        elif not text.endswith(self._prefixes):
            return text, None
        else:
            self.buffered = next(prefix for prefix in self._prefixes if text.endswith(prefix))
        return text.removesuffix(self.buffered), None

    def flush(self) -> str:
        """Return the buffered text and empty the buffer. Call this if no text follows that could complete it."""
        buffered, self.buffered = self.buffered, ""
        return buffered


class Stop:
    """The layer that truncates the text at a stop sequence."""

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Return the deltas of the backend, truncated before the first stop sequence."""
        if not (request.stop_sequences or request.stream or request.needs_closing_delta):
            return next(request)
        return _end_at_stop_sequence(next(request), request)


#: How long the token usage is waited for after a stop sequence, in seconds.
_MAX_WAIT = 1.0


async def _read_usage(deltas: Deltas, request: Request) -> TokenUsage | None:
    """Read some more deltas for the token usage, which many services report only at the end.

    The call never fails because of this: the wait takes at most half of the time that the call has left.

    Returns:
        The usage, or `None` if it did not come.
    """
    from asyncio import get_running_loop, timeout  # Here, because importing them takes long.

    timeouts, deltas_left = request.timeouts, request.usage_after_stop
    limits = [_MAX_WAIT, *((timeouts.idle_timeout / 2,) if timeouts.idle_timeout is not None else ())]
    if timeouts.deadline is not None:
        limits.append((timeouts.deadline - get_running_loop().time()) / 2)
    usage = None
    with suppress(ModelError, TimeoutError):
        async with timeout(min(limits)):
            async for delta in deltas:
                deltas_left -= 1
                if (usage := delta.token_usage) is not None or not deltas_left:
                    break
    return usage


async def _end_at_stop_sequence(deltas: Deltas, request: Request) -> Deltas:
    stops = request.stop_sequences
    scanner = StopScanner(stops)
    usage: TokenUsage | None = None
    closing = ChatMessageStreamDelta()  # The last delta, with token usage and finish reason.
    last_text: ChatMessageStreamDelta | None = None  # The text before the stop sequence, or at the end.
    delivered = False  # Whether a delta with output has been yielded.
    async with aclosing(deltas):
        try:
            async for delta in deltas:
                text, found = delta.content or "", None
                if text and stops:
                    text, found = scanner.feed(text)
                if delta.tool_calls and not found:
                    text += scanner.flush()
                if delta.token_usage or delta.finish_reason or delta.stop_sequence or delta.raw:
                    # Some services report the usage so far in every chunk. The latest report is stored, because a
                    # response that is truncated at a stop sequence never reaches its last chunk.
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
                    last_text = copy_delta(delta)
                    last_text.tool_calls = None
                    closing.finish_reason, closing.stop_sequence = "stop", found
                    if usage is None and request.usage_after_stop:
                        usage = await _read_usage(deltas, request)
                    break
                if text or delta.has_output:  # Most deltas contain text, so `has_output` is seldom called.
                    delivered = True
                    yield delta
                elif not delta.is_empty:  # It may have other fields, such as warnings.
                    yield delta
        except ModelError as error:
            error.token_usage = error.token_usage or usage
            # The buffered text belongs to the response. But if no output has been yielded before, it is not yielded
            # either, so that the retry layer can still send the request again.
            if delivered and (buffered := scanner.flush()):
                yield ChatMessageStreamDelta(content=buffered)
            raise
    # The last text is emitted only here, after `aclosing` has closed the backend. Otherwise the backend would go on
    # generating until the caller reads the next delta.
    if last_text is None and (buffered := scanner.flush()):
        last_text = ChatMessageStreamDelta(content=buffered)
    if last_text is not None and not last_text.is_empty:
        yield last_text
    closing.token_usage = usage
    yield closing
