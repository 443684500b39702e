"""One call of a `FallbackModel`: which model is called next, after a failure or in parallel to a slow model.

Rules:

- Models are called in the order of `FallbackModel._candidates_in_order`, each once.
- A model has responded when its first part of a stream arrives, or its complete response if the call does not stream.
- A failure puts a model into cool-down, unless the error says nothing about the model's health. A response ends the
  cool-down. When a cool-down is over, the first call that tries the model renews it for all other calls until the model
  has responded.
- With `hedge`, the next model is called in parallel to one that is slow. The first response wins, the other calls are
  cancelled, and their models can be called again if the winner's stream is interrupted.
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
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import Attempt
from modelport.types.request import Request

if TYPE_CHECKING:
    from modelport.combine.fallback import FallbackModel
    from modelport.model import Model

#: Errors that say nothing about the health of a model.
_ERRORS_OF_REQUESTS = (
    InvalidRequest, UnsupportedFeature, errors.ContentFiltered, errors.InvalidOutput, errors.InvalidToolCall,
)  # fmt: skip
_LOST_RACE = "cancelled: another model was faster"
#: The number of response times that are stored for a model, and the number from which a percentile is computed.
_MAX_RESPONSE_TIMES, _MIN_RESPONSE_TIMES = 100, 20


class Candidate:
    """One of the models, and what is known about its health.

    Args:
        model: The model.
        reports_attempts: Whether the model is made of models itself, and so reports which models it called.

    Attributes:
        cooling_until: The end of the model's cool-down, on the clock of the `FallbackModel`.
        response_times: For streams (True), the seconds to the first part of each response; for other calls (False), the
            seconds to its end.
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
    """The call of one model: what has been received, and the deltas that are left to read.

    Attributes:
        attempts: What the message reports about this call: one entry, or those of a model that is made of models.
        received: The deltas that were read before the caller reads them.
        lost_race: Whether this call was cancelled because another model was faster. A caller that leaves cancels calls
            too, which says nothing about how fast a model is.
    """

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.attempts = [Attempt(candidate.model.model_id)]
        self.received: list[ChatMessageStreamDelta] = []
        self.lost_race = False
        self.deltas: Deltas

    def record_failure(self, reason: str, seconds: float) -> None:
        """Record why the model did not respond, and after how long."""
        self.attempts[0].error, self.attempts[0].seconds = reason, seconds

    async def receive_response(self, *, complete: bool) -> None:
        """Read up to the first part of the response; with `complete`, read the complete response."""
        async for delta in self.deltas:
            self.received.append(delta)
            if delta.has_output and not complete:
                return

    async def all_deltas(self) -> Deltas:
        """Yield the deltas that were received, and then those that are left."""
        for delta in self.received:
            yield delta
        async for delta in self.deltas:
            yield delta


