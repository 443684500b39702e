"""The time limits of one attempt to get a response.

One timer runs per attempt. It is set to the time limit that ends first:

- `timeout` limits the whole call, all attempts included. `Model` computes the deadline when the call starts.
- `first_token_timeout` limits the time from sending the request to the first delta with output of the model: text,
  reasoning or a piece of a tool call.
- `idle_timeout` limits each wait for the next delta, once a delta with output has arrived.

The retry layer reads each delta in a `with timer:` block. If the timer fires during such a read, it cancels the task
that reads, and leaving the `with` block turns the cancellation into `DeadlineExceeded`. If the timer fires between two
reads, it only records the error, and the next read raises it. So no task is ever cancelled while it runs the caller's
own code. In the same way, closing the model ends the read with `ModelClosed`.

This module imports asyncio, which takes long. So it is imported at the first call and not with the package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from modelport.errors import DeadlineExceeded, ModelError
from modelport.types.request import Timeouts

T = TypeVar("T")


class AttemptTimer:
    """Enforces the time limits of one attempt. Each read of a delta must run in a `with` block of this object.

    After the last read, `close` must be called.

    Args:
        timeouts: The time limits of the call.
        in_queue: Whether the request may first wait in the queue of the limit layer. If so, the clock of
            `first_token_timeout` starts when `start_first_token_clock` is called. If not, it starts at once.
    """

    def __init__(self, timeouts: Timeouts, in_queue: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._in_queue = in_queue
        self._sent_at = self._waiting_since = self._loop.time()
        self._has_output = False
        self.reader: asyncio.Task[Any] | None = None  # The task that reads a delta; `None` between two reads.
        self._was_cancelled = False  # Whether this timer has cancelled that task.
        self._earlier_cancellations = 0  # How often that task had been cancelled before the read.
        self._expired: ModelError | None = None  # The error to raise, once a limit has ended or the model was closed.
        self._timer: asyncio.TimerHandle | None = None
        if (call := timeouts.call) is not None:
            call.readers.append(self)
            self._expired = call.error
        self._set_timer()

    def start_first_token_clock(self) -> None:
        """Start the clock of `first_token_timeout`, because the request has left the queue of the limit layer."""
        self._in_queue, self._sent_at = False, self._loop.time()
        self._set_timer()

    def output_arrived(self) -> None:
        """Enforce `idle_timeout` from now on, and no longer `first_token_timeout`, because output has arrived."""
        self._has_output = True
        if self._timeouts.idle_timeout is not None:
            self._set_timer()

    def __enter__(self) -> None:
        """Begin a read.

        Raises:
            DeadlineExceeded: A limit ended between the last read and this one.
            ModelClosed: The model was closed.
        """
        if self._expired is not None:
            raise self._expired
        if self._timeouts.idle_timeout is not None:
            self._waiting_since = self._loop.time()
        self.reader = reader = asyncio.current_task(self._loop)
        assert reader is not None
        self._earlier_cancellations = reader.cancelling()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        """End a read.

        Raises:
            DeadlineExceeded: A limit ended during the read.
            ModelClosed: The model was closed during the read.
        """
        reader, self.reader = self.reader, None
        if self._expired is None or reader is None or not self._was_cancelled:
            return
        if error is None:
            reader.uncancel()  # The backend ignored the cancellation. Its delta is passed on, and the next read raises.
        # `uncancel` takes back the timer's cancellation. If more cancellations remain than before this read, the caller
        # cancelled the task too, and that cancellation must not be turned into `DeadlineExceeded`.
        elif isinstance(error, Exception | asyncio.CancelledError) and reader.uncancel() <= self._earlier_cancellations:
            self._expired.attempts = getattr(error, "attempts", ())  # The models that a `FallbackModel` called.
            raise self._expired from None

    def end(self, error: ModelError, spared: asyncio.Task[Any] | None = None) -> None:
        """Raise an error in the current read and in later ones.

        Args:
            error: The error.
            spared: A task that is not cancelled, although it may be the one that reads.
        """
        if self._expired is not None:
            return
        self._expired = error
        self._stop()
        if self.reader is not None and self.reader is not spared:
            self._was_cancelled = True
            self.reader.cancel()

    def close(self) -> None:
        """End the timer, after the last read."""
        self._stop()
        if (call := self._timeouts.call) is not None and self in call.readers:
            call.readers.remove(self)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next_limit(self) -> tuple[float, str] | None:
        """Return the time at which the next limit ends, and the name of that limit."""
        timeouts, limits = self._timeouts, []
        if timeouts.deadline is not None:
            limits.append((timeouts.deadline, "timeout"))
        if timeouts.first_token_timeout is not None and not self._has_output and not self._in_queue:
            limits.append((self._sent_at + timeouts.first_token_timeout, "first_token_timeout"))
        if timeouts.idle_timeout is not None and self._has_output:
            # The time between two reads does not count: the caller is busy then, and does not wait for the backend.
            idle_since = self._loop.time() if self.reader is None else self._waiting_since
            limits.append((idle_since + timeouts.idle_timeout, "idle_timeout"))
        return min(limits, default=None)

    def _set_timer(self) -> None:
        self._stop()
        if self._expired is not None:
            return
        if (limit := self._next_limit()) is not None:
            self._timer = self._loop.call_at(limit[0], self._fire)

    def _fire(self) -> None:
        limit = self._next_limit()
        if limit is None or limit[0] > self._loop.time():
            self._set_timer()  # The limit for which the timer was set has moved or no longer applies.
            return
        name = limit[1]
        seconds = getattr(self._timeouts, name)
        # `timeout` ends the whole call. The other two limits end only this attempt, and another one may be faster.
        where = f" while the call waited for {self._timeouts.waits_for}" if self._timeouts.waits_for else ""
        self.end(DeadlineExceeded(f"{name}={seconds:g} s ran out{where}.", retryable=name != "timeout"))


async def within_call(timeouts: Timeouts, work: Awaitable[T]) -> T:
    """Await something outside of the attempts of a call, which itself keeps the deadline, until the model is closed.

    Raises:
        ModelClosed: The model was closed.
    """
    timer = AttemptTimer(Timeouts(timeout=None, call=timeouts.call))
    try:
        with timer:
            return await work
    finally:
        timer.close()
