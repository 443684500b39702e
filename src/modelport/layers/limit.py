"""Rate limits: requests per minute, tokens per minute, concurrent requests.

Every window of 60 seconds holds at most the limit; a burst up to it goes through at once. Waiters go in the order in
which they came, whichever threads and loops they belong to, and can be cancelled.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import deque
from contextlib import aclosing
from typing import Any

from modelport.errors import InvalidRequest
from modelport.layers import Deltas, Next
from modelport.messages import TokenUsage
from modelport.normalise import json_size
from modelport.request import Request

WINDOW = 60.0
#: Tokens set aside for an answer of unknown length before any has been seen.
_FIRST_GUESS = 1024


class _Entry:
    """A request that the window counts: when it went, its tokens, and whether it is still in there."""

    __slots__ = ("at", "tokens", "counts")

    def __init__(self, at: float, tokens: int) -> None:
        self.at, self.tokens, self.counts = at, tokens, True


class _Waiter:
    """A call in the queue; `wake` works from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> bool:
        """False where its loop has ended, and with it the call."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        return True

    @property
    def gone(self) -> bool:
        return self._loop.is_closed()

    async def wait(self, seconds: float | None) -> None:
        self._event.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass


class Limit:
    """The layer.

    Args:
        requests_per_minute: Requests begun in any 60 seconds.
        tokens_per_minute: Tokens, in and out, of the requests begun in any 60 seconds. A request counts as an estimate
            (a token for every 2 bytes of prompt, and `max_tokens` or the longest answer seen so far) until its usage
            is known.
        max_concurrency: Requests under way at once.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        clock: Any = time.monotonic,
    ) -> None:
        given = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_concurrency": max_concurrency,
        }
        for name, value in given.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1):
                raise InvalidRequest(f"{name}={value!r}: must be a number of at least 1, or None for no limit")
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.max_concurrency = max_concurrency
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        _limits.add(self)
        self._lock = threading.Lock()
        self._window: deque[_Entry] = deque()
        self._tokens = 0  # of the window; adding them up at each call would cost as much as the window is long
        self._queue: deque[_Waiter] = deque()
        self._running = 0
        self._longest_answer = 0

    def __getstate__(self) -> dict[str, Any]:
        names = ("requests_per_minute", "tokens_per_minute", "max_concurrency", "_clock")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Waits for a place, then passes the request on."""
        if self.requests_per_minute is self.tokens_per_minute is self.max_concurrency is None:
            return next(request)
        return self._limited(request, next)

    async def _limited(self, request: Request, next: Next) -> Deltas:
        entry = await self._enter(self._estimate(request))
        usage: TokenUsage | None = None
        try:
            deltas = next(request)
            async with aclosing(deltas):
                async for delta in deltas:
                    usage = delta.token_usage or usage
                    yield delta
        finally:
            self._leave(entry, usage)

    def _estimate(self, request: Request) -> int:
        limit = self.tokens_per_minute
        if limit is None:
            return 0
        asked = request.parameters.get("max_tokens")
        if asked is not None and asked > limit:
            raise InvalidRequest(
                f"max_tokens={asked} is above tokens_per_minute={limit:g}, so the request could never be sent: "
                "lower the one or raise the other"
            )
        prompt = sum(map(json_size, request.messages)) // 2 + 1
        # One request larger than the limit by estimate still goes, alone in its window.
        return int(min(prompt + (asked or self._longest_answer or _FIRST_GUESS), limit))

    async def _enter(self, tokens: int) -> _Entry:
        waiter: _Waiter | None = None
        try:
            while True:
                with self._lock:
                    while self._queue and self._queue[0].gone:
                        self._queue.popleft()
                    first = not self._queue or self._queue[0] is waiter
                    delay = self._delay(tokens) if first else None
                    if first and delay == 0:
                        if waiter is not None:
                            self._queue.popleft()
                            waiter = None
                        entry = _Entry(self._clock(), tokens)
                        self._window.append(entry)
                        self._tokens += tokens
                        self._running += 1
                        self._wake_first()
                        return entry
                    if waiter is None:
                        waiter = _Waiter()
                        self._queue.append(waiter)
                await waiter.wait(delay)
        finally:
            if waiter is not None:  # cancelled while it waited
                with self._lock:
                    if waiter in self._queue:
                        self._queue.remove(waiter)
                    self._wake_first()

    def _delay(self, tokens: int) -> float | None:
        """Seconds until the request may go: 0 for now, `None` for "when another has left"."""
        if self.max_concurrency is not None and self._running >= self.max_concurrency:
            return None
        now: float = self._clock()
        while self._window and self._window[0].at <= now - WINDOW:
            left = self._window.popleft()
            self._tokens -= left.tokens
            left.counts = False
        free_requests = (self.requests_per_minute or float("inf")) - len(self._window)
        free_tokens = (self.tokens_per_minute or float("inf")) - self._tokens - tokens
        if free_requests >= 1 and free_tokens >= 0:
            return 0
        for entry in self._window:
            free_requests += 1
            free_tokens += entry.tokens
            if free_requests >= 1 and free_tokens >= 0:
                return max(entry.at + WINDOW - now, 0.001)
        return 0

    def _leave(self, entry: _Entry, usage: TokenUsage | None) -> None:
        with self._lock:
            self._running -= 1
            if usage is not None and usage.total_tokens is not None:
                if entry.counts:
                    self._tokens += usage.total_tokens - entry.tokens
                    entry.tokens = usage.total_tokens
                self._longest_answer = max(self._longest_answer, usage.output_tokens or 0)
            self._wake_first()

    def _wake_first(self) -> None:
        while self._queue and not self._queue[0].wake():
            self._queue.popleft()


_limits: weakref.WeakSet[Limit] = weakref.WeakSet()


def _forget_after_fork() -> None:
    # What the parent's threads were doing at the fork, a held lock included, goes on in the parent alone.
    for limit in list(_limits):
        limit._reset()


os.register_at_fork(after_in_child=_forget_after_fork)
