"""`FallbackModel`: models that failed cool down, and are tried last meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelport import FallbackModel
from modelport.errors import (
    ContextWindowExceeded,
    InvalidRequest,
    ModelError,
    RateLimited,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)
from tests.combine.models import END, INTERRUPTED, FallbackModelWithClock, ReplayModel, generate, generate_stream
from tests.layers.clock import run_with_fake_clock


def test_failed_model_is_tried_last_until_its_cooldown_ends() -> None:
    first, second = ReplayModel("first", [ServerError("no")], ["first", END]), ReplayModel("second")

    async def work(clock: Callable[[], float]) -> list[tuple[Any, int]]:
        model = FallbackModelWithClock(clock, [first, second], cooldown=30)
        responses = []
        for wait in (0, 10, 19.9, 0.2, 0):
            await asyncio.sleep(wait)
            responses.append(((await model.agenerate("?")).content, first.call_count))
        return responses

    assert run_with_fake_clock(work) == [("second", 1), ("second", 1), ("second", 1), ("first", 2), ("first", 3)]


def test_retry_after_that_is_longer_than_the_cooldown_counts() -> None:
    first = ReplayModel("first", [RateLimited("429", retry_after=100)], ["first", END])

    async def work(clock: Callable[[], float]) -> list[str]:
        model = FallbackModelWithClock(clock, [first, ReplayModel("second")], cooldown=30)
        responses = []
        for wait in (0, 99, 2):
            await asyncio.sleep(wait)
            responses.append(str(await model.agenerate("?")))
        return responses

    assert run_with_fake_clock(work) == ["second", "second", "first"]


def test_one_call_alone_tries_a_model_after_its_cooldown() -> None:
    first = ReplayModel("first", [ServerError("no")], [5, "first", END])

    async def work(clock: Callable[[], float]) -> list[str]:
        model = FallbackModelWithClock(clock, [first, ReplayModel("second")], cooldown=30)
        await model.agenerate("?")
        await asyncio.sleep(31)
        responses = await asyncio.gather(*(model.agenerate("?") for _ in range(5)))
        return [str(answer) for answer in (*responses, await model.agenerate("?"))]

    assert run_with_fake_clock(work) == ["first", "second", "second", "second", "second", "first"]
    assert first.call_count == 3


def test_first_part_of_a_response_ends_the_cooldown_for_all_calls() -> None:
    first = ReplayModel("first", [ServerError("no")], ["first", 100, END], ["first", END])

    async def work(clock: Callable[[], float]) -> str:
        model = FallbackModelWithClock(clock, [first, ReplayModel("second")], cooldown=30)
        await model.agenerate("?")
        await asyncio.sleep(31)
        async with model.agenerate_stream("?") as stream:
            assert (await anext(stream)).content == "first"
            return str(await model.agenerate("?"))

    assert run_with_fake_clock(work) == "first"


def test_cancelled_call_renews_the_cooldown_only_once() -> None:
    first = ReplayModel("first", [ServerError("no")], [1000], ["first", END])

    async def work(clock: Callable[[], float]) -> list[str]:
        model = FallbackModelWithClock(clock, [first, ReplayModel("second")], cooldown=30)
        await model.agenerate("?")
        await asyncio.sleep(31)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await model.agenerate("?")
        responses = [await model.agenerate("?")]
        await asyncio.sleep(28)
        return [str(answer) for answer in (*responses, await model.agenerate("?"))]

    assert run_with_fake_clock(work) == ["second", "first"]


def test_all_models_cooling_down_are_tried_by_the_end_of_their_cooldown() -> None:
    a, b = ReplayModel("a", [RateLimited("429", retry_after=100)]), ReplayModel("b", [ServerError("no")], ["b", END])

    async def work(clock: Callable[[], float]) -> str:
        model = FallbackModelWithClock(clock, [a, b], cooldown=30)
        with pytest.raises(RateLimited):
            await model.agenerate("?")
        return str(await model.agenerate("?"))

    assert run_with_fake_clock(work) == "b"
    assert (a.call_count, b.call_count) == (1, 2)


@pytest.mark.parametrize("error", [ContextWindowExceeded("long"), UnsupportedFeature("?"), InvalidRequest("400")])
def test_error_of_the_request_starts_no_cooldown(error: ModelError) -> None:
    first = ReplayModel("first", [error], ["first", END])
    model = FallbackModel([first, ReplayModel("second")], fallback_on=lambda error: True, cooldown=1000)
    assert [str(generate(model)), str(generate(model))] == ["second", "first"]


def test_interrupted_stream_starts_the_cooldown() -> None:
    model = FallbackModel([ReplayModel("first", INTERRUPTED), ReplayModel("second")])
    with pytest.raises(StreamInterrupted):
        generate_stream(model)
    assert str(generate_stream(model)) == "second"
