"""vLLM's engine: the processes it runs in, the loop that speaks with them, and how both begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any

from modelport.errors import InvalidRequest, ModelError, RateLimited, ServerError
from modelport.local.vllm import child
from modelport.local.vllm.starting import out_of_reach_of_the_terminal, processes, quiet, reported, without_main
from modelport.runtime.lifecycle import CLOSE_TIMEOUT

#: How long vLLM's processes may take to end by themselves before they are killed, in seconds: 3 alone on a machine,
#: 10 on a busy one. Killed, they leave shared memory behind.
SHUTDOWN_TIMEOUT = 20.0

_END = object()
_cores: dict[str, Core] = {}
_sharing = threading.RLock()
_loader: int | None = None  # the thread in which an engine is being loaded: one at a time, by _sharing


class Core:
    """One `AsyncLLM` on a loop thread of its own, in the process that made it.

    Models of equal settings share it: a GPU seldom has room for the same weights twice. It is freed when the last of
    them lets go.

    Args:
        config: A `VllmConfig`.
        make: Makes the `AsyncLLM`; called on the loop.
        apart: Whether its processes begin without the caller's script.
    """

    def __init__(self, config: Any, make: Callable[[], Any], apart: bool = True) -> None:
        self.pid = os.getpid()
        self.config = config
        self.users = 0
        self.loop = asyncio.new_event_loop()
        self.llm: Any = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._leaked = False
        before = processes()
        ready: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(make, apart, ready), name="modelport-vllm", daemon=True
        )
        self._thread.start()
        try:
            self.llm = ready.result()
        except BaseException:  # Ctrl-C among it: without its processes the making fails, and the thread ends
            for process in processes() - before:
                process.kill()
            self._thread.join(SHUTDOWN_TIMEOUT)
            raise
        self.processes = processes() - before

    def _serve(self, make: Callable[[], Any], apart: bool, ready: Future[Any]) -> None:
        global _loader
        asyncio.set_event_loop(self.loop)
        _loader = threading.get_ident()

        async def load() -> Any:
            return make()

        try:
            apartly = without_main() if apart else contextlib.nullcontext()
            with reported(), quiet(), out_of_reach_of_the_terminal(), apartly:
                llm = self.loop.run_until_complete(load())
        except BaseException as error:
            self.loop.close()
            ready.set_exception(error)
            return
        finally:
            _loader = None
        ready.set_result(llm)
        del llm
        self.loop.run_forever()
        self.loop.close()

    async def outputs(self, prompt: Mapping[str, Any], params: Any) -> AsyncGenerator[Any, None]:
        """vLLM's outputs for one prompt, on whichever loop they are read; closing stops the request.

        Raises:
            InvalidRequest: vLLM refuses the request.
            ServerError: The engine has failed.
        """
        if self._closed:
            raise ModelError("this model has been closed; make a new one")
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[Any] = asyncio.Queue()
        ended = asyncio.Event()
        task: asyncio.Task[None] | None = None

        def tell(callback: Callable[..., Any], *args: Any) -> None:
            try:
                loop.call_soon_threadsafe(callback, *args)
            except RuntimeError:  # the reader's loop has ended
                if task is not None:
                    task.cancel()

        async def pump() -> None:
            llm, name = self.llm, uuid.uuid4().hex
            error: ModelError | None = None
            try:
                async with aclosing(llm.generate(prompt, params, name)) as outputs:
                    async for output in outputs:
                        tell(items.put_nowait, output)
            except asyncio.CancelledError:
                # Cancelled while the request was on its way, vLLM does not abort it by itself.
                with contextlib.suppress(Exception):
                    await llm.abort(name)
                error = ModelError("this model has been closed; make a new one")
            except Exception as raised:
                error = _error_from(raised)
            tell(items.put_nowait, (_END, error))

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():  # before its first step, of which `pump` sees nothing
                tell(items.put_nowait, (_END, ModelError("this model has been closed; make a new one")))
            tell(ended.set)

        def start() -> None:
            nonlocal task
            task = self.loop.create_task(pump())
            self._tasks.add(task)
            task.add_done_callback(end)

        def stop() -> None:
            if task is not None:
                task.cancel()

        try:
            self.loop.call_soon_threadsafe(start)
        except RuntimeError:
            raise ModelError("this model has been closed; make a new one") from None
        try:
            while True:
                item = await items.get()
                if type(item) is tuple and item[0] is _END:
                    if item[1] is not None:
                        raise item[1]
                    return
                yield item
        finally:
            with contextlib.suppress(RuntimeError):  # the engine's loop has ended, and the request with it
                self.loop.call_soon_threadsafe(stop)
            # A loop that ends closes all its generators at once; see `threads.iterate_in_thread`.
            if not getattr(loop, "_asyncgens_shutdown_called", False):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT):
                        await ended.wait()

    def close(self) -> None:
        """Ends requests under way with an error, and the engine with its processes."""
        if self._closed or self._leaked or self.pid != os.getpid():
            return
        self._closed = True
        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self._end()))
        self._thread.join(SHUTDOWN_TIMEOUT + 5)
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join(1)

    async def _end(self) -> None:
        llm, self.llm = self.llm, None  # forgotten now: its destructor fails in an interpreter that is half gone
        # Requests under way first, then vLLM's own tasks, which would report that their engine has died.
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
        """Keeps the parent's engine from being shut down by this process, a fork: its processes are the parent's."""
        if self._leaked:
            return
        self._leaked = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        # At its end Python would wait for them, and vLLM's finalisers would shut them down.
        multiprocessing.process._children.difference_update(self.processes)  # type: ignore[attr-defined]
        client = getattr(self.llm, "engine_core", None)
        for owner in (client, getattr(getattr(client, "resources", None), "engine_manager", None)):
            if (finalizer := getattr(owner, "_finalizer", None)) is not None:
                finalizer.detach()


def shared_core(key: str, make: Callable[[], Core]) -> Core:
    """The engine that models of these settings share, made by the first; `release_core` gives it back."""
    with _sharing:
        core = _cores.get(key)
        if core is None or core.pid != os.getpid():
            core = _cores[key] = make()
        core.users += 1
        return core


def release_core(core: Core) -> None:
    """Gives an engine back; the last one to do so ends it."""
    with _sharing:
        core.users -= 1
        if core.users:
            return
        for key in [key for key, known in _cores.items() if known is core]:
            del _cores[key]
    core.close()


def _after_fork() -> None:
    global _sharing, _loader
    if threading.get_ident() == _loader:  # this is vLLM's own process, where it forks rather than spawns
        child.begin()
    _sharing, _loader = threading.RLock(), None


os.register_at_fork(after_in_child=_after_fork)


def _error_from(error: Exception) -> ModelError:
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    if isinstance(error, ModelError):
        return error
    if isinstance(error, EngineDeadError):
        ours: ModelError = ServerError(
            "vLLM's engine process has died: its log, on standard error, says why; make a new model",
            retryable=False,
        )
    elif isinstance(error, EngineGenerateError):
        ours = ServerError(f"vLLM failed: {error.__cause__ or error}")
    elif type(error).__name__ in ("QueueOverflowError", "MaxQueuedTokensError"):
        ours = RateLimited(f"vLLM's queue is full: {error}")
    else:  # what vLLM itself checks comes as it is, everything else as EngineGenerateError
        ours = InvalidRequest(f"vLLM refused the request: {error}")
    ours.__cause__ = error
    return ours
