"""The time limits of one attempt. Imported at the first call, since asyncio is."""

from __future__ import annotations

import asyncio
from typing import Any

from modelport.errors import DeadlineExceeded, ModelError
from modelport.layers.base import SENT, Deltas
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request


class Watchdog:
    """Keeps the time limits of one attempt with one timer.

    The timer wakes a reader that waits for a delta; between two reads, while the caller is busy, it only takes note.
    """

    def __init__(self, request: Request, queued: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = request.timeouts
        self._queued = queued
        self._begin = self._waiting_since = self._loop.time()
        self._begun = False
        self._task: asyncio.Task[Any] | None = None
        self._expired: ModelError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    async def read(self, deltas: Deltas) -> ChatMessageStreamDelta | None:
        """The next delta, or `None` at the end.

        Raises:
            DeadlineExceeded: A limit ran out while waiting for it.
        """
        if self._expired is not None:
            raise self._expired
        if self._limits.idle_timeout is not None:
            self._waiting_since = self._loop.time()
        self._task = task = asyncio.current_task(self._loop)
        assert task is not None
        cancelling = task.cancelling()
        try:
            delta = await anext(deltas, None)
        except (Exception, asyncio.CancelledError) as error:
            # Our own cancellation, however the backend put it? Or somebody's who cancelled the task for their reasons?
            if self._expired is not None and task.uncancel() <= cancelling:
                self._expired.attempts = getattr(error, "attempts", ())  # who was asked, of a `FallbackModel`
                raise self._expired from None
            raise
        finally:
            self._task = None
        if self._expired is not None:
            task.uncancel()  # The backend let it pass: what it still gave goes out before the next read says so.
        if delta is SENT:
            self._queued, self._begin = False, self._loop.time()
            self._arm()
            return await self.read(deltas)
        if not self._begun and delta is not None and delta.delivers:
            self._begun = True
            if self._limits.idle_timeout is not None:  # which begins to count; a timer for the others stands
                self._arm()
        return delta

    def stop(self) -> None:
        """Takes the timer down."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> tuple[float, str] | None:
        """When the next limit runs out, and its name."""
        limits, due = self._limits, []
        if limits.deadline is not None:
            due.append((limits.deadline, "timeout"))
        if limits.first_token_timeout is not None and not self._begun and not self._queued:
            due.append((self._begin + limits.first_token_timeout, "first_token_timeout"))
        if limits.idle_timeout is not None and self._begun and self._task is not None:
            due.append((self._waiting_since + limits.idle_timeout, "idle_timeout"))
        elif limits.idle_timeout is not None and self._begun:
            due.append((self._loop.time() + limits.idle_timeout, "idle_timeout"))
        return min(due, default=None)

    def _arm(self) -> None:
        self.stop()
        if (due := self._due()) is not None:
            self._timer = self._loop.call_at(due[0], self._ring)

    def _ring(self) -> None:
        due = self._due()
        if due is None or due[0] > self._loop.time():
            self._arm()
            return
        name = due[1]
        seconds = getattr(self._limits, name)
        # The whole call's time is up with "timeout"; the other two limit an attempt, and another may be faster.
        self._expired = DeadlineExceeded(f"{name}={seconds:g} s ran out.", retryable=name != "timeout")
        if self._task is not None:
            self._task.cancel()
