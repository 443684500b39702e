"""One call of several models: who is asked next, after a failure or beside one that takes its time."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelport import errors
from modelport.errors import InvalidRequest, ModelError, UnsupportedFeature
from modelport.layers.base import Deltas
from modelport.types.deltas import ChatMessageStreamDelta, MessageBuilder
from modelport.types.messages import Attempt
from modelport.types.request import Request

if TYPE_CHECKING:
    from modelport.combine.fallback import FallbackModel
    from modelport.model import Model

#: Errors that say nothing of the model's health.
_OF_THE_REQUEST = (
    InvalidRequest, UnsupportedFeature, errors.ContentFiltered, errors.InvalidOutput, errors.InvalidToolCall,
)  # fmt: skip
_OUTRUN = "cancelled: another model was faster"
#: Answers whose times a model remembers, and how many it must have seen to know what is slow.
_REMEMBERED, _ENOUGH = 100, 20


class Candidate:
    """One of the models, and what is known of its health.

    Args:
        model: It.
        of_models: Whether it is made of models itself, and so says who was asked.
    """

    def __init__(self, model: Model, of_models: bool) -> None:
        self.model, self.of_models = model, of_models
        self.cooling_until = 0.0
        #: Seconds to the first part of an answer that is streamed, and to the end of one that is not.
        self.took: dict[bool, deque[float]] = {way: deque(maxlen=_REMEMBERED) for way in (True, False)}

    def slow_after(self, stream: bool) -> float | None:
        """What 95 of 100 answers took at most; `None` where too few are known."""
        took = sorted(self.took[stream])
        return took[len(took) * 95 // 100] if len(took) >= _ENOUGH else None


class CandidateCall:
    """A model that was asked: what it has given so far, and the way to the rest."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.record = [Attempt(candidate.model.model_id)]
        self.seen: list[ChatMessageStreamDelta] = []
        self.outrun = False  # by another model; a caller who leaves says nothing of how fast this one is
        self.deltas: Deltas

    def lost(self, why: str, seconds: float) -> None:
        """Takes note of how it went, where it did not answer."""
        self.record[0].error, self.record[0].seconds = why, seconds

    async def begin(self, whole: bool) -> None:
        """Reads up to the first part of the answer, or all of an answer that nobody reads yet."""
        async for delta in self.deltas:
            self.seen.append(delta)
            if delta.delivers and not whole:
                return

    async def all(self) -> Deltas:
        """What has been read, and then the rest."""
        for delta in self.seen:
            yield delta
        async for delta in self.deltas:
            yield delta


