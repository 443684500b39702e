"""A request counts from the time at which it reaches the service, however busy the event loop is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from modelport.errors import ServerError
from modelport.layers.base import compose
from modelport.layers.limit.layer import Limit
from modelport.layers.limit.shared import SharedDelay
from modelport.layers.limit.window import RateWindow
from modelport.layers.retry import Retry, RetryPolicy
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request

from .clock import run_with_fake_clock
from .limit_backend import Backend, most_in_a_window, request, send


class LateBackend:
    """Sends each request only some time after it was admitted, as on a busy machine, and records when."""

    def __init__(self, clock: Callable[[], float], delays: Iterator[float], *, fails: bool = False) -> None:
        self.clock, self.delays, self.fails = clock, delays, fails
        self.times: list[float] = []

    async def __call__(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        await asyncio.sleep(next(self.delays))
        self.times.append(self.clock())
        if self.fails:
            raise ServerError("busy")
        yield ChatMessageStreamDelta(content="a", finish_reason="stop")


def alternating(count: int) -> Iterator[float]:
    """Return delays of up to 1.5 s for `count` requests, then none for as many, and so on."""
    while True:
        yield from (1.5 * n / count for n in range(count))
        yield from [0.0] * count


def test_limit_counts_a_request_from_its_arrival_and_not_from_its_admission() -> None:
    """Before, 399 requests reached the service in a window of 200."""

    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(requests_per_minute=200, clock=clock), LateBackend(clock, alternating(200))
        await asyncio.gather(*(send(limit, backend) for _ in range(600)))
        return backend.times

    times = sorted(run_with_fake_clock(work))
    assert most_in_a_window(times, 60) == 200
    assert times[-1] < 2 * 61.5 + 1.5  # The limit is used up.


def test_each_attempt_of_a_retry_counts_from_its_arrival() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit = Limit(requests_per_minute=30, clock=clock)
        backend = LateBackend(clock, alternating(30), fails=True)
        retry = Retry(RetryPolicy(attempts=3, base=0.0, budget=None))
        call = compose([retry, limit], backend)

        async def attempt() -> None:
            try:
                async for _ in call(request()):
                    pass
            except ServerError:
                pass

        await asyncio.gather(*(attempt() for _ in range(40)))
        return backend.times

    times = sorted(run_with_fake_clock(work))
    assert len(times) == 120 and most_in_a_window(times, 60) == 30


def test_response_that_begins_late_lowers_the_rate_by_a_thirtieth_at_most() -> None:
    """The service has received the request long before it responds, but nobody can know when."""

    async def work(clock: Callable[[], float]) -> list[float]:
        limit, admitted = Limit(requests_per_minute=1, clock=clock), list[float]()

        async def backend(request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
            admitted.append(clock())
            await asyncio.sleep(30)
            yield ChatMessageStreamDelta(content="a", finish_reason="stop")

        await asyncio.gather(*(send(limit, backend) for _ in range(3)))
        return admitted

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 62, 124]


def test_window_orders_requests_by_their_arrival() -> None:
    window = RateWindow(2, None)
    late, early = window.add(0, 0), window.add(1, 0)
    window.sent(early, 1.25)
    window.sent(late, 1.5)
    window.sent(late, 50)  # Only the first call counts.
    assert (window.delay(10, 0), window.requests_delay(10)) == (51.25, 51.25)
    unsent = window.add(61.25, 0)
    assert window.delay(61.5, 0) == 0  # Both have left.
    assert len(window) == 1
    assert window.delay(63.25, 0) == 0 and unsent.counts_from == 63.25
    other = window.add(63.5, 0)
    window.sent(other, 70)  # It has counted from 65.5 on, which is two seconds after its admission.
    assert (window.delay(70, 0), other.counts_from) == (53.25, 65.5)


class FakeShared:
    """A shared window that responds after some seconds."""

    on_unavailable = "error"

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds
        self.calls: list[tuple[Any, ...]] = []

    async def acquire(
        self, name: str, request_id: str, seconds: float, requests: float | None, tokens: float | None, wanted: int
    ) -> SharedDelay:
        self.calls.append(("acquire", request_id, seconds))
        await asyncio.sleep(self.seconds.pop(0))
        return SharedDelay(0.0)

    async def leave(self, name: str, request_id: str) -> None:
        self.calls.append(("leave", request_id))

    async def correct(self, name: str, request_id: str, tokens: int) -> None:
        raise AssertionError("there is no limit of tokens")


def send_shared(shared: FakeShared) -> list[str]:
    async def work(clock: Callable[[], float]) -> list[str]:
        backend = Backend(clock=clock)
        await send(Limit(requests_per_minute=1, clock=clock, shared=shared), backend)
        return backend.texts

    assert run_with_fake_clock(work) == ["?"]
    assert len({call[1] for call in shared.calls}) == 1
    return [call[0] for call in shared.calls]


def test_shared_window_is_longer_by_the_time_that_sending_may_take() -> None:
    shared = FakeShared([0.0])
    assert send_shared(shared) == ["acquire"]
    assert shared.calls[0][2] == 62


def test_admission_that_the_process_notices_late_is_asked_for_again_but_once() -> None:
    assert send_shared(FakeShared([1.9])) == ["acquire"]
    assert send_shared(FakeShared([5.0, 0.1])) == ["acquire", "leave", "acquire"]
    assert send_shared(FakeShared([5.0, 5.0])) == ["acquire", "leave", "acquire"]
