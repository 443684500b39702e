"""The queue of calls that wait for a limit: first in, first out, across threads and event loops.

Theory of operation:

- Calls are served in the order in which they joined, whichever thread and event loop they run on.
- Only the first call is woken. It checks whether it can go. When it leaves the queue, the next call is woken.
- A waiting call sleeps on its own event loop. Any thread can wake it.
- An event loop may stall while a call waits on it: a notebook's loop between two cells, or a loop that code blocks.
  A stalled call must not delay those behind it. So each waiter sets a time at which it checks again at the latest. If
  it is late by more than a second, its loop is assumed to be stalled, and the waiter is skipped. It keeps its
  position, and is served again as soon as its loop runs.
- A stalled call cannot wake the next one when it should leave the queue. So every waiter also checks by itself whether
  it has become the first: about once a second, and less often if so many wait that together they would check too often.
- A waiter whose loop has been closed never runs again. It is removed.
- The queue takes no lock. The caller makes sure that only one thread uses it at a time.
"""

from __future__ import annotations

from collections import deque

#: Seconds by which a waiter may be late before its event loop is assumed to be stalled.
LATE_SECONDS = 1.0
#: Seconds after which each waiter checks by itself whether it has become the first.
POLL_SECONDS = 1.0
#: How often all waiters together may check, per second.
MAX_POLLS_PER_SECOND = 100


class Waiter:
    """A call in the queue. It belongs to the event loop that is running when it is created.

    Attributes:
        due: The time at which the waiter checks again at the latest, if its event loop is not stalled. A waiter that
            is late by more than `LATE_SECONDS` is skipped.
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
        """Wake the call, so that it checks again; any thread may call this.

        Returns:
            Whether the call was woken. It cannot be woken if its event loop has been closed.
        """
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        self.due = min(self.due, now)  # The call should check at once, and is late if it does not.
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
    """The waiters that joined (`append`) and have not left (`remove`), in order of joining.

    This class inherits from `deque`, because every call checks whether the queue is empty, and a deque does that
    without a call of a Python function.
    """

    def first(self, now: float) -> Waiter | None:
        """Return the first waiter whose event loop runs, or `None` if there is none."""
        while self and self[0].is_lost:
            self.popleft()
        # The list is a copy, because the garbage collector may change the queue at any time: a garbage-collected
        # generator runs its `finally`, which removes its waiter from this queue.
        return next((waiter for waiter in list(self) if now <= waiter.due + LATE_SECONDS and not waiter.is_lost), None)

    def wake_first(self, now: float) -> None:
        """Wake the first waiter whose event loop runs, if there is one."""
        while (first := self.first(now)) is not None and not first.wake(now):
            self.remove(first)

    def poll_interval(self) -> float:
        """Return the seconds after which a waiter checks by itself whether it has become the first."""
        return max(POLL_SECONDS, len(self) / MAX_POLLS_PER_SECOND)
