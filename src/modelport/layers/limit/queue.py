"""The queue of calls that wait for a limit: first in, first out, across threads and event loops.

Theory of operation:

- Calls are served in the order in which they joined, whichever thread and event loop they run on.
- Only the first call is woken. It checks whether it may be sent. When it leaves the queue, it wakes the next call.
- A waiting call sleeps on its own event loop. Any thread can wake it.
- An event loop may stall while a call waits on it, for example a notebook's loop between two cells, or a loop that is
  blocked by synchronous code. The calls behind it must not wait for it. So each waiter states when it will check again
  at the latest. If more than a second has passed since that time, its loop is assumed to be stalled, and the waiter is
  skipped. The waiter does not lose its position: it is the first again as soon as its loop runs.
- A stalled call does not run, so it never leaves the queue and never wakes the call behind it. Therefore every waiter
  also wakes by itself and checks whether it has become the first. It does so about once a second. If many calls wait,
  each of them checks less often, so that all together check at most 100 times a second.
- A waiter whose event loop has been closed can never run again. It is removed.
- The queue takes no lock. The caller makes sure that only one thread uses it at a time.
"""

from __future__ import annotations

from collections import deque

#: Seconds by which a waiter's check may be late before its event loop is assumed to be stalled.
LATE_SECONDS = 1.0
#: Seconds after which a waiter that nobody has woken checks by itself whether it has become the first.
POLL_SECONDS = 1.0
#: How often per second all waiters together may check by themselves.
MAX_POLLS_PER_SECOND = 100


class Waiter:
    """A call in the queue. It belongs to the event loop that is running when it is created.

    Attributes:
        check_due: The time at which the waiter checks again at the latest, unless its event loop is stalled. The limit
            layer sets it. A waiter that is late by more than `LATE_SECONDS` is skipped.
    """

    def __init__(self) -> None:
        import asyncio  # Imported at the first call and not with the package, because the import takes long.

        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.check_due = float("inf")

    @property
    def is_loop_closed(self) -> bool:
        """Whether the event loop of the call is closed, so that the call can never go on."""
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
        self.check_due = min(self.check_due, now)  # The call must check now. If it does not, its loop is stalled.
        return True

    async def wait(self, seconds: float) -> None:
        """Sleep until `wake` is called, but at most for this number of seconds."""
        import asyncio

        self._event.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


class WaiterQueue(deque[Waiter]):
    """The waiters that joined (`append`) and have not left (`remove`), in order of joining.

    The class inherits from `deque`, because every call checks whether the queue is empty. On a subclass of `deque`,
    that check does not call a Python function, so it takes less time.
    """

    def first(self, now: float) -> Waiter | None:
        """Return the first waiter whose event loop is neither stalled nor closed, or `None` if there is none."""
        while self and self[0].is_loop_closed:
            self.popleft()
        # `list` makes a copy. If a waiting call is garbage-collected during the iteration, its `finally` block removes
        # its waiter from this queue, and iterating over a changed deque raises an error.
        return next(
            (w for w in list(self) if now <= w.check_due + LATE_SECONDS and not w.is_loop_closed),
            None,
        )

    def wake_first(self, now: float) -> None:
        """Wake the first waiter whose event loop is neither stalled nor closed, if there is one."""
        while (first := self.first(now)) is not None and not first.wake(now):
            self.remove(first)

    def poll_interval(self) -> float:
        """Return the seconds after which a waiter checks by itself whether it has become the first."""
        return max(POLL_SECONDS, len(self) / MAX_POLLS_PER_SECOND)
