"""Rate limits: no window holds more than the limit, waiters go in order, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelport import layers
from modelport.errors import DeadlineExceeded, InvalidRequest, ModelError, ServerError
from modelport.layers.limit.layer import WINDOW, Limit
from modelport.model import Model
from modelport.runtime.threads import iterate_in_thread
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

from .clock import run_with_fake_clock

Delta = ChatMessageStreamDelta


def request(text: str = "?", **parameters: Any) -> Request:
    return Request((ChatMessage(MessageRole.USER, text),), parameters=parameters)


class Backend:
    """Takes its time, and notes when each request came and how many were under way."""

    def __init__(
        self, takes: float = 0.0, usage: TokenUsage | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.takes, self.usage, self.clock = takes, usage, clock
        self.came: list[float] = []
        self.texts: list[str] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    async def __call__(self, request: Request) -> AsyncGenerator[Delta, None]:
        with self._lock:
            self.came.append(self.clock())
            self.texts.append(request.messages[0].text)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            yield Delta(content="a")
            await asyncio.sleep(self.takes)
            yield Delta(finish_reason="stop", token_usage=self.usage)
        finally:
            with self._lock:
                self.running -= 1


async def ask(limit: Limit, backend: layers.Next, asked: Request | None = None) -> None:
    async for _ in limit(asked or request(), backend):
        pass


def most_in_a_window(times: Sequence[float], window: float) -> int:
    return max(sum(start <= t < start + window for t in times) for start in times)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in other threads
            await asyncio.sleep(0.001)


# --- requests per minute ----------------------------------------------------------------------------------------------


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.integers(1, 5), st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=25))
@example(3, [0.0] * 12)
@example(2, [0.0, 30.0, 59.999, 60.0, 60.001, 119.0])  # A counter that is reset each minute lets 4 of these through.
def test_no_window_of_60_seconds_holds_more_requests_than_the_limit(rate: int, arrivals: list[float]) -> None:
    async def work(clock: Callable[[], float]) -> Backend:
        limit, backend = Limit(requests_per_minute=rate, clock=clock), Backend(clock=clock)

        async def arrive(at: float) -> None:
            await asyncio.sleep(at)
            await ask(limit, backend)

        await asyncio.gather(*map(arrive, arrivals))
        return backend

    came = run_with_fake_clock(work).came
    assert len(came) == len(arrivals)
    assert most_in_a_window(came, WINDOW) <= rate
    # And nobody waits without need: each goes when it arrives, or when the request `rate` before it is 60 s old.
    for n, (at, arrived) in enumerate(zip(came, sorted(arrivals), strict=True)):
        assert at <= max(arrived, came[n - rate] + WINDOW if n >= rate else 0) + 0.01


def test_a_burst_up_to_the_limit_goes_at_once_and_the_rest_when_the_window_has_passed() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(requests_per_minute=5, clock=clock), Backend(clock=clock)
        await asyncio.gather(*(ask(limit, backend) for _ in range(12)))
        return backend.came

    assert [round(at) for at in run_with_fake_clock(work)] == [0] * 5 + [60] * 5 + [120] * 2


class Counting(Model):
    """A model over a `Backend`."""

    def __init__(self, backend: Backend, **settings: Any) -> None:
        super().__init__("counting", **settings)
        self.backend = backend

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        async for delta in self.backend(request):
            yield delta


def call_from_everywhere(model: Model, calls: int) -> None:
    """A first call, then `calls` each from two threads' sync calls and from many tasks on two loops of their own."""

    def one_after_another() -> None:
        for n in range(calls):
            model.generate("?") if n % 2 else list(model.generate_stream("?"))

    async def all_at_once() -> None:
        await asyncio.gather(*(model.agenerate("?") for _ in range(calls)))

    model.generate("?")
    callers = [threading.Thread(target=one_after_another, daemon=True) for _ in range(2)]
    callers += [threading.Thread(target=lambda: asyncio.run(all_at_once()), daemon=True) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
        assert not caller.is_alive(), "a waiter was never woken"


def test_threads_and_tasks_of_several_loops_share_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.layers.limit.layer.WINDOW", 0.3)
    backend = Backend()
    call_from_everywhere(Counting(backend, requests_per_minute=8), calls=8)
    assert len(backend.came) == 33
    # A thread may be late between the gate and the backend, hence the smaller window.
    assert most_in_a_window(sorted(backend.came), 0.3 - 0.1) <= 8
    assert max(backend.came) - min(backend.came) < 0.3 * 4 + 0.5


# --- concurrency ------------------------------------------------------------------------------------------------------


def test_max_concurrency_holds_over_threads_and_tasks() -> None:
    backend = Backend(takes=0.005)
    call_from_everywhere(Counting(backend, max_concurrency=3), calls=10)
    assert (len(backend.came), backend.most, backend.running) == (41, 3, 0)


@pytest.mark.parametrize("limits", [{"max_concurrency": 1}, {"requests_per_minute": 1}], ids=str)
def test_a_last_place_is_taken_once(limits: dict[str, int]) -> None:
    """A thread may be held up at any moment: here whenever it has let go of the lock, while another comes in."""
    limit, backend = Limit(**limits), Backend(takes=0.4)
    inner, others = limit._lock, [threading.Thread(target=lambda: asyncio.run(briefly()), daemon=True)]

    async def briefly() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await ask(limit, backend)

    class HeldUp:
        def __enter__(self) -> None:
            inner.acquire()

        def __exit__(self, *_: object) -> None:
            inner.release()
            if others:
                others.pop().start()
                time.sleep(0.2)

    limit._lock = HeldUp()  # type: ignore[assignment]
    asyncio.run(ask(limit, backend))
    assert backend.most == 1
    assert len(backend.came) == 1 or "max_concurrency" in limits


async def test_waiters_go_in_the_order_in_which_they_came() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    await asyncio.gather(*(ask(limit, backend, request(str(n))) for n in range(20)))
    assert backend.texts == [str(n) for n in range(20)]


async def test_waiters_of_several_loops_go_in_order_too() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    threads = []
    for n in range(6):
        asking = ask(limit, backend, request(str(n)))
        threads.append(threading.Thread(target=asyncio.run, args=(asking,), daemon=True))
        threads[-1].start()
        await until(lambda n=n: len(limit._queue) == n + 1)
    late = asyncio.create_task(ask(limit, backend, request("late")))
    await asyncio.sleep(0)
    await first.aclose()
    await late
    for thread in threads:
        thread.join(5)
    assert backend.texts == ["first", *map(str, range(6)), "late"]


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    waiting = asyncio.create_task(ask(limit, backend, request("waiting")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(first.aclose())
    newcomer = asyncio.create_task(ask(limit, backend, request("newcomer")))
    await asyncio.gather(closing, waiting, newcomer)
    assert backend.texts == ["first", "waiting", "newcomer"]


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_waiter_frees_its_place() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    cancelled = asyncio.create_task(ask(limit, backend, request("cancelled")))
    behind = asyncio.create_task(ask(limit, backend, request("behind")))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.sleep(0.01)
    await first.aclose()
    await asyncio.wait_for(behind, 1)
    assert backend.texts == ["first", "behind"]


async def test_a_waiter_cancelled_just_when_it_is_woken_wakes_the_next() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    woken = asyncio.create_task(ask(limit, backend, request("woken")))
    behind = asyncio.create_task(ask(limit, backend, request("behind")))
    await asyncio.sleep(0.01)
    await first.aclose()  # Its place is now meant for `woken`, which has not run yet.
    woken.cancel()
    await asyncio.wait_for(behind, 1)
    assert backend.texts == ["first", "behind"]


def test_a_cancelled_waiter_for_a_window_hands_its_turn_on() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(requests_per_minute=1, clock=clock), Backend(clock=clock)
        await ask(limit, backend)
        cancelled = asyncio.create_task(ask(limit, backend))
        behind = asyncio.create_task(ask(limit, backend))
        await asyncio.sleep(10)
        cancelled.cancel()
        await behind
        return backend.came

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 60]


@pytest.mark.parametrize("behind", ["before", "after"])
def test_a_loop_that_was_closed_under_its_waiter_blocks_nobody(behind: str) -> None:
    """Whether those behind it come before its loop is closed or after."""
    limit, backend = Limit(max_concurrency=1), Backend()

    async def first_then_last() -> None:
        first = limit(request("first"), backend)
        await anext(first)
        await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(0.01))
        if behind == "after":
            loop.close()
        last = asyncio.create_task(ask(limit, backend, request("last")))
        await asyncio.sleep(0.01)
        loop.close()
        await first.aclose()
        await asyncio.wait_for(last, 1)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    lost = loop.create_task(ask(limit, backend, request("lost")))
    asyncio.run(first_then_last())
    assert backend.texts == ["first", "last"]
    assert not lost.done()


async def _fails(request: Request) -> AsyncGenerator[Delta, None]:
    raise ServerError("no")
    yield Delta()


async def test_a_place_is_free_again_after_an_error_a_cancellation_and_an_early_close() -> None:
    limit, backend = Limit(max_concurrency=1), Backend(takes=60)
    with pytest.raises(ServerError):
        await ask(limit, _fails)

    task = asyncio.create_task(ask(limit, backend))
    await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    stream = limit(request(), backend)
    await anext(stream)
    await stream.aclose()

    await asyncio.wait_for(ask(limit, Backend()), 1)
    assert backend.running == len(limit._running) == 0


def _stopped_at(work: Any) -> asyncio.AbstractEventLoop:
    """A loop that began the work and then stands still."""
    loop = asyncio.new_event_loop()
    loop.task = loop.create_task(work)  # type: ignore[attr-defined]
    loop.run_until_complete(asyncio.sleep(0.01))
    return loop


async def _end(loop: asyncio.AbstractEventLoop) -> None:
    await asyncio.to_thread(loop.run_until_complete, loop.task)  # type: ignore[attr-defined]
    loop.close()


async def test_waiters_whose_loops_stand_still_are_passed_over_until_they_move_again() -> None:
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    still = [await asyncio.to_thread(_stopped_at, ask(limit, backend, request(f"still {n}"))) for n in range(3)]
    behind = [asyncio.create_task(ask(limit, backend, request(f"behind {n}"))) for n in range(2)]
    await asyncio.sleep(0.01)
    await first.aclose()
    await asyncio.wait_for(asyncio.gather(*behind), 4)
    second = limit(request("second"), backend)
    await anext(second)
    late = asyncio.create_task(ask(limit, backend, request("late")))
    await asyncio.sleep(0.01)
    moving = asyncio.create_task(_end(still[0]))
    await until(lambda: limit._first(time.monotonic()) is limit._queue[0])
    await second.aclose()
    await asyncio.gather(moving, late)
    for loop in still[1:]:
        await _end(loop)
    behind_it = ["second", "still 0", "late", "still 1", "still 2"]
    assert backend.texts == ["first", "behind 0", "behind 1", *behind_it]


async def test_a_loop_that_was_busy_for_long_loses_no_time_of_its_own() -> None:
    """Its waiters are late by then; nobody else has taken their turn."""
    limit, backend = Limit(max_concurrency=1), Backend()
    first = limit(request("first"), backend)
    await anext(first)
    waiting = [asyncio.create_task(ask(limit, backend, request(str(n)))) for n in range(3)]
    await asyncio.sleep(0.01)
    await first.aclose()
    time.sleep(2.5)  # noqa: ASYNC251 - that is the point
    await asyncio.wait_for(asyncio.gather(*waiting), 0.5)
    assert backend.texts == ["first", "0", "1", "2"]


async def test_nor_does_one_that_stands_still_while_it_asks_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it moves again, with a place among theirs, it does not go above the limit of its own process."""
    monkeypatch.setattr("modelport.layers.limit.layer._ASKING", 0.2)

    class Shared:
        on_unavailable = "error"
        takes = 0.1

        async def take(self, *_: Any) -> float:
            takes, self.takes = self.takes, 0.0
            await asyncio.sleep(takes)
            return 0.0

        async def correct(self, *_: Any) -> None:
            pass

    limit, backend = Limit(requests_per_minute=100, max_concurrency=1, shared=Shared()), Backend()
    still = await asyncio.to_thread(_stopped_at, ask(limit, backend, request("still")))
    stream = limit(request("stream"), backend)
    await asyncio.wait_for(anext(stream), 4)
    moving = asyncio.create_task(_end(still))
    await asyncio.sleep(0.3)
    assert backend.texts == ["stream"]
    await stream.aclose()
    await moving
    assert (backend.texts, backend.most) == (["stream", "still"], 1)


async def test_many_waiters_look_by_themselves_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, looks = Limit(max_concurrency=1), 0
    stream = limit(request(), Backend())
    await anext(stream)
    first = limit._first

    def counted(now: float) -> Any:
        nonlocal looks
        looks += 1
        return first(now)

    monkeypatch.setattr(limit, "_first", counted)
    monkeypatch.setattr("modelport.layers.limit.layer._LOOK", 0.05)
    monkeypatch.setattr("modelport.layers.limit.layer._LOOKS", 1000)
    waiting = [asyncio.create_task(ask(limit, Backend())) for _ in range(500)]
    await asyncio.sleep(1)
    assert looks < 500 + 2500
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await stream.aclose()


def test_a_stream_that_is_dropped_on_a_loop_that_is_no_more_frees_its_place() -> None:
    limit, backend = Limit(max_concurrency=1), Backend(takes=60)
    loop = asyncio.new_event_loop()
    stream = limit(request(), backend)

    async def begin() -> None:
        await anext(stream)

    loop.run_until_complete(begin())
    loop.close()

    async def drop_and_ask() -> None:
        nonlocal stream
        waiting = asyncio.create_task(ask(limit, Backend()))
        await asyncio.sleep(0.01)
        del stream
        gc.collect()
        await asyncio.wait_for(waiting, 3)

    asyncio.run(drop_and_ask())


# --- work that goes on ------------------------------------------------------------------------------------------------


class Blocking(Model):
    """Writes just `generate`, which nothing can end."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("blocking", retry=False, **settings)
        self.running = self.most = self.calls = 0
        self.begun, self.release, self._lock = threading.Event(), threading.Event(), threading.Lock()

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.set()
        try:
            self.release.wait(20)
        finally:
            with self._lock:
                self.running -= 1
        return "done"


async def test_a_call_that_was_cancelled_keeps_its_place_until_its_thread_is_done() -> None:
    model = Blocking(max_concurrency=1)
    left = asyncio.create_task(model.agenerate("?"))
    await until(model.begun.is_set)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(left, 1)
    second = asyncio.create_task(model.agenerate("?"))
    await asyncio.sleep(0.2)
    assert model.calls == 1
    model.release.set()
    assert (await asyncio.wait_for(second, 5)).content == "done"
    assert (model.calls, model.most) == (2, 1)


async def test_a_call_whose_time_is_up_keeps_it_too_in_whichever_thread() -> None:
    for ask_it in (
        lambda model: model.agenerate("?", timeout=0.2),
        lambda model: asyncio.to_thread(list, model.generate_stream("?", timeout=0.2)),
    ):
        model = Blocking(max_concurrency=1)
        late = asyncio.create_task(ask_it(model))
        await until(model.begun.is_set)
        await asyncio.sleep(0.4)
        second = asyncio.create_task(model.agenerate("?"))
        await asyncio.sleep(0.2)
        assert model.calls == 1
        model.release.set()
        assert (await asyncio.wait_for(second, 5)).content == "done"
        with pytest.raises(DeadlineExceeded):
            await late
        assert (model.calls, model.most) == (2, 1)


async def test_a_stream_that_was_closed_keeps_its_place_until_its_thread_is_done() -> None:
    """As a synchronous client's is, which waits for the next event."""
    limit, release = Limit(max_concurrency=1), threading.Event()

    def emitting(emit: Callable[[Delta], bool]) -> None:
        emit(Delta(content="a"))
        release.wait(20)

    stream = limit(request(), lambda request: iterate_in_thread(emitting))
    await anext(stream)
    await stream.aclose()
    second = asyncio.create_task(ask(limit, Backend()))
    await asyncio.sleep(0.2)
    assert not second.done()
    release.set()
    await asyncio.wait_for(second, 1)
    assert len(limit._running) == 0


def test_a_call_that_was_over_before_its_work_began_does_none() -> None:
    """Here the thread that is to do it is busy with another model's work until then."""
    inner = Blocking(max_concurrency=1)
    inner.release.set()

    class Outer(Model):
        async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
            from modelport.runtime.portal import in_callers_thread

            busy = in_callers_thread(lambda: time.sleep(0.5))
            assert busy is not None
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await inner.agenerate("?")
            await busy
            yield Delta(content="a", finish_reason="stop")

    assert Outer("outer").generate("?").content == "a"
    assert inner.calls == 0
    assert asyncio.run(inner.agenerate("?")).content == "done"


# --- tokens per minute ------------------------------------------------------------------------------------------------


def times_with_tokens(
    limit_of: Callable[[Callable[[], float]], Limit], asked: list[Request], usage: TokenUsage | None, takes: float = 0.0
) -> list[int]:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = limit_of(clock), Backend(takes, usage, clock)
        await asyncio.gather(*(ask(limit, backend, one) for one in asked))
        return backend.came

    return [round(at) for at in run_with_fake_clock(work)]


def test_requests_count_by_an_estimate_until_their_usage_is_known() -> None:
    # 20 bytes of prompt make 11 tokens, with max_tokens=39 it is 50: two fit into 100 at once, and the third waits …
    asked = [request("x" * 20, max_tokens=39)] * 3
    assert times_with_tokens(lambda clock: Limit(tokens_per_minute=100, clock=clock), asked, None) == [0, 0, 60]
    # … until the first two, 7 s later, turn out to have cost 10 each.
    cheap = TokenUsage(8, 2)
    assert times_with_tokens(lambda clock: Limit(tokens_per_minute=100, clock=clock), asked, cheap, 7) == [0, 0, 7]


def test_tokens_that_were_spent_count_in_full() -> None:
    dear = TokenUsage(30, 70)
    asked = [request("x", max_tokens=10)] * 3

    # All three fit by estimate; a fourth, asked for later, meets what they really cost.
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(tokens_per_minute=310, clock=clock), Backend(usage=dear, clock=clock)
        await asyncio.gather(*(ask(limit, backend, one) for one in asked))
        await asyncio.sleep(1)
        await ask(limit, backend, asked[0])
        return backend.came

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 0, 0, 60]


