"""The loop thread on which synchronous calls run: results, errors, jobs for the caller's thread, and how it ends."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import textwrap
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


def test_run_gives_the_result() -> None:
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


def test_a_task_that_cancels_itself() -> None:
    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        run(work())


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_the_loop_outlives_what_ends_a_program(kind: type[BaseException]) -> None:
    """A backend that calls sys.exit() ends its caller's call, and neither the loop nor anybody else's."""
    begun = threading.Event()
    others: list[str] = []

    async def other() -> str:
        begun.set()
        await asyncio.sleep(0.2)
        return "well"

    thread = threading.Thread(target=lambda: others.append(run(other())))
    thread.start()
    assert begun.wait(5)

    async def leave() -> None:
        raise kind(3)

    with pytest.raises(kind):
        run(leave())
    thread.join(5)
    assert others == ["well"]
    assert list(iterate(numbers(3))) == [0, 1, 2]


def test_run_in_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="nobody's")

    async def work() -> str:
        seen = variable.get()
        variable.set("the task's")
        return seen

    variable.set("mine")
    assert run(work()) == "mine"
    assert variable.get() == "mine"


def test_run_on_the_loop_thread_is_an_error() -> None:
    async def inner() -> None:
        raise AssertionError("it must not begin")

    async def work() -> None:
        run(inner())

    with pytest.raises(RuntimeError, match="agenerate"):
        run(work())


def test_many_threads_at_once() -> None:
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


# --- jobs for the caller's thread -------------------------------------------------------------------------------------


async def job(work: Any) -> Any:
    future = in_callers_thread(work)
    return None if future is None else await future


def test_a_job_runs_in_the_callers_thread() -> None:
    assert run(job(threading.get_ident)) == threading.get_ident()

    async def stream() -> AsyncGenerator[int, None]:
        for _ in range(3):
            yield await job(threading.get_ident)

    assert set(iterate(stream())) == {threading.get_ident()}


def test_a_job_may_call_again() -> None:
    assert run(job(lambda: run(job(lambda: run(job(threading.get_ident)))))) == threading.get_ident()


def test_there_is_no_callers_thread_in_async_code() -> None:
    assert asyncio.run(job(threading.get_ident)) is None


def test_a_jobs_error_goes_through_the_task() -> None:
    """Which may handle it, as `deltas` may handle what its `generate` raises."""

    def fails() -> None:
        raise KeyError("mine")

    async def handles() -> str:
        with pytest.raises(KeyError):
            await job(fails)
        return "handled"

    assert run(handles()) == "handled"
    with pytest.raises(KeyError):
        run(job(fails))


def test_a_job_that_raises_stop_iteration() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        run(job(lambda: next(iter([]))))


def test_a_job_that_leaves_takes_the_caller_along() -> None:
    """A KeyboardInterrupt in a job is the caller's own, and the task does not go on behind its back."""
    ended = threading.Event()

    def interrupted() -> None:
        raise KeyboardInterrupt

    async def work() -> None:
        try:
            await job(interrupted)
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        run(work())
    assert ended.is_set()


def test_a_job_whose_caller_has_left() -> None:
    """A stream closed by its reader: the job is not done, and the task does not wait for it."""
    done: list[str] = []
    asked = threading.Event()

    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        asked.set()
        await job(lambda: done.append("done"))
        yield 2

    reading = SyncIteration(stream())
    assert reading.next() == 1
    assert asked.wait(5)
    begun = time.monotonic()
    reading.close()
    assert time.monotonic() - begun < 2
    assert done == []
    assert not asyncio.all_tasks(portal._loop_thread().loop)


# --- streams ----------------------------------------------------------------------------------------------------------


def iterate(generator: AsyncGenerator[Any, None]) -> Any:
    reading = SyncIteration(generator)
    while True:
        try:
            yield reading.next()
        except StopIteration:
            return


def test_items_come_in_order() -> None:
    assert list(iterate(numbers(100))) == list(range(100))


def test_an_ended_stream_stays_ended() -> None:
    reading = SyncIteration(numbers(1))
    assert reading.next() == 0
    for _ in range(3):
        with pytest.raises(StopIteration):
            reading.next()
    reading.close()


def test_an_error_comes_after_the_items_before_it() -> None:
    async def stream() -> AsyncGenerator[int, None]:
        yield 1
        yield 2
        raise KeyError("mine")

    reading = SyncIteration(stream())
    assert [reading.next(), reading.next()] == [1, 2]
    with pytest.raises(KeyError, match="mine"):
        reading.next()
    with pytest.raises(StopIteration):
        reading.next()


def test_closing_waits_until_the_generator_has_closed() -> None:
    log: list[str] = []
    reading = SyncIteration(numbers(1000, log, 0.01))
    reading.next()
    reading.close()
    assert log == ["closed"]
    reading.close()
    with pytest.raises(StopIteration):
        reading.next()


