"""Blocking work for asynchronous callers, in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from modelport.runtime import threads
from modelport.runtime.threads import in_thread, iterate_in_thread
from tests.runtime.calls import wait_until, works_for_a_call

pytestmark = pytest.mark.timeout(30)
Emit = Callable[[Any], bool]


async def test_in_thread_returns_the_result() -> None:
    assert await in_thread(lambda: threading.current_thread().name) == "modelport-call"


@pytest.mark.parametrize("kind", [KeyError, StopIteration, asyncio.CancelledError])
async def test_in_thread_raises_the_error(kind: type[BaseException]) -> None:
    def work() -> None:
        raise kind

    # A future can't hold a StopIteration.
    with pytest.raises(RuntimeError if kind is StopIteration else kind):
        await in_thread(work)


async def test_work_runs_in_a_copy_of_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="default")
    variable.set("caller's")
    assert await in_thread(variable.get) == "caller's"

    def source(emit: Emit) -> None:
        emit(variable.get())
        variable.set("thread's")

    assert [item async for item in iterate_in_thread(source)] == ["caller's"]
    assert variable.get() == "caller's"


async def test_in_thread_runs_a_hundred_pieces_of_work_at_once() -> None:
    """The default executor of the loop has only a few threads. All 100 pieces of work wait for each other."""
    barrier = threading.Barrier(100)
    await asyncio.wait_for(asyncio.gather(*(in_thread(lambda: barrier.wait(20)) for _ in range(100))), 25)


async def test_cancelled_caller_does_not_wait_for_the_work() -> None:
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(20)
        ended.set()
        raise KeyError("nobody retrieves this")

    task = asyncio.create_task(in_thread(work))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    release.set()
    assert await asyncio.to_thread(ended.wait, 5)


def test_work_that_outlives_its_loop_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        release.wait(20)

    async def leave() -> None:
        asyncio.ensure_future(in_thread(work))  # noqa: RUF006
        await asyncio.sleep(0.05)

    asyncio.run(leave())
    release.set()
    wait_until(lambda: not works_for_a_call(threads[0]))
    assert capfd.readouterr().err == ""


# --- items ------------------------------------------------------------------------------------------------------------


async def test_iteration_yields_items_of_any_type_in_order() -> None:
    items = [1, None, (object(), None), "x", (1, 2), Exception("an item"), []]

    def source(emit: Emit) -> None:
        assert [emit(item) for item in items] == [False] * len(items)

    assert [item async for item in iterate_in_thread(source)] == items


async def test_iteration_yields_the_items_before_an_error() -> None:
    def source(emit: Emit) -> None:
        emit(1)
        raise KeyError("mine")

    seen = []
    with pytest.raises(KeyError, match="mine"):
        async for item in iterate_in_thread(source):
            seen.append(item)
    assert seen == [1]


async def test_iteration_yields_an_item_before_the_next_is_made() -> None:
    go_on = threading.Event()

    def source(emit: Emit) -> None:
        emit(1)
        go_on.wait(20)
        emit(2)

    events = iterate_in_thread(source)
    assert await asyncio.wait_for(anext(events), 5) == 1
    go_on.set()
    assert [item async for item in events] == [2]


async def test_source_waits_while_the_most_items_are_unread() -> None:
    emitted: list[int] = []

    def source(emit: Emit) -> None:
        for number in range(100):
            emitted.append(number)
            if emit(number):
                return

    items = iterate_in_thread(source, max_items=4)
    assert await anext(items) == 0
    wait_until(lambda: len(emitted) >= 4)
    await asyncio.sleep(0.05)
    assert len(emitted) <= 5
    assert [item async for item in items] == list(range(1, 100))


async def test_close_ends_a_source_that_waits_for_its_reader() -> None:
    ended = threading.Event()

    def source(emit: Emit) -> None:
        while not emit(1):
            pass
        ended.set()

    items = iterate_in_thread(source, max_items=1)
    await anext(items)
    await items.aclose()
    wait_until(ended.is_set)


async def test_close_makes_emit_return_true() -> None:
    stopped = threading.Event()

    def source(emit: Emit) -> None:
        while not emit(0):
            time.sleep(0.001)
        stopped.set()

    events = iterate_in_thread(source)
    await anext(events)
    await events.aclose()
    assert await asyncio.to_thread(stopped.wait, 5)


async def test_cancelled_reader_does_not_wait_for_the_source() -> None:
    """Its deadline has passed, or another model was faster: the caller must get the result at once."""
    release, ended = threading.Event(), threading.Event()

    def source(emit: Emit) -> None:
        release.wait(20)
        ended.set()

    async def read() -> None:
        async with aclosing(iterate_in_thread(source, patience=30)) as items:
            await anext(items)

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    release.set()
    assert await asyncio.to_thread(ended.wait, 5)


async def test_close_waits_for_the_source_for_its_patience() -> None:
    ended: list[str] = []

    def source(emit: Emit) -> None:
        while not emit(0):
            time.sleep(0.001)
        time.sleep(0.2)
        ended.append("ended")

    for patience, expected in ((5.0, ["ended"]), (0.05, []), (0.0, [])):
        ended.clear()
        events = iterate_in_thread(source, patience=patience)
        await anext(events)
        start = time.monotonic()
        await events.aclose()
        assert ended == expected
        assert time.monotonic() - start < 2
        await asyncio.sleep(0.3)


async def test_cancelled_reader_closes_the_source() -> None:
    ended = threading.Event()

    def source(emit: Emit) -> None:
        emit(0)
        while not emit(None):
            time.sleep(0.001)
        ended.set()

    async def read() -> None:
        async for _ in iterate_in_thread(source, patience=5):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


def test_ending_loop_closes_its_sources_and_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The generators that read the sources are closed at the same moment."""
    ended = threading.Event()
    held = []

    def source(emit: Emit) -> None:
        while not emit(0):
            time.sleep(0.001)
        time.sleep(0.1)
        ended.set()

    async def outer() -> Any:
        inner = iterate_in_thread(source, patience=5)
        try:
            async for item in inner:
                yield item
        finally:
            await inner.aclose()

    async def leave() -> None:
        for generator in (outer(), outer(), outer()):
            held.append(generator)
            await anext(generator)

    asyncio.run(leave())
    assert ended.wait(5)
    assert capfd.readouterr().err == ""


