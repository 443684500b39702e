"""The time limits of one attempt.

One timer runs per attempt. It is set to the limit that ends first:

- `timeout`: the deadline of the whole call, which `Model` has set;
- `first_token_timeout`: from the moment at which the request is sent to the first delta that holds content;
- `idle_timeout`: while the reader waits for the next delta, after the first one.

When the timer fires while a reader waits, it cancels the reader's task, and `read` turns that cancellation into
`DeadlineExceeded`. Between two reads, while the caller is busy, it only records that the limit has ended; the next read
raises. So no task is ever cancelled while it runs the caller's own code.

This module imports asyncio, so it is imported at the first call and not with the package.
"""

from __future__ import annotations

import asyncio
from typing import Any

from modelport.errors import DeadlineExceeded, ModelError
from modelport.layers.base import Deltas
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Timeouts


class AttemptTimer:
    """Enforces the time limits of one attempt.

    Args:
        timeouts: The time limits of the call.
        queued: Whether the request may first wait for a rate limit. The clock of `first_token_timeout` then starts with
            `start_first_token_clock`, and otherwise at once.
    """

    def __init__(self, timeouts: Timeouts, queued: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._queued = queued
        self._sent_at = self._waiting_since = self._loop.time()
        self._delivering = False
        self._reader: asyncio.Task[Any] | None = None
        self._expired: ModelError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._set_timer()

    def start_first_token_clock(self) -> None:
        """Start the clock of `first_token_timeout`: the request has left the queue of a rate limit."""
        self._queued, self._sent_at = False, self._loop.time()
        self._set_timer()

    async def read(self, deltas: Deltas) -> ChatMessageStreamDelta | None:
        """Return the next delta, or `None` at the end.

        Raises:
            DeadlineExceeded: A limit ended while this waited.
        """
        if self._expired is not None:
            raise self._expired
        if self._timeouts.idle_timeout is not None:
            self._waiting_since = self._loop.time()
        self._reader = reader = asyncio.current_task(self._loop)
        assert reader is not None
        cancelling = reader.cancelling()
        try:
            delta = await anext(deltas, None)
        except (Exception, asyncio.CancelledError) as error:
            # Tell the timer's own cancellation, in whatever form the backend raised it, from one that somebody else
            # requested: only the timer's leaves the count of requests where it was.
            if self._expired is not None and reader.uncancel() <= cancelling:
                self._expired.attempts = getattr(error, "attempts", ())  # the models that a `FallbackModel` called
                raise self._expired from None
            raise
        finally:
            self._reader = None
        if self._expired is not None:
            reader.uncancel()  # The backend ignored the cancellation. Its delta is passed on, and the next read raises.
        if not self._delivering and delta is not None and delta.delivers:
            self._delivering = True
            if self._timeouts.idle_timeout is not None:
                self._set_timer()
        return delta

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_limit(self) -> tuple[float, str] | None:
        """Return the time at which the next limit ends, and the name of that limit."""
        timeouts, limits = self._timeouts, []
        if timeouts.deadline is not None:
            limits.append((timeouts.deadline, "timeout"))
        if timeouts.first_token_timeout is not None and not self._delivering and not self._queued:
            limits.append((self._sent_at + timeouts.first_token_timeout, "first_token_timeout"))
        if timeouts.idle_timeout is not None and self._delivering:
            # While nobody reads, the backend is not the one that is idle.
            idle_since = self._loop.time() if self._reader is None else self._waiting_since
            limits.append((idle_since + timeouts.idle_timeout, "idle_timeout"))
        return min(limits, default=None)

    def _set_timer(self) -> None:
        self.stop()
        if (limit := self._next_limit()) is not None:
            self._timer = self._loop.call_at(limit[0], self._fire)

    def _fire(self) -> None:
        limit = self._next_limit()
        if limit is None or limit[0] > self._loop.time():
            self._set_timer()
            return
        name = limit[1]
        seconds = getattr(self._timeouts, name)
        # `timeout` ends the whole call. The other two end an attempt, and another attempt may be faster.
        self._expired = DeadlineExceeded(f"{name}={seconds:g} s ran out.", retryable=name != "timeout")
        if self._reader is not None:
            self._reader.cancel()
