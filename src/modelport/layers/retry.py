"""Sends a request again where that can help, and never once a part of the answer has reached the caller.

This is the only retry loop: every vendor client's own is switched off. All time limits of a call are kept here too.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

from modelport.errors import InvalidRequest, ModelError
from modelport.layers.base import Deltas, Next
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request, Timeouts

#: Of so many calls that are answered at once, one gives a retry back.
EASE = 5


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a request is sent again.

    Args:
        attempts: Requests at most, the first included; 1 for no retry; by default 3.
        base: Upper bound of the first wait, in seconds, by default 0.5; it doubles from attempt to attempt ("full
            jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        cap: Upper bound of every wait, in seconds; by default 8.
        max_retry_after: The longest Retry-After that is waited out, in seconds, by default 60; a longer one fails at
            once, with `retry_after` on the error.
        retryable: Decides for an error whether the request is sent again; by default the error's own `retryable` does.
        budget: Retries that all calls of a model have in common, by default 100, so that an outage is not multiplied by
            `attempts`. Each takes one; the one after which an answer came gives it back, and so does every fifth call
            that needed none. With none left, calls fail with what their first attempt met. `None` for no such bound.
    """

    attempts: int = 3
    base: float = 0.5
    cap: float = 8.0
    max_retry_after: float = 60.0
    retryable: Callable[[ModelError], bool] | None = None
    budget: int | None = 100

    def __post_init__(self) -> None:
        for name, least in (("attempts", 1), ("budget", 0)):
            value = getattr(self, name)
            if name == "budget" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidRequest(f"{name}={value!r}: must be a whole number of at least {least}")
        for name in ("base", "cap", "max_retry_after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidRequest(f"{name}={value!r}: must be a number of seconds, 0 or more")
        if self.retryable is not None and not callable(self.retryable):
            raise InvalidRequest("retryable must be a function of the error, or None for the error's own word")

    @classmethod
    def from_value(cls, value: RetryPolicy | Mapping[str, Any] | int | bool | None) -> RetryPolicy:
        """The policy that a caller's `retry` argument means: a policy, a number of attempts, or whether at all."""
        if isinstance(value, RetryPolicy):
            return value
        if isinstance(value, Mapping):
            known = {item.name for item in fields(cls)}
            if unknown := sorted(set(value) - known):
                raise InvalidRequest(f"retry: {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}")
            return cls(**value)
        if value is None or value is True:
            return cls()
        if not isinstance(value, int):
            raise InvalidRequest(f"retry={value!r}: must be True, False, a number of attempts or a RetryPolicy")
        if value is not False and value < 1:
            raise InvalidRequest(
                f"retry={value!r}: must be at least 1 attempt; for no retry write retry=False",
                hint="The option --set retry=false turns retries off.",
            )
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
        return random.uniform(0, min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))


class RetryBudget:
    """The retries that a model's calls have in common.

    They are items of a deque, whose operations are atomic: there is no lock that a fork could leave held.

    Args:
        size: How many there are at first and at most; `None` for any number.
    """

    def __init__(self, size: int | None) -> None:
        self._left = None if size is None else deque([True] * size, maxlen=size)
        self._undisturbed = count(1)

    def take(self) -> bool:
        """Takes one; False where none is left."""
        try:
            return self._left is None or self._left.pop()
        except IndexError:
            return False

    def answered(self, retried: bool) -> None:
        """An answer has come, after a retry or at once."""
        if self._left is not None and (retried or next(self._undisturbed) % EASE == 0):
            self._left.append(True)


class Retry:
    """The layer.

    Args:
        policy: How often and when.
        queued: Whether a limit comes after it, in whose queue no time to the first token is counted.
    """

    def __init__(self, policy: RetryPolicy, queued: bool = False) -> None:
        self.policy, self.queued = policy, queued
        self._budget = RetryBudget(policy.budget)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "queued": self.queued}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    async def __call__(self, request: Request, next: Next) -> Deltas:
        """Passes the request on, as often as the policy and the deadline allow."""
        import asyncio  # not before the first call

        from modelport.layers.deadline import Watchdog

        loop = asyncio.get_running_loop()
        request = request.replace(timeouts=(limits := begun(request.timeouts)))
        attempt = 0
        while True:
            attempt += 1
            delivered = False
            held: list[ChatMessageStreamDelta] = []
            watchdog = Watchdog(request, self.queued)
            try:
                deltas = next(request)
                async with aclosing(deltas):
                    while (delta := await watchdog.read(deltas)) is not None:
                        if not request.stream:
                            # An engine may stream inside. Nobody has seen its parts yet, so that it can be asked again.
                            held.append(delta)
                            continue
                        if not delivered and delta.delivers:
                            delivered = True
                            self._budget.answered(attempt > 1)
                        yield delta
                if not request.stream:
                    self._budget.answered(attempt > 1)
                break
            except ModelError as error:
                if (
                    error.profile_updated and not delivered
                ):  # At once, and no attempt: what the model refused it won't be sent.
                    attempt -= 1
                    continue
                wait = None if delivered else self.policy.wait_after(error, attempt)
                late = wait is not None and limits.deadline is not None and loop.time() + wait >= limits.deadline
                if wait is None or late or not self._may_retry(error):
                    for delta in held:
                        yield delta
                    raise
            finally:
                watchdog.stop()
            await asyncio.sleep(wait)
        for delta in held:
            yield delta

    def _may_retry(self, error: ModelError) -> bool:
        may = self._budget.take()
        if not may:
            error.add_note(
                f"It was not sent again: the {self.policy.budget} retries that all calls of this model share are used up. "
                "They come back with answers; RetryPolicy(budget=…) sets their number."
            )
        return may


def begun(limits: Timeouts) -> Timeouts:
    """The limits of a call that begins now, on the running loop, or has begun: with its deadline."""
    if limits.timeout is None:
        return limits
    from asyncio import get_running_loop

    ends = get_running_loop().time() + limits.timeout
    ends = ends if limits.deadline is None else min(ends, limits.deadline)
    return Timeouts(limits.timeout, limits.first_token_timeout, limits.idle_timeout, ends)
