"""One call of a `FallbackModel`: which model is called next, after a failure or in parallel to a slow model.

Rules:

- Models are called in the order of the list, but those that are cooling down come last. A model that failed is not
  called again.
- A model has responded when the first part of its response arrives, or its complete response if the call does not
  stream.
- A model that fails cools down, unless the error only concerns the request or the output. After an error that is not a
  `ModelError`, it cools down only if the next model is called. A response ends the cool-down. When a cool-down is over,
  the first call that tries the model starts a new one. So all other calls still try the model last, until it has
  responded to that call.
- With `hedge`, the next model is called in parallel to one that is slow. The first response is used, and the other
  calls are cancelled. Their models can be called again if the stream of the model that responded is interrupted.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelport import errors
from modelport.errors import InvalidRequest, ModelError, UnsupportedFeature
from modelport.layers.base import Deltas
from modelport.layers.usage import EarlierUsage
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import Attempt
from modelport.types.request import Request

if TYPE_CHECKING:
    from modelport.combine.fallback import FallbackModel
    from modelport.model import Model

#: Errors that only concern the request or the output. A model that raised one of them does not cool down.
_ERRORS_WITHOUT_COOLDOWN = (
    InvalidRequest, UnsupportedFeature, errors.ContentFiltered, errors.InvalidOutput, errors.InvalidToolCall,
)  # fmt: skip
#: The error of an attempt that was cancelled because a model that was called in parallel responded first.
_LOST_RACE = "cancelled: another model was faster"
#: The error of an attempt that had not responded when its caller left, or when a time limit of its caller ended.
_CANCELLED = "cancelled before it responded"
#: At most 100 response times are stored for a model. The percentile is computed only if there are at least 20.
_MAX_RESPONSE_TIMES, _MIN_RESPONSE_TIMES = 100, 20


class Candidate:
    """One of the inner models, with its cool-down and its response times.

    Args:
        model: The model.
        reports_attempts: Whether the model is a `FallbackModel` itself, and so reports which models it called.

    Attributes:
        cooling_until: The time at which the model's cool-down ends, on the clock of the `FallbackModel`; 0 if it has
            not failed, or has responded since its last failure.
        response_times: Under the key True, the seconds to the first part of each streamed response. Under the key
            False, the seconds to the end of each non-streaming response.
    """

    def __init__(self, model: Model, reports_attempts: bool) -> None:
        self.model, self.reports_attempts = model, reports_attempts
        self.cooling_until = 0.0
        self.response_times: dict[bool, deque[float]] = {
            stream: deque(maxlen=_MAX_RESPONSE_TIMES) for stream in (True, False)
        }

    def p95(self, stream: bool) -> float | None:
        """Return the 95th percentile of the response times, or `None` while there are too few of them."""
        times = sorted(self.response_times[stream])
        return times[len(times) * 95 // 100] if len(times) >= _MIN_RESPONSE_TIMES else None


class CandidateCall:
    """The call of one inner model.

    Attributes:
        attempts: What the message reports about this call: one entry, or those that an inner `FallbackModel` reported.
        read_ahead: The deltas that were read to find out whether the model responds.
        deltas: The generator of the deltas that have not been read yet. `FallbackCall` sets it.
        lost_race: Whether this call was cancelled because another model responded first. It stays False if the caller
            cancelled the call, which says nothing about how fast the model is.
    """

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.attempts = [Attempt(candidate.model.model_id)]
        self.read_ahead: list[ChatMessageStreamDelta] = []
        self.lost_race = False
        self.deltas: Deltas

    def record_failure(self, reason: str, seconds: float) -> None:
        """Record why the model did not respond, and after how many seconds this was known."""
        self.attempts[0].error, self.attempts[0].seconds = reason, seconds

    async def receive_response(self, *, complete: bool) -> None:
        """Read deltas into `read_ahead` up to the first part of the response; with `complete`, read all deltas."""
        async for delta in self.deltas:
            self.read_ahead.append(delta)
            if delta.has_output and not complete:
                return

    async def all_deltas(self) -> Deltas:
        """Yield the deltas that were read ahead, and then the remaining ones."""
        for delta in self.read_ahead:
            yield delta
        async for delta in self.deltas:
            yield delta


class FallbackCall:
    """One call of a `FallbackModel`.

    Args:
        fallback: The `FallbackModel` that is called.
        request: The request. Its `parameters` are the options of the call as the caller wrote them.

    Attributes:
        failures: The errors of the models that failed, each with the deltas that were read before it. If no model
            responds, the first error in this list is raised.
        earlier: The token usage of the models that failed.
    """

    def __init__(self, fallback: FallbackModel, request: Request) -> None:
        self._fallback, self._request = fallback, request
        self._untried = fallback._candidates_in_order()
        self._calls: list[CandidateCall] = []
        self.earlier = EarlierUsage()
        self.failures: list[tuple[Exception, list[ChatMessageStreamDelta]]] = []

    async def next_response(self) -> CandidateCall | None:
        """Call the models that have not been tried yet, until one responds.

        Returns:
            The call of the model that responded. `None` if no model is left, or after an error for which the next model
                is not called.
        """
        if self._fallback.hedge is not None:
            return await self._next_response_hedged()
        while self._untried:
            call = self._create_call(self._untried.pop(0))
            try:
                await call.receive_response(complete=not self._request.stream)
                return call
            except Exception as error:
                if not self._add_failure(call, error):
                    break
        return None

    async def _next_response_hedged(self) -> CandidateCall | None:
        """Do what `next_response` does, but call the next model in parallel if a model is slow."""
        racing: dict[asyncio.Task[None], CandidateCall] = {}
        delay: float | None = None  # Seconds until the next model is called in parallel; `None` for never.
        has_winner = False
        try:
            while self._untried or racing:
                if not racing or delay == 0:
                    candidate = self._untried.pop(0)
                    # If `delay` is 0, this model is called in parallel to a slow one. At most two models are called in
                    # parallel, so no third one is called.
                    delay = None if delay == 0 or not self._untried else self._hedge_delay(candidate)
                    call = self._create_call(candidate)
                    racing[_create_task(call.receive_response(complete=not self._request.stream))] = call
                done, _ = await asyncio.wait(racing, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    delay = 0  # The model is slow, so the next one is called at once.
                for task in sorted(done, key=_has_failed):  # If two calls end together, the response is used.
                    call = racing.pop(task)
                    try:
                        task.result()
                        has_winner = True
                        return call
                    except Exception as error:
                        if not self._add_failure(call, error):
                            return None
            return None
        finally:
            for task, call in racing.items():
                call.lost_race = has_winner
                task.cancel()
            await asyncio.gather(*racing, return_exceptions=True)  # Otherwise asyncio logs their errors.
            for call in racing.values():
                await call.deltas.aclose()
                if has_winner and not call.attempts[0].error:
                    call.attempts[0].error = _LOST_RACE
            self._untried[:0] = [call.candidate for call in racing.values()]  # These models can be called again.

    def _hedge_delay(self, candidate: Candidate) -> float | None:
        """Return the seconds after which another model is called in parallel to this one; `None` for never."""
        hedge = self._fallback.hedge
        return candidate.p95(self._request.stream) if hedge == "p95" else hedge

    def _create_call(self, candidate: Candidate) -> CandidateCall:
        """Return the call of a model. The model is called when the first of its deltas is read."""
        now = self._fallback._clock()
        if 0 < candidate.cooling_until <= now:
            # The cool-down is over, and this call tries the model. The other calls still try it last.
            candidate.cooling_until = now + self._fallback.cooldown
        call = CandidateCall(candidate)
        call.deltas = self._deltas_of(call)
        self._calls.append(call)
        return call

    async def _deltas_of(self, call: CandidateCall) -> Deltas:
        """Yield the deltas of one model. Record its response time, its error and its cool-down."""
        candidate, stream, clock = call.candidate, self._request.stream, self._fallback._clock
        model, start, has_responded = candidate.model, clock(), False
        model_id = model.model_id
        try:
            async with aclosing(model._run(self._request_for(model))) as deltas:
                async for delta in deltas:
                    model_id = delta.model_id or model_id
                    if delta.has_output and not has_responded:
                        has_responded, candidate.cooling_until = True, 0.0
                        if stream:
                            candidate.response_times[stream].append(clock() - start)
                        delta = replace(delta, model_id=model_id)
                    if delta.finish_reason is not None:
                        candidate.cooling_until = 0.0
                        call.attempts[0].seconds = clock() - start
                        call.attempts[:] = delta.attempts or call.attempts  # Those of an inner `FallbackModel`.
                        delta = replace(delta, model_id=model_id)
                    yield delta
            if not stream:
                candidate.response_times[stream].append(clock() - start)
        except ModelError as error:
            error.model_id = error.model_id or model.model_id
            self._record_error(call, error, error.message, clock() - start)
            # A plain `ModelError` is a mistake in a backend, which a cool-down would hide.
            is_mistake = type(error) is ModelError and not self.falls_back_after(error)
            if not isinstance(error, _ERRORS_WITHOUT_COOLDOWN) and not is_mistake:
                candidate.cooling_until = clock() + max(self._fallback.cooldown, error.retry_after or 0.0)
            raise
        except Exception as error:  # A model class outside of modelport raised it.
            self._record_error(call, error, str(error), clock() - start)
            if self.falls_back_after(error):
                candidate.cooling_until = clock() + self._fallback.cooldown
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if call.lost_race and not has_responded:
                # The time until the cancellation counts as a response time, although the response would have taken even
                # longer. If only fast responses were counted, the percentile would become lower and lower.
                candidate.response_times[stream].append(clock() - start)
                call.record_failure(_LOST_RACE, clock() - start)
            elif not has_responded and call.attempts[0].seconds is None:
                call.record_failure(_CANCELLED, clock() - start)
            raise

    def _record_error(self, call: CandidateCall, error: Exception, text: str, seconds: float) -> None:
        """Record the error in the attempts of the call. An inner `FallbackModel` reports its own attempts instead."""
        call.record_failure(f"{type(error).__name__}: {text}", seconds)
        if call.candidate.reports_attempts:
            call.attempts[:] = getattr(error, "attempts", ()) or call.attempts

    def _request_for(self, model: Model) -> Request:
        """Return the request for one of the models. Its time limit is at most the time that is left for the call."""
        outer = self._request.timeouts
        request = model._build_request(self._request.messages, self._request.parameters, self._request.stream)
        request = request.replace(needs_closing_delta=True)  # `attempts` and `model_id` are added to that delta.
        if outer.deadline is None:
            return request
        own = request.timeouts
        seconds_left = outer.deadline - asyncio.get_running_loop().time()
        timeout = outer.timeout if own.timeout is None or own.timeout >= seconds_left else own.timeout
        return request.replace(timeouts=replace(own, timeout=timeout, deadline=outer.deadline))

    def falls_back_after(self, error: Exception) -> bool:
        """Return whether the next model is called after this error."""
        deadline, fallback_on = self._request.timeouts.deadline, self._fallback.fallback_on
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return False
        if _is_unsupported(error):
            return True
        if callable(fallback_on):
            return bool(fallback_on(error))
        error_types = self._fallback._fallback_errors
        if fallback_on is None:
            return isinstance(error, error_types) or getattr(error, "retryable", False)
        # An exception that a backend's `deltas` raised is the cause of the `ModelError` that it became.
        return isinstance(error, error_types) or isinstance(error.__cause__, error_types)

    def _add_failure(self, call: CandidateCall, error: Exception) -> bool:
        """Add an error to `failures`, and return whether the next model is called after it."""
        falls_back = self.falls_back_after(error)
        # The first error in the list is raised if no model responds. So an error after which no other model is called
        # goes to the front, and `UnsupportedFeature` goes behind all errors of models that support the request.
        unsupported = [_is_unsupported(failure) for failure, _ in self.failures]
        usages = [delta.token_usage for delta in call.read_ahead if delta.token_usage is not None]
        self.earlier.add(error, usages[-1] if usages else None)
        position = bisect_right(unsupported, _is_unsupported(error)) if falls_back else 0
        self.failures.insert(position, (error, call.read_ahead))
        return falls_back

    def attempts(self) -> list[Attempt]:
        """Return the attempts of all models that have been called so far."""
        return [attempt for call in self._calls for attempt in call.attempts]


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def _is_unsupported(error: Exception) -> bool:
    return isinstance(error, UnsupportedFeature) or getattr(error, "other_models_may_accept", False)


def _create_task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine in a new task.

    Blocking work of the task runs in a worker thread, and not in the thread of a waiting synchronous caller. That
    thread does one piece of work after another, so two models could not run in it in parallel.
    """
    from modelport.runtime.portal import context_without_caller

    return asyncio.get_running_loop().create_task(coroutine, context=context_without_caller())