async def test_slow_source_does_not_block_the_loop() -> None:
    def source(emit: Emit) -> None:
        time.sleep(0.3)
        emit(1)

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    assert [item async for item in iterate_in_thread(source)] == [1]
    ticker.cancel()
    assert ticks > 5


async def test_idle_thread_does_the_next_work() -> None:
    first = await in_thread(threading.get_ident)
    await asyncio.sleep(0.05)  # The result arrives a moment before the thread is idle again.
    assert await in_thread(threading.get_ident) == first


async def test_idle_thread_ends_after_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    threads._pool.idle.clear()
    monkeypatch.setattr(threads._pool, "idle_timeout", 0.01)
    thread = await in_thread(threading.current_thread)
    await asyncio.sleep(0.2)
    assert not thread.is_alive()
    assert not threads._pool.idle
    assert await in_thread(lambda: 4) == 4


async def test_idle_thread_holds_no_reference_to_its_last_work() -> None:
    class Large:
        pass

    held = Large()
    reference = weakref.ref(held)
    await in_thread(lambda held=held: None)  # type: ignore[misc]
    del held
    await asyncio.sleep(0.05)
    assert reference() is None


async def test_idle_thread_of_a_pool_without_timeout_does_not_end() -> None:
    pool = threads.ThreadPool("test-working", "test-idle", idle_timeout=None)
    names: list[str] = []

    def work() -> None:
        names.append(threading.current_thread().name)
        done.set()

    for _ in range(2):
        done = threading.Event()
        pool.start(work)
        assert await asyncio.to_thread(done.wait, 5)
        await asyncio.sleep(0.05)
    assert names == ["test-working"] * 2
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("test-")] == ["test-idle"]
    assert len(pool.idle) == 1
