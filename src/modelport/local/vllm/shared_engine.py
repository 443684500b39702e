"""One engine of vLLM, which models with equal settings share.

vLLM's `AsyncLLM` belongs to one event loop, so each engine has a thread with its own loop. `SharedEngine.outputs` runs
a request on the engine's loop, and passes vLLM's outputs to the event loop of the caller. Models acquire an engine with
`acquire_shared_engine`. When the last model releases the engine, the engine and its processes end.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from modelport.errors import InvalidRequest, ModelError, RateLimited, ServerError
from modelport.local.engine import model_closed, never_destroy
from modelport.local.vllm import process_main
from modelport.local.vllm.processes import (
    engine_processes,
    quiet,
    raise_process_errors,
    without_caller_script,
    without_interrupts,
)
from modelport.runtime.lifecycle import CANCEL_TIMEOUT, CLOSE_TIMEOUT

#: How long vLLM's processes may take to end by themselves before they are killed, in seconds. They take 3 s on an idle
#: machine, and 10 s on a busy one. A process that is killed does not free its shared memory.
SHUTDOWN_TIMEOUT = 20.0

#: Marks the last item that a request passes to its caller.
_END = object()
#: The engines by their settings.
_engines: dict[str, SharedEngine] = {}
_engines_lock = threading.RLock()
#: The id of the thread in which an engine is being loaded. There is at most one, because loading holds `_engines_lock`.
#: In a forked process, `_after_fork` compares it with the id of the current thread: if they are equal, vLLM itself
#: forked the process while it loaded the engine.
_loading_thread_id: int | None = None


class SharedEngine:
    """One `AsyncLLM` of this process, on the event loop of its own thread.

    Models with equal settings share the engine, because a GPU seldom has memory for the same weights twice.

    Args:
        config: The engine's configuration, a `VllmConfig`.
        make: Makes the `AsyncLLM`; called on the engine's loop.
        with_caller_script: Whether the engine's processes import the caller's script when they start, which is the
            default of multiprocessing's `spawn`.
    """

    def __init__(self, config: Any, make: Callable[[], Any], with_caller_script: bool = False) -> None:
        self.pid = os.getpid()
        self.config = config
        #: How many models use the engine.
        self.users = 0
        self.loop = asyncio.new_event_loop()
        self.llm: Any = None
        #: The requests in progress: one task on the engine's loop for each.
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._detached = False
        processes_before = engine_processes()
        ready: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(make, with_caller_script, ready), name="modelport-vllm", daemon=True
        )
        self._thread.start()
        try:
            self.llm = ready.result()
        except BaseException:
            # `BaseException` includes Ctrl-C. Killing the processes makes `make` fail, which ends the thread.
            for process in engine_processes() - processes_before:
                process.kill()
            self._thread.join(SHUTDOWN_TIMEOUT)
            raise
        self.processes = engine_processes() - processes_before

    def _serve(self, make: Callable[[], Any], with_caller_script: bool, ready: Future[Any]) -> None:
        global _loading_thread_id
        asyncio.set_event_loop(self.loop)
        _loading_thread_id = threading.get_ident()

        # `make` is called in a coroutine, because vLLM starts tasks on the running loop when it makes an `AsyncLLM`.
        async def load() -> Any:
            return make()

        try:
            script_context = contextlib.nullcontext() if with_caller_script else without_caller_script()
            with raise_process_errors(), quiet(), without_interrupts(), script_context:
                llm = self.loop.run_until_complete(load())
        except BaseException as error:
            self.loop.close()
            ready.set_exception(error)
            return
        finally:
            _loading_thread_id = None
        ready.set_result(llm)
        del llm
        self.loop.run_forever()
        self.loop.close()

    async def outputs(self, prompt: Mapping[str, Any], params: Any) -> AsyncGenerator[Any, None]:
        """Yield vLLM's outputs for one prompt, on the caller's event loop. Closing the generator stops the request.

        A task on the engine's loop runs the request, and puts each output into a queue on the caller's loop.

        Raises:
            InvalidRequest: vLLM refuses the request.
            ServerError: The engine has failed.
            RateLimited: vLLM's queue is full.
            ModelError: The engine has been closed.
        """
        if self._closed:
            raise model_closed()
        caller_loop = asyncio.get_running_loop()
        items: asyncio.Queue[Any] = asyncio.Queue()
        ended = asyncio.Event()
        task: asyncio.Task[None] | None = None

        def call_on_caller_loop(callback: Callable[..., Any], *args: Any) -> None:
            try:
                caller_loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:  # The caller's event loop is closed.
                if task is not None:
                    task.cancel()

        async def forward_outputs() -> None:
            llm, request_id = self.llm, uuid.uuid4().hex
            error: ModelError | None = None
            try:
                async with aclosing(llm.generate(prompt, params, request_id)) as outputs:
                    async for output in outputs:
                        call_on_caller_loop(items.put_nowait, output)
            except asyncio.CancelledError:
                # vLLM does not abort a request that is cancelled before the request has reached vLLM's process.
                with contextlib.suppress(Exception):
                    await llm.abort(request_id)
                error = model_closed()
            except Exception as raised:
                error = engine_error(raised)
            call_on_caller_loop(items.put_nowait, (_END, error))

        def on_task_done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # The task was cancelled before `forward_outputs` began to run.
                call_on_caller_loop(items.put_nowait, (_END, model_closed()))
            call_on_caller_loop(ended.set)

        def start() -> None:
            nonlocal task
            task = self.loop.create_task(forward_outputs())
            self._tasks.add(task)
            task.add_done_callback(on_task_done)

        def stop() -> None:
            if task is not None:
                task.cancel()

        try:
            self.loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise model_closed() from None
        patience = CLOSE_TIMEOUT
        try:
            while True:
                item = await items.get()
                if type(item) is tuple and item[0] is _END:
                    error = item[1]
                    if error is not None:
                        raise error
                    return
                yield item
        except asyncio.CancelledError:
            patience = CANCEL_TIMEOUT
            raise
        finally:
            with contextlib.suppress(RuntimeError):  # The engine's loop is closed, so the request has ended.
                self.loop.call_soon_threadsafe(stop)
            # A loop that shuts down closes all its generators concurrently. If this generator waited here, the one
            # that iterates over it would close it a second time, and asyncio would raise "already running".
            if not getattr(caller_loop, "_asyncgens_shutdown_called", False):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await ended.wait()

    def close(self) -> None:
        """End the engine and its processes; requests in progress end with an error."""
        if self._closed or self._detached or self.pid != os.getpid():
            return
        self._closed = True
        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self._shut_down()))
        self._thread.join(SHUTDOWN_TIMEOUT + 5)
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join(1)

    async def _shut_down(self) -> None:
        llm, self.llm = self.llm, None  # Released now: at interpreter exit, its destructor would fail.
        # The requests in progress are cancelled first, then vLLM's own tasks. If vLLM's tasks ran on, they would report
        # that the engine has died.
        for tasks in (set(self._tasks), asyncio.all_tasks() - {asyncio.current_task()}):
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=1)
        try:
            llm.shutdown(timeout=SHUTDOWN_TIMEOUT)
        finally:
            await self.loop.shutdown_asyncgens()
            self.loop.stop()

    def detach_after_fork(self) -> None:
        """Ensure that this process, a forked child, never shuts down the engine of its parent process.

        Each model that shares the engine calls this once after a fork.
        """
        if self._detached:
            return
        self._detached = True
        never_destroy(self)
        # The engine's processes belong to the parent process. When this process ends, Python would wait for them, and
        # vLLM's finalizers would end them.
        multiprocessing.process._children.difference_update(self.processes)  # type: ignore[attr-defined]
        client = getattr(self.llm, "engine_core", None)
        for holder in (client, getattr(getattr(client, "resources", None), "engine_manager", None)):
            if (finalizer := getattr(holder, "_finalizer", None)) is not None:
                finalizer.detach()


def acquire_shared_engine(key: str, make: Callable[[], SharedEngine]) -> SharedEngine:
    """Return the engine that models with equal settings share, and make it if it does not exist yet.

    Args:
        key: A string that is equal for equal settings.
        make: Makes the engine.
    """
    with _engines_lock:
        engine = _engines.get(key)
        if engine is None or engine.pid != os.getpid():
            engine = _engines[key] = make()
        engine.users += 1
        return engine


def release_shared_engine(engine: SharedEngine) -> None:
    """Release an engine for one of the models that use it. When the last model releases the engine, it is closed."""
    with _engines_lock:
        engine.users -= 1
        if engine.users:
            return
        for key in [key for key, other in _engines.items() if other is engine]:
            del _engines[key]
    engine.close()


def _after_fork() -> None:
    global _engines_lock, _loading_thread_id
    # If the loading thread forked this process, vLLM has started this process to run the engine in it.
    if threading.get_ident() == _loading_thread_id:
        process_main.prepare_process()
    _engines_lock, _loading_thread_id = threading.RLock(), None


os.register_at_fork(after_in_child=_after_fork)


def engine_error(error: Exception) -> ModelError:
    """Return modelport's error for an exception of vLLM."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    if isinstance(error, ModelError):
        return error
    if isinstance(error, EngineDeadError):
        failure: ModelError = ServerError(
            "vLLM's engine process has died: its log, on standard error, says why; make a new model",
            retryable=False,
        )
    elif isinstance(error, EngineGenerateError):
        failure = ServerError(f"vLLM failed: {error.__cause__ or error}")
    elif type(error).__name__ in ("QueueOverflowError", "MaxQueuedTokensError"):
        failure = RateLimited(f"vLLM's queue is full: {error}")
    else:  # vLLM raises an error of its validation unchanged, and every other error as EngineGenerateError.
        failure = InvalidRequest(f"vLLM refused the request: {error}")
    failure.__cause__ = error
    return failure