def test_an_unknown_length_is_estimated_by_the_longest_answer_seen() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(tokens_per_minute=2000, clock=clock), Backend(usage=TokenUsage(1, 300), clock=clock)
        await ask(limit, backend)  # Before any answer 1024 tokens are set aside; this one takes 300.
        await asyncio.gather(*(ask(limit, backend) for _ in range(6)))
        return backend.came

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 0, 0, 0, 0, 0, 60]


def test_a_prompt_above_the_limit_goes_alone_in_its_window() -> None:
    asked = [request("x" * 1000, max_tokens=10), request("x", max_tokens=10)]
    assert times_with_tokens(lambda clock: Limit(tokens_per_minute=100, clock=clock), asked, None) == [0, 60]


async def test_max_tokens_above_the_limit_is_refused_with_a_reason() -> None:
    backend = Backend()
    with pytest.raises(InvalidRequest, match=r"max_tokens=101 is above tokens_per_minute=100"):
        await ask(Limit(tokens_per_minute=100), backend, request(max_tokens=101))
    assert backend.came == []


# --- the object -------------------------------------------------------------------------------------------------------


def test_a_limit_with_nothing_to_do_is_not_on_the_way() -> None:
    deltas: Any = object()
    assert Limit()(request(), lambda request: deltas) is deltas


