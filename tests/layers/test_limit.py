"""The limit layer as an object: its arguments, pickling, forks, and the clock of `first_token_timeout`."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport.errors import DeadlineExceeded, InvalidRequest, ModelError
from modelport.layers.base import compose
from modelport.layers.limit.layer import Limit
from modelport.types.request import Request

from .clock import run_with_fake_clock
from .limit_backend import Backend, BackendModel, Delta, request, send


def test_limit_without_any_limit_returns_the_next_layers_deltas() -> None:
    deltas: Any = object()
    assert Limit()(request(), lambda request: deltas) is deltas


@pytest.mark.parametrize("value", [0, -1, 0.5, True, "3", float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "max_concurrency"])
def test_limit_refuses_values_that_are_no_limit(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Limit(**{name: value})


def test_limit_refuses_a_fraction_as_max_concurrency() -> None:
    with pytest.raises(InvalidRequest, match=r"max_concurrency=1\.5: must be a whole number"):
        Limit(max_concurrency=1.5)  # type: ignore[arg-type]


async def test_pickled_limit_starts_with_an_empty_window_and_free_slots() -> None:
    limit, backend = Limit(requests_per_minute=1, max_concurrency=1), Backend(seconds=60)
    stream = limit(request(), backend)
    await anext(stream)
    copy = pickle.loads(pickle.dumps(limit))
    assert (copy.requests_per_minute, copy.tokens_per_minute, copy.max_concurrency) == (1, None, 1)
    await asyncio.wait_for(send(copy, Backend()), 20)
    await stream.aclose()


def test_forked_child_does_not_wait_for_the_calls_of_its_parent() -> None:
    limit = Limit(max_concurrency=1)
    running = limit(request(), Backend(seconds=60))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(running))
    with limit._lock:  # As if another thread were just being admitted.
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                asyncio.run(send(limit, Backend()))
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(limit._slots) == 1  # The fork has changed nothing in the parent.
    loop.run_until_complete(running.aclose())
    loop.close()


def test_first_token_timeout_does_not_count_the_time_in_the_queue() -> None:
    async def work(clock: Callable[[], float]) -> tuple[list[float], list[Delta], type[Exception], float]:
        backend = Backend(clock=clock)
        model = BackendModel(backend, requests_per_minute=1, retry=False)
        model._chain = compose([*model._layers()[:2], Limit(1, clock=clock)], model.deltas)
        deltas = []
        for _ in range(3):
            deltas = [delta async for delta in model.agenerate_stream("?", first_token_timeout=5)]

        async def silent(request: Request) -> AsyncGenerator[Delta, None]:
            await asyncio.sleep(1000)
            yield Delta()

        model._chain = compose([*model._layers()[:2], Limit(1, clock=clock)], silent)
        try:
            await model.agenerate("?", first_token_timeout=5)
        except ModelError as error:
            return backend.times, deltas, type(error), clock()
        raise AssertionError("first_token_timeout was not enforced")

    times, deltas, error, when = run_with_fake_clock(work)
    assert [round(at) for at in times] == [0, 60, 120]
    assert [delta.content for delta in deltas] == ["a", None]  # The layers add no deltas of their own.
    assert error is DeadlineExceeded and round(when) == 125
