"""`max_concurrency`: a slot is released when a call and every thread that it started have finished."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import pytest

from modelport.errors import DeadlineExceeded, ServerError
from modelport.layers.limit.layer import Limit
from modelport.model import Model
from modelport.runtime.threads import iterate_in_thread
from modelport.types.request import Request

from .limit_backend import Backend, BackendModel, Delta, call_from_threads_and_loops, request, send, wait_until


def test_max_concurrency_holds_across_threads_and_tasks() -> None:
    backend = Backend(seconds=0.005)
    call_from_threads_and_loops(BackendModel(backend, max_concurrency=3), calls=10)
    assert (len(backend.times), backend.most_running, backend.running) == (41, 3, 0)


@pytest.mark.parametrize("limits", [{"max_concurrency": 1}, {"requests_per_minute": 1}], ids=["slot", "window"])
def test_last_slot_is_acquired_once(limits: dict[str, Any]) -> None:
    """A thread may be suspended at any time: here, a second thread comes in as soon as the first has left the lock."""
    limit, backend = Limit(**limits), Backend(seconds=0.4)
    lock, others = limit._lock, [threading.Thread(target=lambda: asyncio.run(send_briefly()), daemon=True)]

    async def send_briefly() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await send(limit, backend)

    class SlowLock:
        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            if others:
                others.pop().start()
                time.sleep(0.2)

    limit._lock = SlowLock()  # type: ignore[assignment]
    asyncio.run(send(limit, backend))
    assert backend.most_running == 1
    assert len(backend.times) == 1 or "max_concurrency" in limits


# --- calls that end early ---------------------------------------------------------------------------------------------


async def _failing(request: Request) -> AsyncGenerator[Delta, None]:
    raise ServerError("no")
    yield Delta()


async def test_slot_is_released_after_an_error_a_cancellation_and_an_early_close(without_polls: None) -> None:
    limit, backend = Limit(max_concurrency=1), Backend(seconds=60)
    with pytest.raises(ServerError):
        await send(limit, _failing)

    task = asyncio.create_task(send(limit, backend))
    await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    stream = limit(request(), backend)
    await anext(stream)
    await stream.aclose()

    await asyncio.wait_for(send(limit, Backend()), 20)
    assert backend.running == len(limit._slots) == 0


def test_slot_of_a_stream_dropped_on_a_closed_loop_is_released() -> None:
    limit, backend = Limit(max_concurrency=1), Backend(seconds=60)
    loop = asyncio.new_event_loop()
    stream = limit(request(), backend)

    async def start() -> None:
        await anext(stream)

    loop.run_until_complete(start())
    loop.close()

    async def drop_and_send() -> None:
        nonlocal stream
        waiting = asyncio.create_task(send(limit, Backend()))
        await asyncio.sleep(0.01)
        del stream
        gc.collect()
        await asyncio.wait_for(waiting, 20)

    asyncio.run(drop_and_send())


# --- threads that work on ---------------------------------------------------------------------------------------------


class BlockingModel(Model):
    """Has only a blocking `generate`, which nothing can stop."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("blocking", retry=False, **settings)
        self.running = self.most_running = self.calls = 0
        self.started, self.finish, self._lock = threading.Event(), threading.Event(), threading.Lock()

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.started.set()
        try:
            self.finish.wait(20)
        finally:
            with self._lock:
                self.running -= 1
        return "done"


async def test_slot_of_a_cancelled_call_is_held_until_its_thread_has_finished() -> None:
    model = BlockingModel(max_concurrency=1)
    cancelled = asyncio.create_task(model.agenerate("?"))
    await wait_until(model.started.is_set)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(cancelled, 10)
    second = asyncio.create_task(model.agenerate("?"))
    await asyncio.sleep(0.2)
    assert model.calls == 1
    model.finish.set()
    assert (await asyncio.wait_for(second, 20)).content == "done"
    assert (model.calls, model.most_running) == (2, 1)


async def test_slot_of_a_timed_out_call_is_held_until_its_thread_has_finished() -> None:
    for call in (
        lambda model: model.agenerate("?", timeout=0.2),
        lambda model: asyncio.to_thread(list, model.generate_stream("?", timeout=0.2)),
    ):
        model = BlockingModel(max_concurrency=1)
        late = asyncio.create_task(call(model))
        await wait_until(model.started.is_set)
        await asyncio.sleep(0.4)
        second = asyncio.create_task(model.agenerate("?"))
        await asyncio.sleep(0.2)
        assert model.calls == 1
        model.finish.set()
        assert (await asyncio.wait_for(second, 20)).content == "done"
        with pytest.raises(DeadlineExceeded):
            await late
        assert (model.calls, model.most_running) == (2, 1)


async def test_slot_of_a_closed_stream_is_held_until_its_thread_has_finished(without_polls: None) -> None:
    """A synchronous client is such a thread: it waits for the next event."""
    limit, finish = Limit(max_concurrency=1), threading.Event()

    def emit_and_wait(emit: Callable[[Delta], bool]) -> None:
        emit(Delta(content="a"))
        finish.wait(20)

    stream = limit(request(), lambda request: iterate_in_thread(emit_and_wait))
    await anext(stream)
    await stream.aclose()
    second = asyncio.create_task(send(limit, Backend()))
    await asyncio.sleep(0.2)
    assert not second.done()
    finish.set()
    await asyncio.wait_for(second, 20)
    assert len(limit._slots) == 0


def test_call_that_ends_before_its_work_starts_does_no_work() -> None:
    """The thread that should do the work is busy with another model's work until the call has ended."""
    inner = BlockingModel(max_concurrency=1)
    inner.finish.set()

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