@pytest.mark.parametrize("pause", [60.0, 0.0001], ids=["waiting", "busy"])
def test_closing_from_another_thread(pause: float) -> None:
    """As a button that stops an answer does: the reader's loop ends, and neither thread waits for the other."""
    for _ in range(20):
        log: list[str] = []
        reading = SyncIteration(numbers(10**6, log, pause))
        items: list[int] = []
        thread = threading.Thread(target=lambda reading=reading, items=items: items.extend(_rest(reading)))  # type: ignore[misc]
        thread.start()
        time.sleep(0.005)
        begun = time.monotonic()
        reading.close()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - begun < 2
        assert log == ["closed"]
        assert items == sorted(items)


def _rest(reading: SyncIteration[int]) -> list[int]:
    items = []
    while True:
        try:
            items.append(reading.next())
        except StopIteration:
            return items


def test_closing_does_not_wait_for_ever() -> None:
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

    reading = SyncIteration(stubborn())
    reading.next()
    assert reading._mailbox is not None
    begun = time.monotonic()
    portal._abandon(reading._mailbox, reading._cancel, timeout=0.2)
    assert 0.1 < time.monotonic() - begun < 5
    portal._loop_thread().loop.call_soon_threadsafe(released.set)


def test_a_stream_that_never_began_costs_nothing() -> None:
    log: list[str] = []
    reading = SyncIteration(numbers(3, log))
    reading.close()
    reading.drop()
    assert log == []
    with pytest.raises(StopIteration):
        reading.next()


def test_a_dropped_stream_closes_by_itself() -> None:
    log: list[str] = []
    reading = SyncIteration(numbers(1000, log, 0.01))
    reading.next()
    begun = time.monotonic()
    reading.drop()
    assert time.monotonic() - begun < 1
    deadline = time.monotonic() + 5
    while not log and time.monotonic() < deadline:
        time.sleep(0.005)
    assert log == ["closed"]


def test_a_stream_on_the_loop_thread_is_an_error_each_time() -> None:
    """Nor does closing it wait for what never began."""

    async def work() -> float:
        reading = SyncIteration(numbers(3))
        begun = time.monotonic()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="agenerate"):
                reading.next()
        reading.close()
        return time.monotonic() - begun

    assert run(work()) < 1


def test_a_stream_of_another_process() -> None:
    reading = SyncIteration(numbers(3))
    reading.next()
    reading._forks -= 1
    with pytest.raises(RuntimeError, match="fork"):
        reading.next()
    reading.close()  # nothing that is ours to close
    reading._forks += 1
    reading.close()


# --- the end of the program -------------------------------------------------------------------------------------------

AT_THE_END = """
import asyncio, os, sys, threading
from modelport.runtime.lifecycle import close_at_exit
from modelport.runtime.portal import SyncIteration, run

def say(*words):
    print(*words, flush=True)

class Engine:
    def close(self):
        say("engine closed")

    def detach_after_fork(self):
        say("engine detached")

async def endless():
    try:
        while True:
            yield 1
            await asyncio.sleep(0.001)
    finally:
        say("call closed")

engine = Engine()
close_at_exit(engine)
"""


def program(source: str) -> list[str]:
    flags = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", AT_THE_END + textwrap.dedent(source)], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


def test_engines_are_closed_after_the_calls() -> None:
    source = """
    reading = SyncIteration(endless())
    reading.next()
    """
    assert program(source) == ["call closed", "engine closed"]


def test_a_daemon_thread_that_waits_vanishes_in_silence() -> None:
    source = """
    begun = threading.Event()

    async def wait():
        begun.set()
        await asyncio.sleep(60)

    threading.Thread(target=lambda: run(wait()), daemon=True).start()
    begun.wait()
    """
    assert program(source) == ["engine closed"]


def test_a_task_that_will_not_end() -> None:
    source = """
    begun = threading.Event()

    async def stubborn():
        begun.set()
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    threading.Thread(target=lambda: run(stubborn()), daemon=True).start()
    begun.wait()
    """
    assert program(source) == ["engine closed"]


def test_engines_of_the_parent_are_leaked_in_a_child() -> None:
    """And so are those made there; neither is ever closed at its exit."""
    source = """
    if os.fork() == 0:
        close_at_exit(Engine())
        sys.exit()
    os.wait()
    say("parent")
    """
    assert program(source) == ["engine detached", "engine detached", "parent", "engine closed"]


def test_a_child_of_a_child() -> None:
    source = """
    async def work():
        return os.getpid()

    def generation(depth):
        assert run(work()) == os.getpid()
        if depth and os.fork() == 0:
            generation(depth - 1)
            sys.exit()
        if depth:
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        assert run(work()) == os.getpid()

    generation(3)
    say("well")
    """
    assert [line for line in program(source) if not line.startswith("engine")] == ["well"]
