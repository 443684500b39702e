"""The queue of calls that wait for a limit: first in, first out, across threads and event loops.

Theory of operation:

- Calls are served in the order in which they joined, whichever thread and event loop they run on.
- Only the first call is woken. It checks whether it can go. When it leaves the queue, the next call is woken.
- A waiting call sleeps on its own event loop. Any thread can wake it.
- An event loop may stand still while a call waits on it: a notebook between two cells, or code that blocks the loop.
  Such a call must not hold up those behind it. So each waiter sets a time at which it checks again at the latest. If it
  is late by more than a second, its loop is taken to stand still, and the waiter is skipped. It keeps its position,
  and is served again as soon as its loop runs.
- Nobody wakes the calls behind a loop that stands still. So every waiter checks from time to time whether it has become
  the first: about once a second, and less often if so many wait that together they would check too often.
- A waiter whose loop has been closed never runs again. It is removed.
- The queue takes no lock. The caller makes sure that only one thread uses it at a time.
"""

from __future__ import annotations

from collections import deque

#: Seconds by which a waiter may be late before its event loop is taken to stand still.
LATE_SECONDS = 1.0
#: Seconds after which each waiter checks by itself whether it has become the first.
POLL_SECONDS = 1.0
#: How often all waiters together may check, per second.
MAX_POLLS_PER_SECOND = 100


class Waiter:
    """A call in the queue, on the event loop that runs now.

    Attributes:
        due: The time at which the waiter checks again at the latest, if its event loop runs.
    """

    def __init__(self) -> None:
        import asyncio  # It is imported at the first call and not with the package.

        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.due = float("inf")

    @property
    def is_lost(self) -> bool:
        """Whether the event loop is closed, so that the call can never go on."""
        return self._loop.is_closed()

    def wake(self, now: float) -> bool:
        """Have the call check again; any thread may call this.

        Returns:
            Whether that was possible. It is not if the event loop has been closed.
        """
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        self.due = min(self.due, now)
        return True

    async def wait(self, seconds: float) -> None:
        """Sleep until somebody wakes this waiter, or until the time has passed."""
        import asyncio

        self._event.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


class WaiterQueue(deque[Waiter]):
    """The waiters, in the order in which they joined (`append`) and have not left (`remove`).

    This class inherits from `deque`, because every call checks whether the queue is empty, and a deque does that
    without a call of a Python function.
    """

    def first(self, now: float) -> Waiter | None:
        """Return the first waiter whose event loop runs, or `None` if there is none."""
        while self and self[0].is_lost:
            self.popleft()
        # A copy, because the garbage collector may close a waiting call, and so change the queue, at any time.
        return next((waiter for waiter in list(self) if now <= waiter.due + LATE_SECONDS and not waiter.is_lost), None)

    def wake_first(self, now: float) -> None:
        """Wake the first waiter whose event loop runs, if there is one."""
        while (first := self.first(now)) is not None and not first.wake(now):
            self.remove(first)

    def poll_interval(self) -> float:
        """Return the seconds after which a waiter checks by itself whether it has become the first."""
        return max(POLL_SECONDS, len(self) / MAX_POLLS_PER_SECOND)
