"""The queue of calls that wait for a limit: they go in order, and none that is cancelled or halted blocks another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from modelport.layers.limit import queue
from modelport.layers.limit.layer import Limit
from modelport.layers.limit.queue import WaiterQueue
from modelport.layers.limit.shared import SharedDelay

from .clock import run_with_fake_clock
from .limit_backend import Backend, request, send, wait_until

# --- WaiterQueue ------------------------------------------------------------------------------------------------------


class FakeWaiter:
    """A waiter without an event loop."""

    def __init__(self, check_due: float = 100.0, *, is_loop_closed: bool = False, can_be_woken: bool = True) -> None:
        self.check_due, self.is_loop_closed, self.can_be_woken = check_due, is_loop_closed, can_be_woken
        self.woken = 0

    def wake(self, now: float) -> bool:
        self.woken += self.can_be_woken
        return self.can_be_woken


def queue_of(*waiters: FakeWaiter) -> WaiterQueue:
    return WaiterQueue(waiters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("waiters", "now", "first"),
    [
        pytest.param([], 0, None, id="an empty queue"),
        pytest.param([FakeWaiter(10), FakeWaiter(10)], 0, 0, id="the first of two"),
        pytest.param([FakeWaiter(10), FakeWaiter(20)], 11, 0, id="a second late is not late"),
        pytest.param([FakeWaiter(10), FakeWaiter(20)], 11.1, 1, id="the loop of the first stands still"),
        pytest.param([FakeWaiter(10), FakeWaiter(10)], 12, None, id="all loops stand still"),
        pytest.param([FakeWaiter(is_loop_closed=True), FakeWaiter()], 0, 1, id="the loop of the first is closed"),
        pytest.param([FakeWaiter(10), FakeWaiter(is_loop_closed=True), FakeWaiter()], 20, 2, id="both"),
    ],
)
def test_queue_first_skips_waiters_whose_loop_does_not_run(
    waiters: list[FakeWaiter], now: float, first: int | None
) -> None:
    assert queue_of(*waiters).first(now) is (None if first is None else waiters[first])


def test_queue_first_returns_a_late_waiter_again_when_its_loop_runs() -> None:
    late, other = FakeWaiter(10), FakeWaiter(100)
    waiting = queue_of(late, other)
    assert waiting.first(20) is other
    late.check_due = 20
    assert waiting.first(20) is late


def test_queue_wake_first_wakes_only_the_first() -> None:
    first, second = FakeWaiter(), FakeWaiter()
    waiting = queue_of(first, second)
    waiting.wake_first(0)
    assert (first.woken, second.woken, len(waiting)) == (1, 0, 2)
    queue_of().wake_first(0)


def test_queue_wake_first_removes_waiters_that_cannot_be_woken() -> None:
    """The loop may be closed after `is_loop_closed` was read."""
    lost, next_one = FakeWaiter(can_be_woken=False), FakeWaiter()
    waiting = queue_of(lost, next_one)
    waiting.wake_first(0)
    assert ([*waiting], next_one.woken) == ([next_one], 1)


@pytest.mark.parametrize(("waiting", "seconds"), [(1, 1.0), (100, 1.0), (1000, 10.0)])
def test_queue_poll_interval_bounds_the_polls_of_all_waiters(waiting: int, seconds: float) -> None:
    assert queue_of(*[FakeWaiter()] * waiting).poll_interval() == seconds


# --- the order --------------------------------------------------------------------------------------------------------


async def test_limit_sends_waiting_requests_in_the_order_of_their_arrival() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    await asyncio.gather(*(send(limit, backend, request(str(n))) for n in range(20)))
    assert backend.texts == [str(n) for n in range(20)]


async def test_limit_keeps_the_order_across_event_loops() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    threads = []
    for n in range(6):
        sending = send(limit, backend, request(str(n)))
        threads.append(threading.Thread(target=asyncio.run, args=(sending,), daemon=True))
        threads[-1].start()
        await wait_until(lambda n=n: len(limit._queue) == n + 1)  # type: ignore[misc]
    late = asyncio.create_task(send(limit, backend, request("late")))
    await asyncio.sleep(0)
    await first.aclose()
    await late
    for thread in threads:
        thread.join(5)
    assert backend.texts == ["first", *map(str, range(6)), "late"]


async def test_new_request_does_not_overtake_waiting_requests() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    waiting = asyncio.create_task(send(limit, backend, request("waiting")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(first.aclose())
    new = asyncio.create_task(send(limit, backend, request("new")))
    await asyncio.gather(closing, waiting, new)
    assert backend.texts == ["first", "waiting", "new"]


# --- cancelled waiters ------------------------------------------------------------------------------------------------


async def test_cancelled_waiter_leaves_the_queue(without_polls: None) -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    cancelled = asyncio.create_task(send(limit, backend, request("cancelled")))
    behind = asyncio.create_task(send(limit, backend, request("behind")))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.sleep(0.01)
    await first.aclose()
    await asyncio.wait_for(behind, 20)
    assert backend.texts == ["first", "behind"]


async def test_waiter_that_is_cancelled_when_it_is_woken_wakes_the_next(without_polls: None) -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    woken = asyncio.create_task(send(limit, backend, request("woken")))
    behind = asyncio.create_task(send(limit, backend, request("behind")))
    await asyncio.sleep(0.01)
    await first.aclose()  # This wakes `woken`, which has not run yet.
    woken.cancel()
    await asyncio.wait_for(behind, 20)
    assert backend.texts == ["first", "behind"]


def test_cancelled_waiter_for_the_window_wakes_the_next() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(requests_per_minute=1, clock=clock), Backend(clock=clock)
        await send(limit, backend)
        cancelled = asyncio.create_task(send(limit, backend))
        behind = asyncio.create_task(send(limit, backend))
        await asyncio.sleep(10)
        cancelled.cancel()
        await behind
        return backend.times

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 60]


# --- event loops that are closed or stand still -----------------------------------------------------------------------


@pytest.mark.parametrize("joined", ["before", "after"])
def test_waiter_whose_loop_is_closed_blocks_no_other(joined: str, without_polls: None) -> None:
    """The waiter behind it joined either before its loop was closed or after."""
    limit, backend = Limit(max_concurrency=1), Backend()

    async def first_then_last() -> None:
        first = limit(request("first"), backend)
        await anext(first)
        await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.01))
        if joined == "after":
            loop.close()
        last = asyncio.create_task(send(limit, backend, request("last")))
        await asyncio.sleep(0.01)
        loop.close()
        await first.aclose()
        await asyncio.wait_for(last, 20)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    lost = loop.create_task(send(limit, backend, request("lost")))
    asyncio.run(first_then_last())
    assert backend.texts == ["first", "last"]
    assert not lost.done()


def _halted_loop(work: Any) -> asyncio.AbstractEventLoop:
    """Return a loop that has started the work and then stands still."""
    loop = asyncio.new_event_loop()
    loop.task = loop.create_task(work)  # type: ignore[attr-defined]
    loop.run_until_complete(asyncio.sleep(0.01))
    return loop


async def _run_to_end(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.to_thread(loop.run_until_complete, loop.task)  # type: ignore[attr-defined]
    loop.close()


async def test_waiters_whose_loops_stand_still_are_skipped_until_their_loops_run() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    halted = [await asyncio.to_thread(_halted_loop, send(limit, backend, request(f"halted {n}"))) for n in range(3)]
    behind = [asyncio.create_task(send(limit, backend, request(f"behind {n}"))) for n in range(2)]
    await asyncio.sleep(0.01)
    await first.aclose()
    await asyncio.wait_for(asyncio.gather(*behind), 20)
    second = limit(request("second"), backend)
    await anext(second)
    late = asyncio.create_task(send(limit, backend, request("late")))
    await asyncio.sleep(0.01)
    running = asyncio.create_task(_run_to_end(halted[0]))
    await wait_until(lambda: limit._queue.first(time.monotonic()) is limit._queue[0])
    await second.aclose()
    await asyncio.gather(running, late)
    for loop in halted[1:]:
        await _run_to_end(loop)
    afterwards = ["second", "halted 0", "late", "halted 1", "halted 2"]
    assert backend.texts == ["first", "behind 0", "behind 1", *afterwards]


async def test_waiters_of_a_loop_that_was_busy_go_as_soon_as_it_runs(without_polls: None) -> None:
    """Its waiters are late by then, but no other has gone in their place."""
    now = 0.0
    limit, backend = Limit(max_concurrency=1, clock=lambda: now), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    waiting = [asyncio.create_task(send(limit, backend, request(str(n)))) for n in range(3)]
    await asyncio.sleep(0.01)
    await first.aclose()
    now += 2.5  # The loop is busy: no task has run since the first waiter was woken.
    await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert backend.texts == ["first", "0", "1", "2"]


async def test_loop_that_stands_still_while_it_asks_a_shared_window_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its loop runs again, the shared window has admitted its request, but no slot of the process is free."""
    monkeypatch.setattr("modelport.layers.limit.layer.SHARED_RESPONSE_SECONDS", 0.2)

    class Shared:
        on_unavailable = "error"
        seconds = 0.1

        async def acquire(self, *_: Any) -> SharedDelay:
            seconds, self.seconds = self.seconds, 0.0
            await asyncio.sleep(seconds)
            return SharedDelay(0.0)

        async def leave(self, *_: Any) -> None:
            pass

        async def correct(self, *_: Any) -> None:
            pass

    limit, backend = Limit(requests_per_minute=100, max_concurrency=1, shared=Shared()), Backend()
    halted = await asyncio.to_thread(_halted_loop, send(limit, backend, request("halted")))
    stream = limit(request("stream"), backend)
    await asyncio.wait_for(anext(stream), 20)
    running = asyncio.create_task(_run_to_end(halted))
    await asyncio.sleep(0.3)
    assert backend.texts == ["stream"]
    await stream.aclose()
    await running
    assert (backend.texts, backend.most_running) == (["stream", "halted"], 1)


async def test_many_waiters_poll_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0
    first = WaiterQueue.first

    def counting_first(self: WaiterQueue, now: float) -> Any:
        nonlocal checks
        checks += 1
        return first(self, now)

    limit = Limit(max_concurrency=1)
    stream = limit(request(), Backend())
    await anext(stream)
    monkeypatch.setattr(WaiterQueue, "first", counting_first)
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(queue, "MAX_POLLS_PER_SECOND", 1000)
    waiting = [asyncio.create_task(send(limit, Backend())) for _ in range(500)]
    await asyncio.sleep(1)
    assert checks < 500 + 2500
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await stream.aclose()
