"""`FallbackModel`: a second model in parallel to a slow one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

import pytest

from modelport import Attempt, ChatMessage, FallbackModel, Model, accumulate
from modelport.errors import DeadlineExceeded, InvalidRequest, ModelError, ServerError
from modelport.runtime.threads import iterate_in_thread
from modelport.types.request import Request
from tests.combine.models import END, Delta, FallbackModelWithClock, ReplayModel, attempts_of
from tests.layers.clock import run_with_fake_clock


def race(
    first: list[Any], second: list[Any], stream: bool, hedge: Any = 2, **options: Any
) -> tuple[Any, float, list[ReplayModel]]:
    models = [ReplayModel("first", first), ReplayModel("second", second), ReplayModel("third")]

    async def work(clock: Callable[[], float]) -> tuple[Any, float]:
        model = FallbackModelWithClock(clock, models, hedge=hedge)
        try:
            if not stream:
                return await model.agenerate("?", **options), clock()
            async with model.agenerate_stream("?", **options) as answer:
                async for _ in answer:
                    pass
            return answer.message, clock()
        except ModelError as error:
            return error, clock()
        finally:  # The models are closed now, and not only when the loop ends.
            assert all(model.closed == model.call_count for model in models)

    return *run_with_fake_clock(work), models


def test_slow_model_gets_a_second_one_in_parallel_and_the_first_response_wins(stream: bool) -> None:
    message, when, models = race([50, "late", END], [3, "second", END], stream)
    assert (message.content, message.model_id, when) == ("second", "second", 5)
    assert attempts_of(message) == [("first", "cancelled: another model was faster"), ("second", None)]
    assert [model.call_count for model in models] == [1, 1, 0]
    assert [model.closed for model in models] == [1, 1, 0]  # The slow model is cancelled.


def test_slow_model_that_responds_first_wins(stream: bool) -> None:
    message, when, models = race([3, "first", END], [3, "late", END], stream)
    assert (message.content, message.model_id, when) == ("first", "first", 3)
    assert attempts_of(message) == [("first", None), ("second", "cancelled: another model was faster")]
    assert [model.closed for model in models] == [1, 1, 0]


def test_fast_model_is_not_hedged(stream: bool) -> None:
    message, when, models = race([1, "first", END], ["second", END], stream)
    assert (message.content, when) == ("first", 1)
    assert [model.call_count for model in models] == [1, 0, 0]


def test_started_stream_is_not_hedged_but_a_call_that_does_not_stream_is(stream: bool) -> None:
    message, when, _ = race([1, "fi", 9, "rst", END], [1, "second", END], stream)
    assert (message.content, when) == (("first", 10) if stream else ("second", 3))
    if not stream:
        assert message.attempts[0] == Attempt("first", "cancelled: another model was faster", 3)


def test_two_responses_at_the_same_time_yield_one(stream: bool) -> None:
    message, when, models = race([3, "first", 1, END], [1, "second", 1, END], stream)
    assert message.content == message.model_id and when == 4
    assert sorted(attempt.error or "" for attempt in message.attempts) == ["", "cancelled: another model was faster"]
    assert [model.closed for model in models] == [1, 1, 0]


@pytest.mark.parametrize("first", [InvalidRequest("no"), ServerError("no")], ids=lambda error: type(error).__name__)
def test_response_at_the_same_time_as_an_error_wins(first: ModelError, stream: bool) -> None:
    """Also if the error would end the call, and whichever of the two tasks the loop returns first."""
    for _ in range(10):
        message, when, _ = race([3, first], [1, "second", END], stream)
        assert (message.content, when) == ("second", 3)


def test_cancelled_calls_do_not_count_as_response_times() -> None:
    first, second = ReplayModel("first", [1, "first", END]), ReplayModel("second")

    async def work(clock: Callable[[], float]) -> ChatMessage:
        model = FallbackModelWithClock(clock, [first, second], hedge="p95")
        for _ in range(25):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await model.agenerate("?")
        return await model.agenerate("?")

    message = run_with_fake_clock(work)
    assert (message.content, second.call_count) == ("first", 0)


def test_failure_of_the_slow_model_leaves_the_other_running(stream: bool) -> None:
    message, when, _ = race([3, ServerError("no")], [4, "second", END], stream)
    assert (message.content, when) == ("second", 6)
    assert attempts_of(message) == [("first", "ServerError: no"), ("second", None)]


def test_failure_of_both_models_calls_the_next_one(stream: bool) -> None:
    message, when, models = race([3, ServerError("no")], [4, ServerError("no")], stream)
    assert (message.content, when) == ("third", 6)
    assert [model.call_count for model in models] == [1, 1, 1]


def test_error_that_ends_the_call_cancels_the_other_model(stream: bool) -> None:
    error, when, models = race([3, InvalidRequest("400")], [40, "late", END], stream)
    assert isinstance(error, InvalidRequest) and when == 3
    assert [model.closed for model in models] == [1, 1, 0]


def test_timeout_cancels_both_models(stream: bool) -> None:
    error, when, models = race([30, "late", END], [40, "late", END], stream, timeout=9)
    assert isinstance(error, DeadlineExceeded) and when == 9
    assert [model.closed for model in models] == [1, 1, 0]


def test_cancelled_call_cancels_both_models() -> None:
    models = [ReplayModel("first", [50]), ReplayModel("second", [50])]

    async def work(clock: Callable[[], float]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await FallbackModelWithClock(clock, models, hedge=2).agenerate("?")
        assert len(asyncio.all_tasks()) == 1

    run_with_fake_clock(work)
    assert [model.closed for model in models] == [1, 1]


def test_interrupted_winner_restarts_with_the_model_that_lost() -> None:
    models = [
        ReplayModel("first", [5, "late", END], ["first", END]),
        ReplayModel("second", [1, "Pa", ServerError("cut")]),
    ]

    async def work(clock: Callable[[], float]) -> list[Delta]:
        model = FallbackModelWithClock(clock, models, hedge=2, on_interrupted="restart")
        return [delta async for delta in model.agenerate_stream("?")]

    message = accumulate(run_with_fake_clock(work))
    assert (message.content, message.model_id) == ("first", "first")


def test_p95_is_computed_from_previous_responses(stream: bool) -> None:
    """After 19 responses in 1 s and one in 4 s, the 95th percentile is 4 s."""
    calls = [[1, "ok", END]] * 19 + [[4, "ok", END]] + [[1000]]
    models = [ReplayModel("first", *calls), ReplayModel("second")]

    async def work(clock: Callable[[], float]) -> tuple[str | None, float]:
        model = FallbackModelWithClock(clock, models, hedge="p95")

        async def respond() -> ChatMessage:
            if not stream:
                return await model.agenerate("?")
            return accumulate([delta async for delta in model.agenerate_stream("?")])

        for _ in range(20):
            await respond()
        assert models[1].call_count == 0
        start = clock()
        message = await respond()
        return message.model_id, clock() - start

    assert run_with_fake_clock(work) == ("second", 4)


def test_lost_race_counts_as_a_slow_response() -> None:
    models = [ReplayModel("first", *[[1, "ok", END]] * 20, [1000]), ReplayModel("second", [6, "second", END])]

    async def work(clock: Callable[[], float]) -> tuple[float | None, float | None]:
        model = FallbackModelWithClock(clock, models, hedge="p95")
        for _ in range(20):
            await model.agenerate("?")
        before = model._candidates[0].p95(False)
        for _ in range(5):
            await model.agenerate("?")
        return before, model._candidates[0].p95(False)

    before, after = run_with_fake_clock(work)
    assert before == 1 and after is not None and after > 6


class BusyModel(Model):
    """Its engine works in a thread, and does not notice that its call has ended."""

    def __init__(self) -> None:
        super().__init__("busy", retry=False)
        self.may_end, self.ended = threading.Event(), threading.Event()

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        def work(emit: Callable[[Delta], bool]) -> None:
            self.may_end.wait(20)
            self.ended.set()

        async with aclosing(iterate_in_thread(work, patience=30)) as deltas:
            async for delta in deltas:
                yield delta


def test_response_of_the_faster_model_does_not_wait_for_a_busy_engine() -> None:
    busy = BusyModel()
    with FallbackModel([busy, ReplayModel("second")], hedge=0.05) as model:
        assert model("?").content == "second"
        assert not busy.ended.is_set()
        busy.may_end.set()
    assert busy.ended.wait(5)
