"""A call that its model's own limit will not admit in time fails at once, and says which limit it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from modelport.combine.fallback import FallbackModel
from modelport.errors import DeadlineExceeded, RateLimited
from modelport.layers.limit.layer import Limit
from modelport.layers.limit.window import RateWindow
from modelport.testing import ScriptedModel
from modelport.types.request import Request, Timeouts
from modelport.types.usage import TokenUsage

from .clock import run_with_fake_clock
from .limit_backend import Backend, BackendModel, request, send


def with_deadline(seconds: float, sent: Request | None = None) -> Request:
    deadline = asyncio.get_running_loop().time() + seconds
    return replace(sent or request(), timeouts=Timeouts(timeout=seconds, deadline=deadline))


def test_call_beyond_the_limit_of_requests_fails_at_once() -> None:
    model = BackendModel(Backend(), requests_per_minute=1)
    model("first")
    begin = time.process_time()
    with pytest.raises(
        RateLimited, match=r"^requests_per_minute=1: this model's own limit admits this request in 6"
    ) as raised:
        model("second", timeout=30)
    assert 59 < (raised.value.retry_after or 0) <= 60 and raised.value.retryable
    assert time.process_time() - begin < 5
    assert model.backend.texts == ["first"]


def test_fallback_model_goes_on_after_a_limit_of_the_first() -> None:
    first = BackendModel(Backend(), requests_per_minute=1)
    model = FallbackModel([first, ScriptedModel("second", repeat=True)])
    assert [model("?", timeout=20).text for _ in range(3)] == ["a", "second", "second"]


def test_call_that_is_admitted_in_time_waits() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(requests_per_minute=2, clock=clock), Backend(clock=clock)
        for _ in range(3):
            await send(limit, backend, with_deadline(61))
        with pytest.raises(RateLimited):  # The limit admits the next request in 0 s, and the one after it in 60 s.
            for _ in range(2):
                await send(limit, backend, with_deadline(50))
        return backend.times

    first, second, third, fourth = run_with_fake_clock(work)
    assert first == second and third == fourth == pytest.approx(first + 60, abs=1)


@pytest.mark.parametrize("running", [False, True], ids=["all have ended", "one runs"])
def test_limit_of_tokens_waits_for_running_requests_alone(running: bool) -> None:
    """The estimate of a running request may shrink, so a call may be admitted before the window says so."""

    async def work(clock: Callable[[], float]) -> Any:
        backend = Backend(5.0, TokenUsage(10, 10), clock)
        limit = Limit(tokens_per_minute=1000, clock=clock)
        first = asyncio.ensure_future(send(limit, backend, request(max_tokens=900)))
        await (asyncio.sleep(1) if running else first)
        limit._window.correct(limit._window._entries[0], 900)
        try:
            await send(limit, backend, with_deadline(20, request(max_tokens=500)))
        finally:
            await first
        return len(backend.times)

    if running:
        assert run_with_fake_clock(work) == 2
    else:
        with pytest.raises(RateLimited, match=r"^tokens_per_minute=1000: this model's own limit admits"):
            run_with_fake_clock(work)


def test_call_behind_one_that_has_time_fails_at_once_too() -> None:
    async def work(clock: Callable[[], float]) -> float:
        limit, backend = Limit(requests_per_minute=1, clock=clock), Backend(clock=clock)
        await send(limit, backend)
        patient = asyncio.ensure_future(send(limit, backend, with_deadline(600)))
        await asyncio.sleep(1)
        begin = clock()
        with pytest.raises(RateLimited, match=r"^requests_per_minute=1: this model's own limit admits") as raised:
            await send(limit, backend, with_deadline(5))
        assert clock() == begin and 58 < (raised.value.retry_after or 0) < 60
        await patient
        return len(backend.times)

    assert run_with_fake_clock(work) == 2


def test_timeout_in_the_queue_of_max_concurrency_names_this_limit() -> None:
    async def work(clock: Callable[[], float]) -> None:
        model = BackendModel(Backend(seconds=3.0), max_concurrency=1)
        running = asyncio.ensure_future(model.agenerate("first"))
        await asyncio.sleep(0)
        own = r"^timeout=2 s ran out while the call waited for this model's own limit max_concurrency=1\. "
        with pytest.raises(DeadlineExceeded, match=own):
            await model.agenerate("second", timeout=2)
        with pytest.raises(DeadlineExceeded, match=r"^timeout=2 s ran out\. "):  # It has a slot, and waits for output.
            await running
            await model.agenerate("third", timeout=2)

    run_with_fake_clock(work)


def test_requests_delay_equals_the_delay_of_a_window_without_a_limit_of_tokens() -> None:
    window = RateWindow(3, None)
    for now in (0.0, 1.0, 5.0, 20.0, 61.0, 62.5, 70.0):
        delay = window.delay(now, 0)
        assert window.requests_delay(now) == pytest.approx(delay, abs=0.01)
        if not delay:
            window.add(now, 0)
