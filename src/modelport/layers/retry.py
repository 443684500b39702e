"""Sends a request again after a failure that another attempt may mend.

The rules:

- A request is never sent again once a part of the response has reached the caller.
- The error's `retryable` decides, or `RetryPolicy.retryable`. The wait is the service's Retry-After, or random below a
  bound that doubles with each attempt.
- A wait that would end after the call's deadline is not started: the error is raised at once.
- All calls of a model share a budget of retries, so that an outage does not multiply the load by `attempts`.
- This is the only retry loop. The loops of vendors' clients are switched off.

The time limits of each attempt are enforced here too (see `deadline`).
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
from modelport.types.request import Request

#: After this many responses that needed no retry, the retry budget gets one retry back.
RESPONSES_PER_RETRY = 5


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a request is sent again.

    Args:
        attempts: The maximum number of requests, the first one included; 1 for no retry. The default is 3.
        base: Upper bound of the first wait, in seconds; the default is 0.5. The bound doubles with each attempt ("full
            jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        cap: Upper bound of every wait, in seconds; the default is 8.
        max_retry_after: The longest Retry-After that is waited for, in seconds; the default is 60. A longer one fails
            at once, with `retry_after` on the error.
        retryable: A function that decides whether the request is sent again after an error. By default the error's own
            `retryable` decides.
        budget: The retries that all calls of a model share, so that an outage is not multiplied by `attempts`; the
            default is 100. Each retry takes one. A response after a retry gives one back, and so does every fifth
            response that needed none. When none is left, calls fail with the error of their first attempt. `None` for
            no limit.
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
                raise InvalidRequest(f"{name}={value!r}: must be an integer of at least {least}")
        for name in ("base", "cap", "max_retry_after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidRequest(f"{name}={value!r}: must be a number of seconds, 0 or more")
        if self.retryable is not None and not callable(self.retryable):
            raise InvalidRequest("retryable must be a function that takes the error, or None to use error.retryable")

    @classmethod
    def from_value(cls, value: RetryPolicy | Mapping[str, Any] | int | bool | None) -> RetryPolicy:
        """Return the policy for a `retry` argument: a policy, a number of attempts, or whether to retry at all."""
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
        """Return the seconds to wait before the next attempt, or `None` if there is to be no other attempt.

        Args:
            error: The error of the attempt.
            attempt: The number of the attempt, from 1.
        """
        again = error.retryable if self.retryable is None else self.retryable(error)
        if not again or attempt >= self.attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_retry_after else None
        return random.uniform(0, min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))


class RetryBudget:
    """The retries that all calls of a model share.

    They are items of a deque, whose operations are atomic: so there is no lock that a fork could leave locked.

    Args:
        size: The number of retries at first, and at most; `None` for no limit.
    """

    def __init__(self, size: int | None) -> None:
        self._retries = None if size is None else deque([True] * size, maxlen=size)
        self._calls_without_retry = count(1)

    def take(self) -> bool:
        """Take one retry; return whether there was one."""
        try:
            return self._retries is None or self._retries.pop()
        except IndexError:
            return False

    def give_back(self, retried: bool) -> None:
        """Give a retry back after a response, or after every fifth response that needed no retry.

        Args:
            retried: Whether the response came after a retry.
        """
        if self._retries is not None and (retried or next(self._calls_without_retry) % RESPONSES_PER_RETRY == 0):
            self._retries.append(True)


class Retry:
    """The layer.

    Args:
        policy: How often and when a request is sent again.
        queued: Whether the limit layer may hold requests in its queue; `first_token_timeout` does not count that time.
    """

    def __init__(self, policy: RetryPolicy, queued: bool = False) -> None:
        self.policy, self.queued = policy, queued
        self._budget = RetryBudget(policy.budget)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "queued": self.queued}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    async def __call__(self, request: Request, next: Next) -> Deltas:
        """Pass the request on, as often as the policy, the retry budget and the deadline allow.

        A non-streaming response is buffered until it is complete. An engine that streams inside can therefore be called
        again after it failed halfway, because the caller has received nothing.
        """
        import asyncio  # not before the first call

        from modelport.layers.deadline import AttemptTimer

        loop, deadline = asyncio.get_running_loop(), request.timeouts.deadline
        queued = self.queued and request.timeouts.first_token_timeout is not None
        for attempt in count(1):
            has_content = False
            buffered: list[ChatMessageStreamDelta] = []
            timer = AttemptTimer(request.timeouts, queued)
            try:
                deltas = next(request.replace(on_sent=timer.start_first_token_clock) if queued else request)
                async with aclosing(deltas):
                    while True:
                        with timer:
                            delta = await anext(deltas, None)
                        if delta is None:
                            break
                        if not has_content and (delta.content or delta.has_output):
                            has_content = True
                            timer.content_arrived()
                            if request.stream:
                                self._budget.give_back(attempt > 1)
                        if request.stream:
                            yield delta
                        else:
                            buffered.append(delta)
                break
            except ModelError as error:
                # After a rejection that updated the profile, `Model` plans the call anew.
                delivered = has_content and request.stream
                again = not delivered and not error.profile_updated
                wait = self.policy.wait_after(error, attempt) if again else None
                late = wait is not None and deadline is not None and loop.time() + wait >= deadline
                if wait is None or late or not self._take_retry(error):
                    for delta in buffered:
                        yield delta
                    raise
            finally:
                timer.stop()
            await asyncio.sleep(wait)
        if not request.stream:
            self._budget.give_back(attempt > 1)
        for delta in buffered:
            yield delta

    def _take_retry(self, error: ModelError) -> bool:
        taken = self._budget.take()
        if not taken:
            error.add_note(
                f"The request was not sent again: the {self.policy.budget} retries that all calls of this model share "
                "are used up. Responses refill them; RetryPolicy(budget=…) sets their number."
            )
        return taken
