"""What `--usage` and `/usage` show: the tokens and the time of responses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelport.types.deltas import ChatMessageStreamDelta
    from modelport.types.messages import ChatMessage
    from modelport.types.usage import TokenUsage


class Stopwatch:
    """Measures the time of a call, and the time until its first output.

    Attributes:
        seconds: The time of the call, in seconds.
        first_output: The time until the first text or reasoning; `None` if there was none, or no stream.
    """

    seconds: float = 0.0
    first_output: float | None = None

    def start(self) -> None:
        """Start to measure."""
        self._started = time.perf_counter()

    def see(self, delta: ChatMessageStreamDelta) -> None:
        """Note the time of the first delta with output."""
        if self.first_output is None and delta.has_output:
            self.first_output = time.perf_counter() - self._started

    def stop(self) -> None:
        """Note the time of the call."""
        self.seconds = time.perf_counter() - self._started


def format_usage(message: ChatMessage, seconds: float, first_output: float | None) -> str:
    """Return the tokens and the time of a response, for `--usage`. An unknown count is "?", never 0.

    Args:
        message: The response.
        seconds: The time of the call, in seconds.
        first_output: The time until the first output; `None` if the response was not streamed, or had none.
    """
    from modelport.types.usage import TokenUsage

    first = "" if first_output is None else f" (the first output after {first_output:.2f} s)"
    return f"{format_tokens([message.token_usage or TokenUsage()])}, {seconds:.2f} s{first}"


def format_tokens(usages: Sequence[TokenUsage]) -> str:
    """Return the sums of the known token counts of responses. A count that no response has is "?", never 0."""
    read, cached, written, reasoned = (
        _sum([getattr(usage, name) for usage in usages])
        for name in ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
    )
    from_cache = "" if cached is None else f" ({cached:,} from the cache)"
    of_reasoning = "" if reasoned is None else f" ({reasoned:,} of reasoning)"
    return f"{_format_count(read)} tokens read{from_cache}, {_format_count(written)} generated{of_reasoning}"


def _sum(counts: Sequence[int | None]) -> int | None:
    """Return the sum of the known counts, or `None` if none is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known or not counts else None


def _format_count(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"
