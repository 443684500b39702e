"""Sends a request again where that can help, and never once a part of the answer has reached the caller.

This is the only retry loop: every vendor client's own is switched off. All time limits of a call are kept here too.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from modelport.errors import DeadlineExceeded, InvalidRequest, ModelError
from modelport.layers import Deltas, Next
from modelport.messages import ChatMessageStreamDelta
from modelport.request import Request


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a request is sent again.

    Args:
        attempts: Requests at most, the first included; 1 for no retry.
        base: Upper bound of the first wait, in seconds; it doubles from attempt to attempt ("full jitter",
            https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        cap: Upper bound of every wait, in seconds.
        max_retry_after: The longest Retry-After that is waited out, in seconds; a longer one fails at once, with
            `retry_after` on the error.
        retryable: Decides for an error whether the request is sent again; `None` for the error's own `retryable`.
    """

    attempts: int = 3
    base: float = 0.5
    cap: float = 8.0
    max_retry_after: float = 60.0
    retryable: Callable[[ModelError], bool] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidRequest(f"attempts={self.attempts!r}: must be a whole number of at least 1")

    @classmethod
    def of(cls, value: RetryPolicy | Mapping[str, Any] | int | bool | None) -> RetryPolicy:
        """The policy that a caller's `retry` argument means: a policy, a number of attempts, or whether at all."""
        if isinstance(value, RetryPolicy):
            return value
        if isinstance(value, Mapping):
            return cls(**value)
        if value is None or value is True:
            return cls()
        if not isinstance(value, int):
            raise InvalidRequest(f"retry={value!r}: must be True, False, a number of attempts or a RetryPolicy")
        return cls(attempts=1 if value is False else value)

    def wait_after(self, error: ModelError, attempt: int) -> float | None:
        """Seconds to wait before the next attempt, or `None` where there is to be none.

        Args:
            error: How the attempt failed.
            attempt: Its number, from 1.
        """
        again = error.retryable if self.retryable is None else self.retryable(error)
        if not again or attempt >= self.attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_retry_after else None
        return random.uniform(0, min(self.cap, self.base * 2 ** (attempt - 1)))


class Retry:
    """The layer."""

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Passes the request on, as often as the policy and the deadline allow."""
        limits = request.limits
        if self.policy.attempts == 1 and limits.timeout is limits.first_token_timeout is limits.idle_timeout is None:
            return next(request)
        return self._attempts(request, next)

    async def _attempts(self, request: Request, next: Next) -> Deltas:
        loop = asyncio.get_running_loop()
        timeout = request.limits.timeout
        deadline = None if timeout is None else loop.time() + timeout
        attempt = 0
        while True:
            attempt += 1
            delivered = False
            watchdog = Watchdog(request, deadline)
            try:
                deltas = next(request)
                async with aclosing(deltas):
                    while (delta := await watchdog.read(deltas)) is not None:
                        delivered = delivered or delta.delivers
                        yield delta
                return
            except ModelError as error:
                wait = None if delivered else self.policy.wait_after(error, attempt)
                if wait is None or (deadline is not None and loop.time() + wait >= deadline):
                    raise
            finally:
                watchdog.stop()
            await asyncio.sleep(wait)


class Watchdog:
    """Keeps the time limits of one attempt with one timer.

    The timer wakes a reader that waits for a delta; between two reads, while the caller is busy, it only takes note.
    """

    def __init__(self, request: Request, deadline: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = request.limits
        self._deadline = deadline
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
        self._waiting_since = self._loop.time()
        self._task = task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        try:
            delta = await anext(deltas, None)
        except (Exception, asyncio.CancelledError):
            # Our own cancellation, however the backend put it? Or somebody's who cancelled the task for their reasons?
            if self._expired is not None and task.uncancel() <= cancelling:
                raise self._expired from None
            raise
        finally:
            self._task = None
        if self._expired is not None:
            task.uncancel()  # The backend let it pass: what it still gave goes out before the next read says so.
        if not self._begun and delta is not None and delta.delivers:
            self._begun = True
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
        if self._deadline is not None:
            due.append((self._deadline, "timeout"))
        if limits.first_token_timeout is not None and not self._begun:
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
