"""Adds up the token usage of all requests of a call: each of them has to be paid, also if its response is not used."""

from __future__ import annotations

from modelport.errors import ModelError
from modelport.types.deltas import ChatMessageStreamDelta, copy_delta
from modelport.types.usage import TokenUsage, add_usage


class EarlierUsage:
    """The token usage of the requests of a call whose responses are not used, because the request was repeated.

    Attributes:
        usage: The sum; `None` if there was no such request, or no service has reported its usage.
    """

    __slots__ = ("usage", "_current")

    def __init__(self, usage: TokenUsage | None = None) -> None:
        self.usage = usage
        self._current: TokenUsage | None = None

    def add(self, error: Exception, reported: TokenUsage | None = None) -> None:
        """Add the usage of a request that failed, and set `error.token_usage` to the sum.

        Args:
            error: The error of the request.
            reported: The usage that the service reported, if the error does not have it.
        """
        own = error.token_usage if isinstance(error, ModelError) else None
        self.usage = add_usage(self.usage, own or reported)
        if isinstance(error, ModelError):
            error.token_usage = self.usage

    def add_to(self, delta: ChatMessageStreamDelta) -> ChatMessageStreamDelta:
        """Return a delta of the response that is used, with the sum if it is one of those that end the response."""
        if self.usage is None or (delta.finish_reason is None and delta.token_usage is None):
            return delta
        self._current = delta.token_usage or self._current
        delta = copy_delta(delta)
        delta.token_usage = add_usage(self.usage, self._current)
        return delta
