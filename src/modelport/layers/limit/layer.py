"""Rate limits: requests per minute, tokens per minute, concurrent requests.

Every window of 60 seconds holds at most the limit; a burst up to it goes through at once. Waiters go in the order in
which they came, whichever threads and loops they belong to, and can be cancelled. One whose loop stands still is passed
over until it moves again.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections import deque
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol

from modelport.errors import AuthenticationError, InvalidRequest, ModelError
from modelport.layers.base import Deltas, Next
from modelport.layers.limit.estimate import json_size
from modelport.runtime import slots
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

WINDOW = 60.0
#: Tokens set aside for an answer of unknown length before any has been seen.
_FIRST_GUESS = 1024
#: Seconds after which a place that is shared is asked for again, since others' answers may have cost less than thought.
_POLL = 1.0
#: Seconds for which a shared window that could not be reached is left alone.
_ALONE = 5.0
#: Seconds by which a waiter may be late before its loop is taken to stand still.
_LATE = 1.0
#: How often waiters look by themselves, for what nobody wakes them for: each once in so many seconds, and all of them
#: together no more than so many times a second.
_LOOK, _LOOKS = 1.0, 100
#: Seconds that those who share a window may take to answer.
_ASKING = 10.0


class SharedWindow(Protocol):
    """A window that several processes keep together; see `RedisLimits`, which is one."""

    on_unavailable: str

    async def take(
        self, of: str, entry: str, window: float, requests: float | None, tokens: float | None, wanted: int
    ) -> float:
        """Seconds to wait before asking again; 0 where the request has a place."""
        ...

    async def correct(self, of: str, entry: str, tokens: int) -> None:
        """Puts what a request cost in the place of its estimate."""
        ...


class _Entry:
    """A request that the window counts: when it went, its tokens, and whether it is still in there."""

    __slots__ = ("at", "tokens", "counts", "shared")

    def __init__(self, tokens: int) -> None:
        self.at, self.tokens, self.counts = 0.0, tokens, True
        self.shared: str | None = None  # its name in the window that it shares with other processes


class _Slot:
    """One of those under way at once; free once all who hold it have let it go, or are no more."""

    def __init__(self, limit: Limit) -> None:
        self._limit, self._holders = limit, 1

    def retain(self) -> bool:
        with self._limit._lock:
            self._holders += self._holders > 0
            return self._holders > 0

    def release(self) -> None:
        with self._limit._lock:
            self._holders -= 1
            if not self._holders:
                self._limit._running.discard(self)
                self._limit._wake_first()

    async def read(self, deltas: Deltas) -> ChatMessageStreamDelta | None:
        """The next delta; whatever works for it can hold the place."""
        token = slots.current.set(self)
        try:
            return await anext(deltas, None)
        finally:
            try:
                slots.current.reset(token)
            except ValueError:  # Nobody reads any more: this is the garbage collector, in a context of its own.
                pass


class _Waiter:
    """A call in the queue; `wake` works from any thread."""

    def __init__(self) -> None:
        import asyncio  # not before the first call

        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.due = float("inf")  # when it looks by itself at the latest, if its loop runs

    def wake(self, now: float) -> bool:
        """False where its loop has ended, and with it the call."""
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:
            return False
        self.due = min(self.due, now)
        return True

    @property
    def gone(self) -> bool:
        return self._loop.is_closed()

    async def wait(self, seconds: float) -> None:
        import asyncio

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
        max_concurrency: Requests under way at once; one that was left counts until its thread, if it has one, is done.
        clock: Seconds, never going back.
        shared: Where several processes keep the two limits per minute together.
        name: What is limited, to those who share it.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        clock: Any = time.monotonic,
        shared: SharedWindow | None = None,
        name: str | None = None,
    ) -> None:
        if shared is not None and not hasattr(shared, "take"):
            raise InvalidRequest(f"shared_limits must be RedisLimits(…), not {type(shared).__name__}")
        if shared is not None and requests_per_minute is tokens_per_minute is None:
            raise InvalidRequest(
                "shared_limits: there is nothing to share; give requests_per_minute or tokens_per_minute"
            )
        given = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_concurrency": max_concurrency,
        }
        for key, value in given.items():
            kinds, kind = ((int,), "whole number") if key == "max_concurrency" else ((int, float), "number")
            right = isinstance(value, kinds) and not isinstance(value, bool) and 1 <= value < float("inf")
            if value is not None and not right:
                raise InvalidRequest(f"{key}={value!r}: must be a {kind} of at least 1, or None for no limit")
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.max_concurrency = max_concurrency
        self._clock = clock
        self.shared, self.name = shared, name or "model"
        self._reset()

    def _reset(self) -> None:
        _limits.add(self)
        # The garbage collector may close a waiting call at any moment, also in a thread that has the lock.
        self._lock = threading.RLock()
        self._window: deque[_Entry] = deque()
        self._tokens = 0  # of the window; adding them up at each call would cost as much as the window is long
        self._queue: deque[_Waiter] = deque()
        self._running: weakref.WeakSet[_Slot] = weakref.WeakSet()  # A call that nobody closes is forgotten some time.
        self._longest_answer = 0
        self._alone_until = float("-inf")

    def __getstate__(self) -> dict[str, Any]:
        names = ("requests_per_minute", "tokens_per_minute", "max_concurrency", "_clock", "shared", "name")
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
        entry, place = await self._enter(self._estimate(request))
        usage: TokenUsage | None = None
        try:
            if request.on_sent is not None:
                request.on_sent()
            deltas = next(request)
            async with aclosing(deltas):
                while (delta := await (place.read(deltas) if place else anext(deltas, None))) is not None:
                    usage = delta.token_usage or usage
                    if self.shared is not None and entry.shared is None and delta.finish_reason is not None:
                        alone = "the rate limits were kept by this process alone: those who share them were not reached"
                        delta = replace(delta, warnings=[*(delta.warnings or ()), alone])
                    yield delta
        finally:
            self._leave(entry, usage, place)
            await self._tell(entry, usage)

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

    async def _enter(self, tokens: int) -> tuple[_Entry, _Slot | None]:
        entry = _Entry(tokens)
        waiter: _Waiter | None = None
        try:
            while True:
                with self._lock:
                    now, full = self._clock(), self._full
                    if waiter is not None:
                        waiter.due = now  # However late it is, its loop runs now.
                    first = not self._queue or self._first(now) is waiter
                    shared = self.shared is not None and now >= self._alone_until
                    # `None` is for "when another has left".
                    delay = None if full or shared or not first else self._delay(tokens)
                    if delay == 0:  # Under the same lock, or two threads could take the last place.
                        return self._acquire(entry, waiter)
                    if not first and not full:  # Whose turn it is may have come up behind one whose loop stands still.
                        self._wake_first()
                    if waiter is None:
                        waiter = _Waiter()
                        self._queue.append(waiter)
                    asks = shared and first and not full
                    waiter.due = now + (_ASKING if asks else self._until_next_look(delay))
                if asks:  # The first of this process's queue asks for all of them.
                    delay = await self._ask(entry)
                    with self._lock:
                        if delay == 0 and not self._full:  # unless one came in meanwhile, since asking took so long
                            return self._acquire(entry, waiter)
                        waiter.due = self._clock() + self._until_next_look(delay or None)
                await waiter.wait(self._until_next_look(delay or None))
        finally:
            if waiter is not None:
                with self._lock:
                    if waiter in self._queue:  # cancelled while it waited
                        self._queue.remove(waiter)
                        self._wake_first()

    def _until_next_look(self, delay: float | None) -> float:
        return max(_LOOK, len(self._queue) / _LOOKS) if delay is None else delay

    def _first(self, now: float) -> _Waiter | None:
        """Whose turn it is: of those whose loop runs, who came first; under the lock."""
        while self._queue and self._queue[0].gone:
            self._queue.popleft()
        return next((waiter for waiter in list(self._queue) if now <= waiter.due + _LATE and not waiter.gone), None)

    @property
    def _full(self) -> bool:
        return self.max_concurrency is not None and len(self._running) >= self.max_concurrency

    def _acquire(self, entry: _Entry, waiter: _Waiter | None) -> tuple[_Entry, _Slot | None]:
        """Gives a request its place; under the lock."""
        if waiter is not None:
            self._queue.remove(waiter)
        entry.at = self._clock()
        self._forget(entry.at)
        self._window.append(entry)
        self._tokens += entry.tokens
        place = None
        if self.max_concurrency is not None:
            self._running.add(place := _Slot(self))
        self._wake_first()
        return entry, place

    async def _ask(self, entry: _Entry) -> float:
        """Seconds until those who share the window are asked again; 0 where the request has a place in it."""
        assert self.shared is not None
        name = entry.shared or uuid.uuid4().hex
        try:
            limits = self.requests_per_minute, self.tokens_per_minute
            wait = await self.shared.take(self.name, name, WINDOW, *limits, entry.tokens)
        except ModelError as error:
            if self.shared.on_unavailable == "error" or isinstance(error, AuthenticationError | InvalidRequest):
                raise
            self._alone_until, entry.shared = self._clock() + _ALONE, None
            return 0.001  # and then by this process's own window
        entry.shared = name
        return min(wait, _POLL)

    async def _tell(self, entry: _Entry, usage: TokenUsage | None) -> None:
        """Tells those who share the window what a request cost; where they can't be told, the estimate stands."""
        total = None if usage is None else usage.total_tokens
        if self.shared is None or entry.shared is None or total is None or self.tokens_per_minute is None:
            return
        try:
            await self.shared.correct(self.name, entry.shared, total)
        except ModelError:
            pass

    def _forget(self, now: float) -> None:
        while self._window and self._window[0].at <= now - WINDOW:
            left = self._window.popleft()
            self._tokens -= left.tokens
            left.counts = False

    def _delay(self, tokens: int) -> float:
        """Seconds until the request may go; 0 for now."""
        now: float = self._clock()
        self._forget(now)
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

    def _leave(self, entry: _Entry, usage: TokenUsage | None, place: _Slot | None) -> None:
        with self._lock:
            if usage is not None and usage.total_tokens is not None:
                if entry.counts:
                    self._tokens += usage.total_tokens - entry.tokens
                    entry.tokens = usage.total_tokens
                self._longest_answer = max(self._longest_answer, usage.output_tokens or 0)
            if place is not None:
                place.release()
            if self.tokens_per_minute is not None:  # It may have cost less than was thought.
                self._wake_first()

    def _wake_first(self) -> None:
        if not self._queue:
            return
        now = self._clock()
        while (first := self._first(now)) is not None and not first.wake(now):
            self._queue.remove(first)


_limits: weakref.WeakSet[Limit] = weakref.WeakSet()


def _forget_after_fork() -> None:
    # What the parent's threads were doing at the fork, a held lock included, goes on in the parent alone.
    for limit in list(_limits):
        limit._reset()


os.register_at_fork(after_in_child=_forget_after_fork)