class FallbackCall:
    """One call: who was asked, and who is left to ask."""

    def __init__(self, fallback: FallbackModel, request: Request) -> None:
        self._fallback, self._request = fallback, request
        self._left = fallback._in_order()
        self._tried: list[CandidateCall] = []
        self.failures: list[tuple[Exception, list[ChatMessageStreamDelta]]] = []

    async def answering(self) -> CandidateCall | None:
        """The next model to answer, or `None` where none is left to ask."""
        if self._fallback.hedge is not None:
            return await self._race()
        while self._left:
            asked = self._ask(self._left.pop(0))
            try:
                await asked.begin(not self._request.stream)
                return asked
            except Exception as error:
                if not self._failed(asked, error):
                    break
        return None

    async def _race(self) -> CandidateCall | None:
        """Likewise, with a second model beside one that takes its time."""
        racing: dict[asyncio.Task[None], CandidateCall] = {}
        wait: float | None = None
        won = False
        try:
            while self._left or racing:
                if not racing or wait == 0:
                    candidate = self._left.pop(0)
                    wait = None if wait == 0 or not self._left else self._patience(candidate)
                    asked = self._ask(candidate)
                    racing[_task(asked.begin(not self._request.stream))] = asked
                done, _ = await asyncio.wait(racing, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    wait = 0
                for task in sorted(done, key=_has_failed):  # Of two at once an answer goes before an error.
                    asked = racing.pop(task)
                    try:
                        task.result()
                        won = True
                        return asked
                    except Exception as error:
                        if not self._failed(asked, error):
                            return None
            return None
        finally:
            for task, asked in racing.items():
                asked.outrun = won
                task.cancel()
            await asyncio.gather(*racing, return_exceptions=True)  # Python complains of errors that nobody looks at
            for asked in racing.values():
                await asked.deltas.aclose()
                if won and not asked.record[0].error:
                    asked.record[0].error = _OUTRUN
            self._left[:0] = [asked.candidate for asked in racing.values()]

    def _patience(self, candidate: Candidate) -> float | None:
        hedge = self._fallback.hedge
        return candidate.slow_after(self._request.stream) if hedge == "p95" else hedge

    def _ask(self, candidate: Candidate) -> CandidateCall:
        now = self._fallback._clock()
        if 0 < candidate.cooling_until <= now:
            candidate.cooling_until = now + self._fallback.cooldown  # for the others, until this call knows more
        asked = CandidateCall(candidate)
        asked.deltas = self._answer_of(asked)
        self._tried.append(asked)
        return asked

    async def _answer_of(self, asked: CandidateCall) -> Deltas:
        candidate, stream, clock = asked.candidate, self._request.stream, self._fallback._clock
        model, begin, began = candidate.model, clock(), False
        try:
            async with aclosing(model._run(self._request_of(model), MessageBuilder(), nested=True)) as deltas:
                async for delta in deltas:
                    if delta.delivers and not began:
                        began, candidate.cooling_until = True, 0.0
                        if stream:
                            candidate.took[stream].append(clock() - begin)
                        delta = replace(delta, model_id=delta.model_id or model.model_id)
                    if delta.finish_reason is not None:
                        candidate.cooling_until = 0.0
                        asked.record[0].seconds = clock() - begin
                        asked.record[:] = delta.attempts or asked.record  # of a model that is made of models
                        delta = replace(delta, model_id=delta.model_id or model.model_id)
                    yield delta
            if not stream:
                candidate.took[stream].append(clock() - begin)
        except ModelError as error:
            error.model_id = error.model_id or model.model_id
            self._note(asked, error, error.message, clock() - begin)
            if not isinstance(error, _OF_THE_REQUEST):
                candidate.cooling_until = clock() + max(self._fallback.cooldown, error.retry_after or 0.0)
            raise
        except Exception as error:  # an author's
            self._note(asked, error, str(error), clock() - begin)
            if self.goes_on(error):
                candidate.cooling_until = clock() + self._fallback.cooldown
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if asked.outrun and not began:
                # It would have taken longer than this; without it a slow model would seem to get faster and faster.
                candidate.took[stream].append(clock() - begin)
                asked.lost(_OUTRUN, clock() - begin)
            raise

    def _note(self, asked: CandidateCall, error: Exception, text: str, seconds: float) -> None:
        asked.lost(f"{type(error).__name__}: {text}", seconds)
        if asked.candidate.of_models:
            asked.record[:] = getattr(error, "attempts", ()) or asked.record

    def _request_of(self, model: Model) -> Request:
        """The call as this model takes it, with no more time than the call has left."""
        call, outer = self._request, self._request.timeouts
        own = model._request(call.messages, call.parameters, call.stream)
        if outer.deadline is None:
            return own
        left = outer.deadline - asyncio.get_running_loop().time()
        timeout = (
            outer.timeout if own.timeouts.timeout is None or own.timeouts.timeout >= left else own.timeouts.timeout
        )
        return own.replace(timeouts=replace(own.timeouts, timeout=timeout, deadline=outer.deadline))

    def goes_on(self, error: Exception) -> bool:
        """Whether the next model is asked after this error."""
        deadline, on = self._request.timeouts.deadline, self._fallback.fallback_on
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            return False
        if isinstance(error, UnsupportedFeature):
            return True
        if callable(on):
            return bool(on(error))
        return isinstance(error, self._fallback._kinds) or (on is None and getattr(error, "retryable", False))

    def _failed(self, asked: CandidateCall, error: Exception) -> bool:
        """Takes note of a failure; False where no other model is to be asked."""
        goes_on = self.goes_on(error)
        # The first one is told. That a model can't do it is the answer only where no other has anything to say.
        ranks = [_rank(known) for known, _ in self.failures]
        at = bisect_right(ranks, _rank(error)) if goes_on else 0
        self.failures.insert(at, (error, asked.seen))
        return goes_on

    def attempts(self) -> list[Attempt]:
        """Who was asked so far."""
        return [attempt for asked in self._tried for attempt in asked.record]


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def _rank(error: Exception) -> bool:
    return isinstance(error, UnsupportedFeature)


def _task(work: Any) -> asyncio.Task[None]:
    from modelport.runtime.portal import apart_from_caller

    return asyncio.get_running_loop().create_task(work, context=apart_from_caller())
