"""Sends a request again after an error that may not occur in another attempt.

The rules:

- A request is never sent again once output of the model has reached the caller.
- The function `RetryPolicy.retryable` decides whether an error is retried. If the caller has set none, the attribute
  `retryable` of the error decides.
- The wait before the next attempt is the Retry-After of the service. If the service sent none, it is a random time
  below a bound that doubles with each attempt.
- If the Retry-After is longer than `max_retry_after`, or the wait would end after the call's deadline, the error is
  raised at once.
- All calls of a model share a budget of retries, so that an outage does not multiply the load by `attempts`.
- The retries of vendors' clients are switched off. Otherwise each attempt of this layer could send several requests.

The layer also enforces the time limits of each attempt, through the module `deadline`.
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
from modelport.layers.backend_errors import error_from_exception
from modelport.layers.base import Deltas, Next
from modelport.layers.usage import EarlierUsage
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request

#: For this many responses that needed no retry, one retry is added to the retry budget.
RESPONSES_PER_RETRY = 5


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a request is sent again.

    Args:
        attempts: The maximum number of requests, the first one included; 1 for no retry. The default is 3.
        base: Upper bound of the first wait, in seconds; the default is 0.5. The bound doubles with each attempt ("full
            jitter", https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        cap: Upper bound of every random wait, in seconds; the default is 8.
        max_retry_after: The longest Retry-After of a service that is waited for, in seconds; the default is 60. If a
            service requires a longer wait, the call fails at once, with `retry_after` on the error.
        retryable: A function that receives the error and returns whether the request is sent again. By default the
            error's own `retryable` decides.
        budget: The number of retries that all calls of a model share, so that an outage does not multiply the load by
            `attempts`; the default is 100. Each retry uses up one. A response after a retry adds one, and so does every
            fifth response that needed no retry. When none is left, an error is raised without a retry. `None` for no
            limit.
    """

    attempts: int = 3
    base: float = 0.5
    cap: float = 8.0
    max_retry_after: float = 60.0
    retryable: Callable[[ModelError], bool] | None = None
    budget: int | None = 100

    def __post_init__(self) -> None:
        for name, minimum in (("attempts", 1), ("budget", 0)):
            value = getattr(self, name)
            if name == "budget" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise InvalidRequest(f"{name}={value!r}: must be an integer of at least {minimum}")
        for name in ("base", "cap", "max_retry_after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise InvalidRequest(f"{name}={value!r}: must be a number of seconds, 0 or more")
        if self.retryable is not None and not callable(self.retryable):
            raise InvalidRequest("retryable must be a function that takes the error, or None to use error.retryable")

    @classmethod
    def from_value(cls, value: RetryPolicy | Mapping[str, Any] | int | bool | None) -> RetryPolicy:
        """Return the policy for the `retry` argument of a model.

        Args:
            value: A policy, a dict of its arguments, a number of attempts, whether to retry at all, or `None` for the
                default policy.
        """
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
            attempt: The number of the attempt that failed, counted from 1.
        """
        retryable = error.retryable if self.retryable is None else self.retryable(error)
        if not retryable or attempt >= self.attempts:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= self.max_retry_after else None
        return random.uniform(0, min(self.cap, self.base * 2.0 ** min(attempt - 1, 64)))


class RetryBudget:
    """The retries that all calls of a model share.

    They are counted as the items of a deque. The operations of a deque are atomic, so no lock is needed. A lock that
    another thread has taken at the time of a fork would never be released in the child process.

    Args:
        size: The number of retries at the beginning, which is also the maximum; `None` for no limit.
    """

    def __init__(self, size: int | None) -> None:
        self._retries = None if size is None else deque([True] * size, maxlen=size)
        self._responses_without_retry = count(1)

    def take(self) -> bool:
        """Use up one retry. Return False if none was left."""
        try:
            return self._retries is None or self._retries.pop()
        except IndexError:
            return False

    def count_response(self, *, retried: bool) -> None:
        """Count a response, and add a retry if one is due.

        A response that came after a retry adds one retry. Of the responses that needed no retry, every fifth adds one.

        Args:
            retried: Whether the response came after a retry.
        """
        if self._retries is not None and (retried or next(self._responses_without_retry) % RESPONSES_PER_RETRY == 0):
            self._retries.append(True)


class Retry:
    """The layer that sends a request again and enforces the time limits of each attempt.

    Args:
        policy: How often and when a request is sent again.
        may_queue: Whether the limit layer may make requests wait in its queue. `first_token_timeout` does not include
            that wait.
        backend: The name of the class whose `deltas` is called. What it raises besides `ModelError`s is turned into
            one. `None` if such exceptions must reach the caller unchanged.
    """

    def __init__(self, policy: RetryPolicy, may_queue: bool = False, backend: str | None = None) -> None:
        self.policy, self.may_queue, self.backend = policy, may_queue, backend
        self._budget = RetryBudget(policy.budget)

    def __getstate__(self) -> dict[str, Any]:
        return {"policy": self.policy, "may_queue": self.may_queue, "backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    async def __call__(self, request: Request, next: Next) -> Deltas:
        """Pass the request on, as often as the policy, the retry budget and the deadline allow.

        The deltas of a non-streaming response are buffered until the response is complete. So a request that fails
        after some deltas can be sent again, because the caller has received none of them. If the last attempt fails,
        its deltas are yielded before its error is raised.
        """
        import asyncio  # Imported at the first call and not with the package, because the import takes long.

        from modelport.layers.deadline import AttemptTimer, within_call

        loop, deadline = asyncio.get_running_loop(), request.timeouts.deadline
        in_queue = self.may_queue and request.timeouts.first_token_timeout is not None
        earlier: EarlierUsage | None = None
        for attempt in count(1):
            has_output = False
            buffered: list[ChatMessageStreamDelta] = []
            timer = AttemptTimer(request.timeouts, in_queue=in_queue)
            try:
                deltas = next(request.replace(on_sent=timer.start_first_token_clock) if in_queue else request)
                async with aclosing(deltas):
                    while True:
                        try:
                            with timer:
                                delta = await anext(deltas)
                        except StopAsyncIteration:
                            break
                        if not has_output and delta.has_output:
                            has_output = True
                            timer.output_arrived()
                            if request.stream:
                                self._budget.count_response(retried=attempt > 1)
                        if request.stream:
                            yield delta if earlier is None else earlier.add_to(delta)
                        elif isinstance(delta, ChatMessageStreamDelta):
                            buffered.append(delta)
                        else:  # The other layers read attributes of each delta, so that this error is raised there.
                            raise AttributeError(name="content", obj=delta)
                break
            except Exception as raised:
                if self.backend is None and not isinstance(raised, ModelError):
                    raise
                closed = request.timeouts.call and request.timeouts.call.error
                # An engine that is closed may raise anything.
                error = closed or error_from_exception(raised, self.backend or "")
                usages = [delta.token_usage for delta in buffered if delta.token_usage is not None]
                earlier = earlier or EarlierUsage()
                earlier.add(error, usages[-1] if usages else None)
                caller_has_output = has_output and request.stream
                # If `profile_updated` is set, the service rejected a part of the request, such as a parameter, and the
                # backend removed it from the capabilities. The same request would be rejected again. `Model` sends the
                # request without that part instead.
                can_retry = not caller_has_output and not error.profile_updated and not closed
                wait = self.policy.wait_after(error, attempt) if can_retry else None
                too_late = wait is not None and deadline is not None and loop.time() + wait >= deadline
                if wait is None or too_late or not self._take_retry(error):
                    for delta in buffered:  # `Model` puts them into `error.partial`.
                        yield delta
                    raise error from error.__cause__
            finally:
                timer.close()
            await within_call(request.timeouts, asyncio.sleep(wait))
        if not request.stream:
            self._budget.count_response(retried=attempt > 1)
        for delta in buffered:
            yield delta if earlier is None else earlier.add_to(delta)

    def _take_retry(self, error: ModelError) -> bool:
        """Use up one retry of the budget. If none is left, add a note to the error and return False."""
        taken = self._budget.take()
        if not taken:
            error.add_note(
                f"The request was not sent again: the {self.policy.budget} retries that all calls of this model share "
                "are used up. Responses add new ones; RetryPolicy(budget=…) sets their number."
            )
        return taken
