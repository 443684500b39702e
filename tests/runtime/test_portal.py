"""The portal: results and errors of calls, work for the caller's thread, and iterations."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from modelport.runtime import portal
from modelport.runtime.portal import SyncIteration, in_callers_thread, run

pytestmark = pytest.mark.timeout(30)


async def numbers(count: int, log: list[str] | None = None, pause: float = 0.0) -> AsyncGenerator[int, None]:
    try:
        for number in range(count):
            await asyncio.sleep(pause)
            yield number
    finally:
        await asyncio.sleep(0)
        if log is not None:
            log.append("closed")


def test_run_returns_the_result() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    assert run(work()) == "modelport"


def test_run_raises_the_error_itself() -> None:
    async def work() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        run(work())
    assert any(frame.name == "work" for frame in caught.traceback)


def test_run_of_a_task_that_cancels_itself_raises() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        run(work())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_system_exit_in_a_task_ends_only_its_own_call(kind: type[BaseException]) -> None:
    """A backend that calls sys.exit() ends neither the loop nor the calls of others."""
    started = threading.Event()
    others: list[str] = []

    async def other() -> str:
        started.set()
        await asyncio.sleep(0.2)
        return "done"

    thread = threading.Thread(target=lambda: others.append(run(other())))
    thread.start()
    assert started.wait(5)

    async def leave() -> None:
        raise kind(3)

    with pytest.raises(kind):
        run(leave())
    thread.join(5)
    assert others == ["done"]
    assert list(iterate(numbers(3))) == [0, 1, 2]


def test_run_uses_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="default")

    async def work() -> str:
        seen = variable.get()
        variable.set("task's")
        return seen

    variable.set("caller's")
    assert run(work()) == "caller's"
    assert variable.get() == "caller's"


def test_run_on_the_loop_thread_raises() -> None:
    async def inner() -> None:
        raise AssertionError("this must not start")

    async def work() -> None:
        run(inner())

    with pytest.raises(RuntimeError, match="agenerate"):
        run(work())


def test_run_from_fifty_threads_returns_every_result() -> None:
    results: list[int] = []

    async def work(number: int) -> int:
        await asyncio.sleep(0.01)
        return number

    threads = [threading.Thread(target=lambda n=n: results.append(run(work(n)))) for n in range(50)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == list(range(50))


# --- work for the caller's thread -------------------------------------------------------------------------------------


async def run_in_caller(work: Any) -> Any:
    future = in_callers_thread(work)
    return None if future is None else await future


def test_caller_work_runs_in_the_callers_thread() -> None:
    assert run(run_in_caller(threading.get_ident)) == threading.get_ident()

    async def stream() -> AsyncGenerator[int, None]:
        for _ in range(3):
            yield await run_in_caller(threading.get_ident)

    assert set(iterate(stream())) == {threading.get_ident()}


def test_caller_work_may_make_calls() -> None:
    assert (
        run(run_in_caller(lambda: run(run_in_caller(lambda: run(run_in_caller(threading.get_ident))))))
        == threading.get_ident()
    )


def test_caller_work_of_an_async_caller_is_refused() -> None:
    assert asyncio.run(run_in_caller(threading.get_ident)) is None


def test_error_of_caller_work_is_raised_in_the_task() -> None:
    """The task may handle the error."""

    def fails() -> None:
        raise KeyError("mine")

    async def handles() -> str:
        with pytest.raises(KeyError):
            await run_in_caller(fails)
        return "handled"

    assert run(handles()) == "handled"
    with pytest.raises(KeyError):
        run(run_in_caller(fails))


def test_caller_work_that_raises_stop_iteration_raises_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        run(run_in_caller(lambda: next(iter([]))))


def test_keyboard_interrupt_in_caller_work_ends_the_call() -> None:
    """The task does not go on in the background."""
    ended = threading.Event()

    def interrupted() -> None:
        raise KeyboardInterrupt

    async def work() -> None:
        try:
            await run_in_caller(interrupted)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert ended.is_set()


def test_caller_work_is_not_done_after_the_caller_closed_the_stream() -> None:
    """The task does not wait for the work either."""
    done: list[str] = []
    handed_over = threading.Event()

    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        handed_over.set()
        await run_in_caller(lambda: done.append("done"))
        yield 2

    iteration = SyncIteration(stream())
    assert iteration.next() == 1
    assert handed_over.wait(5)
    start = time.monotonic()
    iteration.close()
    assert time.monotonic() - start < 2
    assert done == []
    assert not asyncio.all_tasks(portal._loop_thread().loop)


# --- iterations -------------------------------------------------------------------------------------------------------


def iterate(generator: AsyncGenerator[Any, None]) -> Any:
    iteration = SyncIteration(generator)
    while True:
        try:
            yield iteration.next()
        except StopIteration:
            return


def test_iteration_yields_items_in_order() -> None:
    assert list(iterate(numbers(100))) == list(range(100))


def test_ended_iteration_stays_ended() -> None:
    iteration = SyncIteration(numbers(1))
    assert iteration.next() == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            iteration.next()
    iteration.close()


def test_iteration_yields_the_items_before_an_error() -> None:
    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        raise KeyError("mine")

    iteration = SyncIteration(stream())
    assert [iteration.next(), iteration.next()] == [1, 2]
    with pytest.raises(KeyError, match="mine"):
        iteration.next()
    with pytest.raises(StopIteration):
        iteration.next()


def test_close_returns_when_the_generator_is_closed() -> None:
    log: list[str] = []
    iteration = SyncIteration(numbers(1000, log, 0.01))
    iteration.next()
    iteration.close()
    assert log == ["closed"]
    iteration.close()
    with pytest.raises(StopIteration):
        iteration.next()


@pytest.mark.parametrize("pause", [60.0, 0.0001], ids=["waiting", "busy"])
def test_close_from_another_thread_ends_the_reader(pause: float) -> None:
    """As with a button that stops a response. Neither thread waits for the other."""
    for _ in range(20):
        log: list[str] = []
        iteration = SyncIteration(numbers(10**6, log, pause))
        items: list[int] = []
        thread = threading.Thread(target=lambda iteration=iteration, items=items: items.extend(read_all(iteration)))  # type: ignore[misc]
        thread.start()
        time.sleep(0.005)
        start = time.monotonic()
        iteration.close()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - start < 2
        assert log == ["closed"]
        assert items == sorted(items)


def read_all(iteration: SyncIteration[int]) -> list[int]:
    items = []
    while True:
        try:
            items.append(iteration.next())
        except StopIteration:
            return items


def test_close_gives_up_after_its_timeout() -> None:
    released = asyncio.Event()

    async def stubborn() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    pass

    iteration = SyncIteration(stubborn())
    iteration.next()
    assert iteration._mailbox is not None
    start = time.monotonic()
    portal._abandon(iteration._mailbox, iteration._cancel, timeout=0.2)
    assert 0.1 < time.monotonic() - start < 5
    portal._loop_thread().loop.call_soon_threadsafe(released.set)


def test_close_of_an_iteration_that_never_started_does_nothing() -> None:
    log: list[str] = []
    iteration = SyncIteration(numbers(3, log))
    iteration.close()
    iteration.drop()
    assert log == []
    with pytest.raises(StopIteration):
        iteration.next()


def test_dropped_iteration_closes_in_the_background() -> None:
    log: list[str] = []
    iteration = SyncIteration(numbers(1000, log, 0.01))
    iteration.next()
    start = time.monotonic()
    iteration.drop()
    assert time.monotonic() - start < 1
    deadline = time.monotonic() + 5
    while not log and time.monotonic() < deadline:
        time.sleep(0.005)
    assert log == ["closed"]


def test_iteration_on_the_loop_thread_raises_each_time() -> None:
    """Closing it does not wait, because it never started."""

    async def work() -> float:
        iteration = SyncIteration(numbers(3))
        start = time.monotonic()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="agenerate"):
                iteration.next()
        iteration.close()
        return time.monotonic() - start

    assert run(work()) < 1


def test_iteration_of_another_process_raises() -> None:
    iteration = SyncIteration(numbers(3))
    iteration.next()
    iteration._fork_count -= 1
    with pytest.raises(RuntimeError, match="fork"):
        iteration.next()
    iteration.close()  # There is nothing to close in this process.
    iteration._fork_count += 1
    iteration.close()
