"""The time limits of one attempt.

One timer runs per attempt. It is set to the limit that ends first:

- `timeout`: the deadline of the whole call, which `Model` has set;
- `first_token_timeout`: from the moment at which the request is sent to the first delta that holds content;
- `idle_timeout`: while the reader waits for the next delta, after the first one.

Each read is made in `with timer:`. When the timer fires during a read, it cancels the reader's task, and leaving the
`with` block turns that cancellation into `DeadlineExceeded`. Between two reads, while the caller is busy, it only
records that the limit has ended; the next read raises. So no task is ever cancelled while it runs the caller's own
code.

This module imports asyncio, so it is imported at the first call and not with the package.
"""

from __future__ import annotations

import asyncio
from typing import Any

from modelport.errors import DeadlineExceeded, ModelError
from modelport.types.request import Timeouts


class AttemptTimer:
    """Enforces the time limits of one attempt. As a context manager, it limits the wait for the next delta.

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
        self._has_content = False
        self._reader: asyncio.Task[Any] | None = None
        self._earlier_cancellations = 0
        self._expired: ModelError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._set_timer()

    def start_first_token_clock(self) -> None:
        """Start the clock of `first_token_timeout`: the request has left the queue of a rate limit."""
        self._queued, self._sent_at = False, self._loop.time()
        self._set_timer()

    def content_arrived(self) -> None:
        """Note that the first delta with content has arrived: from now on `idle_timeout` counts."""
        self._has_content = True
        if self._timeouts.idle_timeout is not None:
            self._set_timer()

    def __enter__(self) -> None:
        """Begin a read.

        Raises:
            DeadlineExceeded: A limit has ended since the last read.
        """
        if self._expired is not None:
            raise self._expired
        if self._timeouts.idle_timeout is not None:
            self._waiting_since = self._loop.time()
        self._reader = reader = asyncio.current_task(self._loop)
        assert reader is not None
        self._earlier_cancellations = reader.cancelling()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """End a read.

        Raises:
            DeadlineExceeded: A limit ended during the read.
        """
        reader, self._reader = self._reader, None
        if self._expired is None or reader is None:
            return
        if error is None:
            reader.uncancel()  # The backend ignored the cancellation. Its delta is passed on, and the next read raises.
        # The error may be the timer's cancellation, which the backend may have turned into another error, or somebody
        # else's. Without the timer's request, the task has no more cancellation requests than before this read.
        elif isinstance(error, Exception | asyncio.CancelledError) and reader.uncancel() <= self._earlier_cancellations:
            self._expired.attempts = getattr(error, "attempts", ())  # the models that a `FallbackModel` called
            raise self._expired from None

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
        if timeouts.first_token_timeout is not None and not self._has_content and not self._queued:
            limits.append((self._sent_at + timeouts.first_token_timeout, "first_token_timeout"))
        if timeouts.idle_timeout is not None and self._has_content:
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