class FallbackCall:
    """One call of a `FallbackModel`.

    Args:
        fallback: The model that is called.
        request: The request, with the options of the call as `parameters`.

    Attributes:
        failures: The errors of the models that failed, each with the deltas that came before it. The first one is what
            the caller gets if no model responds.
    """

    def __init__(self, fallback: FallbackModel, request: Request) -> None:
        self._fallback, self._request = fallback, request
        self._untried = fallback._candidates_in_order()
        self._calls: list[CandidateCall] = []
        self.failures: list[tuple[Exception, list[ChatMessageStreamDelta]]] = []

    async def next_response(self) -> CandidateCall | None:
        """Call the models that have not been tried until one responds.

        Returns:
            The call of the model that responded, or `None` if no model is left, or if an error ended the call.
        """
        if self._fallback.hedge is not None:
            return await self._next_response_hedged()
        while self._untried:
            call = self._call(self._untried.pop(0))
            try:
                await call.receive_response(complete=not self._request.stream)
                return call
            except Exception as error:
                if not self._add_failure(call, error):
                    break
        return None

    async def _next_response_hedged(self) -> CandidateCall | None:
        """Do the same with a second model in parallel to one that is slow."""
        racing: dict[asyncio.Task[None], CandidateCall] = {}
        delay: float | None = None  # until the next model is called; `None` to wait for those that race
        won = False
        try:
            while self._untried or racing:
                if not racing or delay == 0:
                    candidate = self._untried.pop(0)
                    delay = None if delay == 0 or not self._untried else self._hedge_delay(candidate)
                    call = self._call(candidate)
                    racing[_create_task(call.receive_response(complete=not self._request.stream))] = call
                done, _ = await asyncio.wait(racing, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    delay = 0
                for task in sorted(done, key=_has_failed):  # If two calls end together, a response precedes an error.
                    call = racing.pop(task)
                    try:
                        task.result()
                        won = True
                        return call
                    except Exception as error:
                        if not self._add_failure(call, error):
                            return None
            return None
        finally:
            for task, call in racing.items():
                call.lost_race = won
                task.cancel()
            await asyncio.gather(*racing, return_exceptions=True)  # asyncio logs errors that nobody retrieves.
            for call in racing.values():
                await call.deltas.aclose()
                if won and not call.attempts[0].error:
                    call.attempts[0].error = _LOST_RACE
            self._untried[:0] = [call.candidate for call in racing.values()]

    def _hedge_delay(self, candidate: Candidate) -> float | None:
        hedge = self._fallback.hedge
        return candidate.p95(self._request.stream) if hedge == "p95" else hedge

    def _call(self, candidate: Candidate) -> CandidateCall:
        now = self._fallback._clock()
        if 0 < candidate.cooling_until <= now:
            candidate.cooling_until = now + self._fallback.cooldown  # for other calls, until this model has responded
        call = CandidateCall(candidate)
        call.deltas = self._deltas_of(call)
        self._calls.append(call)
        return call

    async def _deltas_of(self, call: CandidateCall) -> Deltas:
        """Yield the deltas of one model, and record how long it took and how it failed."""
        candidate, stream, clock = call.candidate, self._request.stream, self._fallback._clock
        model, start, responding = candidate.model, clock(), False
        try:
            async with aclosing(model._run(self._request_for(model))) as deltas:
                async for delta in deltas:
                    if delta.has_output and not responding:
                        responding, candidate.cooling_until = True, 0.0
                        if stream:
                            candidate.response_times[stream].append(clock() - start)
                        delta = replace(delta, model_id=delta.model_id or model.model_id)
                    if delta.finish_reason is not None:
                        candidate.cooling_until = 0.0
                        call.attempts[0].seconds = clock() - start
                        call.attempts[:] = delta.attempts or call.attempts  # An inner `FallbackModel` reports its own.
                        delta = replace(delta, model_id=delta.model_id or model.model_id)
                    yield delta
            if not stream:
                candidate.response_times[stream].append(clock() - start)
        except ModelError as error:
            error.model_id = error.model_id or model.model_id
            self._record_error(call, error, error.message, clock() - start)
            if not isinstance(error, _ERRORS_OF_REQUESTS):
                candidate.cooling_until = clock() + max(self._fallback.cooldown, error.retry_after or 0.0)
            raise
        except Exception as error:  # An author's own model raised it.
            self._record_error(call, error, str(error), clock() - start)
            if self.falls_back_after(error):
                candidate.cooling_until = clock() + self._fallback.cooldown
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if call.lost_race and not responding:
                # The response would have taken longer than this. If these times were left out, a slow model would seem
                # to get faster and faster.
                candidate.response_times[stream].append(clock() - start)
                call.record_failure(_LOST_RACE, clock() - start)
            raise

    def _record_error(self, call: CandidateCall, error: Exception, text: str, seconds: float) -> None:
        call.record_failure(f"{type(error).__name__}: {text}", seconds)
        if call.candidate.reports_attempts:
            call.attempts[:] = getattr(error, "attempts", ()) or call.attempts

    def _request_for(self, model: Model) -> Request:
        """Return the request for one of the models, with no more time than the call has left."""
        outer = self._request.timeouts
        request = model._build_request(self._request.messages, self._request.parameters, self._request.stream)
        if outer.deadline is None:
            return request
        own = request.timeouts
        left = outer.deadline - asyncio.get_running_loop().time()
        timeout = outer.timeout if own.timeout is None or own.timeout >= left else own.timeout
        return request.replace(timeouts=replace(own, timeout=timeout, deadline=outer.deadline))

    def falls_back_after(self, error: Exception) -> bool:
        """Return whether the next model is called after this error."""
        deadline, fallback_on = self._request.timeouts.deadline, self._fallback.fallback_on
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return False
        if isinstance(error, UnsupportedFeature):
            return True
        if callable(fallback_on):
            return bool(fallback_on(error))
        retryable = fallback_on is None and getattr(error, "retryable", False)
        return isinstance(error, self._fallback._fallback_errors) or retryable

    def _add_failure(self, call: CandidateCall, error: Exception) -> bool:
        """Add the failure of a model; return whether the next model is called."""
        falls_back = self.falls_back_after(error)
        # The caller gets the first failure. That a model can't do what the request needs comes behind the failures of
        # models that can.
        unsupported = [_is_unsupported(failure) for failure, _ in self.failures]
        position = bisect_right(unsupported, _is_unsupported(error)) if falls_back else 0
        self.failures.insert(position, (error, call.received))
        return falls_back

    def attempts(self) -> list[Attempt]:
        """Return the attempts of all models that were called so far."""
        return [attempt for call in self._calls for attempt in call.attempts]


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def _is_unsupported(error: Exception) -> bool:
    return isinstance(error, UnsupportedFeature)


def _create_task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a coroutine beside the caller, so that a blocking model does not block the caller's thread."""
    from modelport.runtime.portal import context_without_caller

    return asyncio.get_running_loop().create_task(coroutine, context=context_without_caller())
