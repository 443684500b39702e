"""`FallbackModel`: one deadline for all models, and limits of the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelport import Attempt, ChatMessage, FallbackModel
from modelport.errors import DeadlineExceeded, RateLimited, ServerError
from tests.combine.models import END, FallbackModelWithClock, ReplayModel, attempts_of, failing
from tests.layers.clock import run_with_fake_clock


def test_timeout_reports_the_attempts(call: Callable[..., ChatMessage], hedge: Any) -> None:
    with pytest.raises(DeadlineExceeded) as raised:
        call(FallbackModel([failing("first"), ReplayModel("second", [9.0])], timeout=0.2, hedge=hedge))
    assert attempts_of(raised.value) == [
        ("first", "ServerError: no"),
        ("second", "cancelled before it responded"),
    ]


def test_timeout_covers_all_models(hedge: Any) -> None:
    models = [
        ReplayModel("a", [4, ServerError("no")]),
        ReplayModel("b", [4, ServerError("no")]),
        ReplayModel("c", [4, "late", END]),
        ReplayModel("d"),
    ]

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        with pytest.raises(DeadlineExceeded) as raised:
            await FallbackModelWithClock(clock, models, hedge=hedge).agenerate("?", timeout=10)
        return raised.value.message, clock()

    assert run_with_fake_clock(work) == ("timeout=10 s ran out.", 10)
    assert [model.call_count for model in models] == [model.closed for model in models] == [1, 1, 1, 0]


def test_timeout_of_an_inner_model_covers_its_turn() -> None:
    first = ReplayModel("first", [1000], timeout=3)

    async def work(clock: Callable[[], float]) -> tuple[ChatMessage, float]:
        return await FallbackModelWithClock(clock, [first, ReplayModel("second")]).agenerate("?", timeout=60), clock()

    message, when = run_with_fake_clock(work)
    assert (message.content, when) == ("second", 3)
    assert message.attempts[0] == Attempt("first", "DeadlineExceeded: timeout=3 s ran out.", 3.0)


def test_retry_wait_beyond_the_deadline_calls_the_next_model() -> None:
    first = ReplayModel("first", [RateLimited("429", retry_after=50)], retry=3)

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        return str(
            await FallbackModelWithClock(clock, [first, ReplayModel("second")]).agenerate("?", timeout=20)
        ), clock()

    assert run_with_fake_clock(work) == ("second", 0)


def test_each_model_has_only_the_time_that_is_left() -> None:
    models = [
        ReplayModel("a", [15, ServerError("no")]),
        ReplayModel("b", [RateLimited("429", retry_after=10)], retry=3),
        ReplayModel("c"),
    ]

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        return str(await FallbackModelWithClock(clock, models).agenerate("?", timeout=20)), clock()

    assert run_with_fake_clock(work) == ("c", 15)


def test_max_concurrency_limits_calls_of_the_outer_model() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        models = [ReplayModel("a", [1, "a", END])]
        model = FallbackModelWithClock(clock, models, max_concurrency=1)
        await asyncio.gather(*(model.agenerate("?") for _ in range(3)))
        return [clock()]

    assert run_with_fake_clock(work) == [3]
