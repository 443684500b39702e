"""The layer that enforces rate limits: requests per minute, tokens per minute, concurrent requests.

Theory of operation:

- The requests and tokens of the last 60 seconds are counted in a window (`RateWindow`). A call is admitted if a
  concurrency slot is free, the window has room for its request, and no other call waits before it. All three conditions
  are checked under one lock, so that two threads cannot take the same last slot.
- Otherwise the call joins the queue. It checks the conditions again when it is woken, when the window is expected to
  have room, and at regular intervals.
- A call wakes the first waiting call when it leaves the queue, when it finishes, and when its real number of tokens is
  known, which may be smaller than the estimate.
- A concurrency slot is released when the call and every thread that it started have finished. A thread cannot be
  stopped: if the caller leaves or a time limit ends, the thread still uses the engine or the connection.
- With `shared`, several processes count their requests in one shared window. In each process, only the first waiting
  call asks the shared window for admission. A call that leaves has its request removed from the shared window. The
  process also counts its admitted requests in its own window, and uses that one while the shared window cannot be
  reached, if the caller has chosen `on_unavailable="local"`.
- After a fork, the child process starts with a new lock, an empty window, an empty queue and free slots. The calls of
  the parent do not exist in the child, and a lock that another thread had taken would never be released there.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelport.errors import AuthenticationError, InvalidRequest, ModelError, RateLimited
from modelport.layers.base import Deltas, Next
from modelport.layers.limit.concurrency import ConcurrencySlot
from modelport.layers.limit.estimate import estimate_tokens
from modelport.layers.limit.queue import Waiter, WaiterQueue
from modelport.layers.limit.window import WINDOW_SECONDS, RateWindow, WindowEntry
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request, Timeouts
from modelport.types.usage import TokenUsage
from modelport.types.warnings import CallWarning

if TYPE_CHECKING:
    from modelport.layers.limit.shared import SharedWindow

#: Seconds after which a waiting call asks the shared window again at the latest. It may have room earlier than it said,
#: if requests of other processes used fewer tokens than estimated.
SHARED_POLL_SECONDS = 1.0
#: Seconds for which a shared window is not asked after it could not be reached.
SHARED_PAUSE_SECONDS = 5.0
#: Seconds for which a waiting call may wait for the shared window's response before its event loop is assumed to be
#: stalled.
SHARED_RESPONSE_SECONDS = 10.0
_NOT_SHARED = CallWarning(
    "substituted",
    "shared_limits",
    "The rate limits were enforced by this process alone, because the shared limits could not be reached.",
)


class _Admission:
    """A request that waits for admission or has been admitted.

    Attributes:
        tokens: The estimate of its tokens.
        entry: Its entry in the window of this process. It is set when the request is admitted.
        slot: Its concurrency slot. `None` until the request is admitted, or if `max_concurrency` is not set.
        shared_id: Its identifier in the shared window. `None` if the shared window has not been asked, or could not be
            reached.
    """

    __slots__ = ("tokens", "entry", "slot", "shared_id")

    entry: WindowEntry

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.slot: ConcurrencySlot | None = None
        self.shared_id: str | None = None


class Limit:
    """The layer that enforces rate limits and the limit of concurrent requests.

    Args:
        requests_per_minute: The most requests that are sent in any 60 seconds.
        tokens_per_minute: The most tokens, input and output, of the requests that are sent in any 60 seconds. Until the
            token usage of a request is known, an estimate counts: one token for every 2 bytes of the prompt, and for
            the output `max_tokens` or the longest output so far.
        max_concurrency: The most requests at the same time. A request that the caller has cancelled counts until every
            thread that works for it has finished.
        clock: A function that returns the time in seconds. The time must never go back.
        shared: The shared window, if several processes share the two limits per minute.
        name: The name of the limit in the shared window; `model` by default.

    Raises:
        InvalidRequest: A limit is not a number of at least 1, `shared` is not a shared window, or there is no limit per
            minute to share.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrency: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedWindow | None = None,
        name: str | None = None,
    ) -> None:
        if shared is not None and not hasattr(shared, "acquire"):
            raise InvalidRequest(f"shared_limits must be RedisLimits(…), not {type(shared).__name__}")
        if shared is not None and requests_per_minute is tokens_per_minute is None:
            raise InvalidRequest(
                "shared_limits: there is nothing to share; give requests_per_minute or tokens_per_minute"
            )
        _check_limit("requests_per_minute", requests_per_minute)
        _check_limit("tokens_per_minute", tokens_per_minute)
        _check_limit("max_concurrency", max_concurrency, whole=True)
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.max_concurrency = max_concurrency
        self._clock = clock
        self.shared, self.name = shared, name or "model"
        self._reset()

    def _reset(self) -> None:
        _all_limits.add(self)
        # The lock is reentrant: while a thread has it, the garbage collector may run in that thread and close a waiting
        # call, which takes the lock too.
        self._lock = threading.RLock()
        self._window = RateWindow(self.requests_per_minute, self.tokens_per_minute, WINDOW_SECONDS)
        self._queue = WaiterQueue()
        # The references are weak, so that the slot of a call that is garbage-collected but never closed becomes free.
        self._slots: weakref.WeakSet[ConcurrencySlot] = weakref.WeakSet()
        self._longest_output = 0
        self._shared_paused_until = float("-inf")  # The shared window is not asked before this time.

    def __getstate__(self) -> dict[str, Any]:
        names = ("requests_per_minute", "tokens_per_minute", "max_concurrency", "_clock", "shared", "name")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Wait until the request is admitted, then pass it on."""
        if self.requests_per_minute is self.tokens_per_minute is self.max_concurrency is None:
            return next(request)
        return self._send_when_admitted(request, next)

    async def _send_when_admitted(self, request: Request, next: Next) -> Deltas:
        limit = self.tokens_per_minute
        tokens = 0 if limit is None else estimate_tokens(request, limit, self._longest_output)
        admission = await self._admit(tokens, request.timeouts)
        slot, usage, is_sent = admission.slot, None, False
        warning = _NOT_SHARED if self.shared is not None and admission.shared_id is None else None
        try:
            if request.on_sent is not None:
                request.on_sent()
            deltas = next(request)
            async with aclosing(deltas):
                while True:
                    try:
                        delta = await (slot.read(deltas) if slot else anext(deltas))
                    except StopAsyncIteration:
                        break
                    if not is_sent:  # The service responds, so the request has reached it.
                        with self._lock:
                            self._window.sent(admission.entry, self._clock())
                        is_sent = True
                    usage = delta.token_usage or usage
                    if warning and delta.finish_reason is not None:
                        delta, warning = replace(delta, warnings=[*(delta.warnings or ()), warning]), None
                    yield delta
            if warning:  # The backend sent no finish reason.
                yield ChatMessageStreamDelta(warnings=[warning])
        finally:
            self._finish(admission, usage)
            await self._correct_shared(admission, usage)

    async def _admit(self, tokens: int, timeouts: Timeouts) -> _Admission:
        """Wait until a request with this estimate of tokens is admitted.

        Raises:
            RateLimited: It will not be admitted before the deadline of the call.
        """
        admission = _Admission(tokens)
        try:
            return await self._wait_for_admission(admission, timeouts)
        except GeneratorExit:
            raise  # The event loop has ended. Nothing can be awaited.
        except BaseException:
            if admission.shared_id is not None:
                from modelport.layers.limit.shared import leave

                assert self.shared is not None
                await leave(self.shared, self.name, admission.shared_id)
            raise

    async def _wait_for_admission(self, admission: _Admission, timeouts: Timeouts) -> _Admission:
        tokens = admission.tokens
        waiter: Waiter | None = None
        try:
            while True:
                with self._lock:
                    now, is_full = self._clock(), self._is_full
                    if waiter is not None:
                        waiter.check_due = now  # The event loop of this call runs, so its waiter is not skipped.
                    # If the event loops of all waiting calls are stalled, `first` returns `None`, and so a new call,
                    # which has no waiter yet, is the first.
                    is_first = not self._queue or self._queue.first(now) is waiter
                    uses_shared = self.shared is not None and now >= self._shared_paused_until
                    # `None`: the delay is unknown. It depends on the calls before this one, on the end of another
                    # call, or on other processes.
                    delay = None if is_full or uses_shared or not is_first else self._window.delay(now, tokens)
                    if delay == 0:
                        admission.shared_id = None  # It may have asked the shared window, which cannot be reached now.
                        return self._count_admitted(admission, waiter, now)
                    if not uses_shared:
                        self._refuse_hopeless_wait(self._window.requests_delay(now), delay or 0.0, timeouts)
                    if not is_first and not is_full:
                        # The call that should have woken the first waiter may have a stalled event loop.
                        self._queue.wake_first(now)
                    if waiter is None:
                        waiter = Waiter()
                        self._queue.append(waiter)
                    name = f"limit max_concurrency={self.max_concurrency}" if is_full else "limits"
                    timeouts.waits_for = f"this model's own {name}"
                    asks_shared = uses_shared and is_first and not is_full
                    waiter.check_due = now + (
                        SHARED_RESPONSE_SECONDS if asks_shared else self._seconds_until_check(delay)
                    )
                if asks_shared:
                    delay = await self._ask_shared(admission, timeouts)
                    with self._lock:
                        now = self._clock()
                        # Another call may have taken the last slot while this one waited for the response. The delay
                        # until a slot is free is unknown, so a `delay` of 0 then becomes `None`.
                        if delay == 0 and not self._is_full:
                            return self._count_admitted(admission, waiter, now)
                        waiter.check_due = now + self._seconds_until_check(delay or None)
                await waiter.wait(self._seconds_until_check(delay or None))
        finally:
            if waiter is not None:
                timeouts.waits_for = None
                with self._lock:
                    if waiter in self._queue:  # The call was cancelled, or failed, while it waited.
                        self._queue.remove(waiter)
                        self._wake_first()

    def _refuse_hopeless_wait(self, requests_delay: float, delay: float, timeouts: Timeouts) -> None:
        """Raise an error at once if a waiting call can't be admitted before its deadline.

        Args:
            requests_delay: The seconds for which the limit of requests alone makes the call wait, at least.
            delay: The seconds for which both limits make it wait; 0 if that is unknown. The limit of tokens counts
                estimates, which shrink when running requests end. So a call waits for them.
            timeouts: The time limits of the call.
        """
        import asyncio  # A call that waits runs in an event loop, so the module has been imported.

        if timeouts.deadline is None:
            return
        seconds_left = timeouts.deadline - asyncio.get_running_loop().time()
        if requests_delay > seconds_left:
            name, delay = "requests_per_minute", requests_delay
        elif delay > seconds_left and not self._window.has_estimates:
            name = "tokens_per_minute"
        else:
            return
        raise RateLimited(
            f"{name}={getattr(self, name):g}: this model's own limit admits this request in {delay:.1f} s, and the "
            f"time limit of the call (timeout={timeouts.timeout:g} s) ends before.",
            retry_after=delay,
        )

    def _seconds_until_check(self, delay: float | None) -> float:
        """Return the seconds after which a waiting call checks again; `delay` is `None` if the delay is unknown."""
        return self._queue.poll_interval() if delay is None else delay

    @property
    def _is_full(self) -> bool:
        return self.max_concurrency is not None and len(self._slots) >= self.max_concurrency

    def _count_admitted(self, admission: _Admission, waiter: Waiter | None, now: float) -> _Admission:
        """Count an admitted request, and wake the next waiting call. The caller must have taken the lock."""
        if waiter is not None:
            self._queue.remove(waiter)
        admission.entry = self._window.add(now, admission.tokens)
        if self.max_concurrency is not None:
            admission.slot = ConcurrencySlot(self)
            self._slots.add(admission.slot)
        self._wake_first()
        return admission

    def _finish(self, admission: _Admission, usage: TokenUsage | None) -> None:
        """Replace the estimated tokens by those that the request used, and release the slot for the call."""
        with self._lock:
            admission.entry.is_estimate = False
            if admission.entry.counts_from is None:
                self._window.sent(admission.entry, self._clock())
            if usage is not None and usage.total_tokens is not None:
                self._window.correct(admission.entry, usage.total_tokens)
                self._longest_output = max(self._longest_output, usage.output_tokens or 0)
            if admission.slot is not None:
                admission.slot.release()
            if self.tokens_per_minute is not None:  # The request may have used fewer tokens than estimated.
                self._wake_first()

    def _wake_first(self) -> None:
        if self._queue:
            self._queue.wake_first(self._clock())

    async def _ask_shared(self, admission: _Admission, timeouts: Timeouts) -> float:
        """Ask the shared window for admission. Return 0 if it admits the request, and else the seconds to wait."""
        assert self.shared is not None
        # The shared window does not learn when a request reaches the service. So it counts each a little longer.
        sending = self._window.sending_seconds
        limits = self._window.seconds + sending, self.requests_per_minute, self.tokens_per_minute
        for may_be_late in (True, False):
            # The identifier is stored first, so that the request is removed if the call is cancelled while it asks.
            admission.shared_id = admission.shared_id or uuid.uuid4().hex
            asked_at = self._clock()
            try:
                delay = await self.shared.acquire(self.name, admission.shared_id, *limits, admission.tokens)
                if delay.seconds or not may_be_late or self._clock() - asked_at <= sending:
                    break
                # The event loop was busy, and the request would count from a time long before it is sent. So it asks
                # again.
                await self.shared.leave(self.name, admission.shared_id)
            except ModelError as error:
                admission.shared_id = None
                if self.shared.on_unavailable == "error" or isinstance(error, AuthenticationError | InvalidRequest):
                    raise
                self._shared_paused_until = self._clock() + SHARED_PAUSE_SECONDS
                return 0.001  # Check again almost at once, now in the window of this process.
        self._refuse_hopeless_wait(delay.for_requests, 0.0, timeouts)
        return min(delay.seconds, SHARED_POLL_SECONDS)

    async def _correct_shared(self, admission: _Admission, usage: TokenUsage | None) -> None:
        """Report to the shared window how many tokens a request used. If that fails, its estimate still counts."""
        total = None if usage is None else usage.total_tokens
        if self.shared is None or admission.shared_id is None or total is None or self.tokens_per_minute is None:
            return
        try:
            await self.shared.correct(self.name, admission.shared_id, total)
        except ModelError:
            pass


def _check_limit(name: str, value: Any, *, whole: bool = False) -> None:
    """Raise `InvalidRequest` unless the value is `None` or a finite number of at least 1."""
    kinds, kind = ((int,), "whole number") if whole else ((int, float), "number")
    valid = isinstance(value, kinds) and not isinstance(value, bool) and 1 <= value < float("inf")
    if value is not None and not valid:
        raise InvalidRequest(f"{name}={value!r}: must be a {kind} of at least 1, or None for no limit")


#: All limits of this process, which must be reset after a fork.
_all_limits: weakref.WeakSet[Limit] = weakref.WeakSet()


def _reset_after_fork() -> None:
    for limit in list(_all_limits):
        limit._reset()


os.register_at_fork(after_in_child=_reset_after_fork)