@pytest.mark.parametrize("value", [0, -1, 0.5, True, "3", float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute", "max_concurrency"])
def test_limits_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Limit(**{name: value})


def test_no_half_a_request_is_under_way() -> None:
    with pytest.raises(InvalidRequest, match=r"max_concurrency=1\.5: must be a whole number"):
        Limit(max_concurrency=1.5)  # type: ignore[arg-type]


async def test_a_pickled_limit_starts_afresh() -> None:
    limit, backend = Limit(requests_per_minute=1, max_concurrency=1), Backend(takes=60)
    stream = limit(request(), backend)
    await anext(stream)
    twin = pickle.loads(pickle.dumps(limit))
    assert (twin.requests_per_minute, twin.tokens_per_minute, twin.max_concurrency) == (1, None, 1)
    await asyncio.wait_for(ask(twin, Backend()), 1)
    await stream.aclose()


def test_a_forked_child_is_not_held_up_by_what_the_parent_was_doing() -> None:
    limit = Limit(max_concurrency=1)
    busy = limit(request(), Backend(takes=60))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(busy))
    with limit._lock:  # As if another thread were just passing the gate.
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            try:
                asyncio.run(ask(limit, Backend()))
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(limit._running) == 1  # The parent's own account is as it was.
    loop.run_until_complete(busy.aclose())
    loop.close()


def test_no_time_to_the_first_token_is_counted_in_the_queue() -> None:
    async def work(clock: Callable[[], float]) -> tuple[list[float], list[Delta], type[Exception], float]:
        backend = Backend(clock=clock)
        model = Counting(backend, requests_per_minute=1, retry=False)
        model._chain = layers.compose([*model._layers()[:2], Limit(1, clock=clock)], model.deltas)
        deltas = []
        for _ in range(3):
            deltas = [delta async for delta in model.agenerate_stream("?", first_token_timeout=5)]

        async def silent(request: Request) -> AsyncGenerator[Delta, None]:
            await asyncio.sleep(1000)
            yield Delta()

        model._chain = layers.compose([*model._layers()[:2], Limit(1, clock=clock)], silent)
        try:
            await model.agenerate("?", first_token_timeout=5)
        except ModelError as error:
            return backend.came, deltas, type(error), clock()
        raise AssertionError("the limit was not kept")

    came, deltas, error, when = run_with_fake_clock(work)
    assert [round(at) for at in came] == [0, 60, 120]
    assert [delta.content for delta in deltas] == ["a", None]  # nothing of the layers' own reaches the caller
    assert error is DeadlineExceeded and round(when) == 125
