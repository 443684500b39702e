"""The one event loop on which synchronous calls run.

It lives in a daemon thread of its own, so that a sync call works in a notebook, in any thread and after a fork.
Nothing here is imported before the first call.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import ctypes
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from modelport.runtime import slots
from modelport.runtime.threads import end_streams
from modelport.types.deltas import ChatMessageStreamDelta

T = TypeVar("T")

#: How long closing waits for an engine or a connection to let go before it leaves that to the background, in seconds.
CLOSE_TIMEOUT = 10.0


class _CallerWork:
    """Work that the loop hands back to the caller's own thread."""

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self._work, self._loop = work, loop
        self.result: asyncio.Future[Any] = loop.create_future()
        self._place = slots.current.get()

    def run(self) -> None:
        place = slots.retained(self._place)
        if place is None and self.result.cancelled():
            return  # The call was over before its work began.
        try:
            value, error = self._work(), None
        except BaseException as raised:
            value, error = None, raised
        if place is not None:
            place.release()
        self._loop.call_soon_threadsafe(self._settle, value, error)
        if error is not None and not isinstance(error, Exception):
            raise error  # KeyboardInterrupt and SystemExit belong to this thread as well

    def refuse(self) -> None:
        self._loop.call_soon_threadsafe(self.result.cancel)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self.result.done():
            return
        if error is None:
            self.result.set_result(value)
        elif isinstance(error, StopIteration):  # which a future can't hold
            self.result.set_exception(RuntimeError("generate() raised StopIteration"))
        else:
            self.result.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())


class _Mailbox:
    """What a waiting caller receives: deltas, jobs for its thread, and at last `_End`."""

    __slots__ = ("put", "get", "open", "forks")

    def __init__(self) -> None:
        queue: SimpleQueue[Any] = SimpleQueue()
        self.put, self.get = queue.put, queue.get
        self.open = True
        self.forks = _forks


class _End:
    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


_caller: contextvars.ContextVar[_Mailbox | None] = contextvars.ContextVar("modelport_caller", default=None)


def in_callers_thread(work: Callable[[], T]) -> asyncio.Future[T] | None:
    """Has `work` run by the thread that waits for this call; `None` where no thread does."""
    mailbox = _caller.get()
    if mailbox is None or not mailbox.open:
        return None
    job = _CallerWork(work, asyncio.get_running_loop())
    mailbox.put(job)
    return job.result


def apart_from_caller() -> contextvars.Context:
    """This context, for a task beside the call: its blocking work gets threads of its own.

    The thread that waits for the call does one piece of work after another, so that none there could race another.
    """
    context = contextvars.copy_context()
    context.run(_caller.set, None)
    return context


class _LoopThread:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name="modelport", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            try:
                self.loop.run_forever()
                break
            except (SystemExit, KeyboardInterrupt):
                pass  # raised by a backend: its caller, who waits for the task, is told
        self.loop.close()

    def stop(self) -> None:
        """Cancels what still runs and ends the loop: at interpreter exit, silently and within a second.

        Callers that still wait are daemon threads: they are told nothing, and vanish with the interpreter.
        """
        self.stopping = True

        async def cancel_all() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=0.5)
            await self.loop.shutdown_asyncgens()
            self.loop.stop()

        self.loop.set_exception_handler(lambda loop, context: None)
        try:
            asyncio.run_coroutine_threadsafe(cancel_all(), self.loop)
        except RuntimeError:
            return
        self.thread.join(0.8)


_current: _LoopThread | None = None
_forks = 0  # between this process and the first: asking for its id would be a third of what a delta costs here
_inherited: list[_LoopThread] = []  # Never closed after a fork: the child shares the parent's epoll.
_lock = threading.Lock()
_closers: weakref.WeakSet[Any] = weakref.WeakSet()
_destroys = True  # Whether engines can be destroyed: not in the child of a process that has some.


def _thread() -> _LoopThread:
    global _current
    thread = _current
    if thread is None:
        with _lock:
            thread = _current
            if thread is None:
                thread = _current = _LoopThread()
    return thread


def _forget_after_fork() -> None:
    global _current, _forks, _lock
    _forks += 1
    _lock = threading.Lock()
    if _current is not None:
        _inherited.append(_current)
        _current = None
    if engines := list(_closers):
        for engine in engines:
            engine.detach_after_fork()
        _closers.clear()
        _leave_without_destructors()


def _leave_without_destructors() -> None:
    """Has this process end without the exit handlers of native libraries, which would wait for the parent's threads."""
    global _destroys
    _destroys = False
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # on Linux; it hands the exit status on
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_forget_after_fork)


def close_at_exit(engine: Any) -> None:
    """Calls `engine.close()` at interpreter exit, after every call has been cancelled.

    In a child that is forked before that it calls `engine.detach_after_fork()`, which is to keep it from ever being destroyed: that
    would wait for threads which the child does not have. Engines made there are leaked as well.
    """
    if _destroys:
        _closers.add(engine)
        # Once more, to come before the handlers of what the engine has imported: multiprocessing's would wait for the
        # engine's processes, or end them under its feet.
        atexit.unregister(_shut_down)
        atexit.register(_shut_down)
    else:
        engine.detach_after_fork()


@atexit.register
def _shut_down() -> None:
    if _current is not None:
        _current.stop()
    end_streams()
    for engine in list(_closers):
        engine.close()


def _start(coroutine: Coroutine[Any, Any, Any], mailbox: _Mailbox) -> Callable[[], None]:
    """Starts the coroutine as one task, in the caller's context; the result cancels it."""
    thread = _thread()
    if threading.get_ident() == thread.thread.ident:
        coroutine.close()
        raise RuntimeError(
            "a synchronous call was made on modelport's own loop thread, where it would wait for itself: "
            "inside async code use `await model.agenerate(…)` or `async for … in model.agenerate_stream(…)`"
        )
    context = contextvars.copy_context()
    context.run(_caller.set, mailbox)
    task: asyncio.Task[Any] | None = None

    def start() -> None:
        nonlocal task
        task = thread.loop.create_task(coroutine, context=context)
        task.add_done_callback(done)

    def done(task: asyncio.Task[Any]) -> None:
        if thread.stopping:
            return
        if task.cancelled():
            mailbox.put(_End(error=asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            mailbox.put(_End(error=error))
        else:
            mailbox.put(_End(task.result()))

    try:
        thread.loop.call_soon_threadsafe(start)
    except RuntimeError:
        coroutine.close()
        raise RuntimeError("the interpreter is shutting down: no call can be made any more") from None
    return lambda: _safely(thread.loop, lambda: task.cancel() if task else None)


def _safely(loop: asyncio.AbstractEventLoop, callback: Callable[[], Any]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        pass  # The loop has ended, and every task with it.


def _wait(mailbox: _Mailbox, timeout: float | None = None) -> Any:
    """The next item, jobs for this thread done on the way."""
    while True:
        item = mailbox.get(timeout=timeout)
        if type(item) is not _CallerWork:
            return item
        item.run()


def _abandon(mailbox: _Mailbox, cancel: Callable[[], None], timeout: float = CLOSE_TIMEOUT) -> None:
    """Cancels the task and waits until it has let go of its engine and its connection."""
    mailbox.open = False
    if mailbox.forks != _forks:
        return  # A job of the call has forked: it goes on in the parent alone.
    cancel()
    try:
        while type(item := mailbox.get(timeout=timeout)) is not _End:
            if type(item) is _CallerWork:
                item.refuse()
        mailbox.put(item)  # for a thread that still waits for the next item
    except Empty:
        pass


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs the coroutine on the loop thread and waits for it.

    Raises:
        RuntimeError: The call was made on the loop thread itself.
    """
    mailbox = _Mailbox()
    cancel = _start(coroutine, mailbox)
    try:
        end = _wait(mailbox)
    except BaseException:  # Ctrl-C: the call must not run on behind the caller's back.
        _abandon(mailbox, cancel)
        raise
    mailbox.open = False
    if end.error is not None:
        raise end.error
    return end.value  # type: ignore[no-any-return]


class SyncIteration(Generic[T]):
    """An async generator, read from a thread: one task on the loop consumes it and hands its items over."""

    def __init__(self, generator: AsyncGenerator[T, None]) -> None:
        self._generator = generator
        self._mailbox: _Mailbox | None = None
        self._cancel: Callable[[], None] = lambda: None
        self._ended = False
        self._forks = _forks

    def next(self) -> T:
        """The next item; the first call starts the generator.

        Raises:
            StopIteration: There is none.
            RuntimeError: The stream was made in another process.
        """
        if self._forks != _forks:
            raise RuntimeError("this stream was opened before a fork and can only be read in the parent process")
        if self._ended:
            raise StopIteration
        try:
            if self._mailbox is None:
                mailbox = _Mailbox()
                self._cancel = _start(_pump(self._generator, mailbox), mailbox)
                self._mailbox = mailbox
            item = _wait(self._mailbox)
        except BaseException:
            if self._mailbox is not None:
                self.close()
            raise
        if type(item) is not _End:
            return item  # type: ignore[no-any-return]
        if self._ended:  # closed by another thread, which may still wait for the end
            self._mailbox.put(item)
            raise StopIteration
        self._ended = True
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Stops the generator and waits until it has; nothing where it has ended."""
        if self._ended or self._forks != _forks:
            return
        self._ended = True
        if self._mailbox is not None:
            _abandon(self._mailbox, self._cancel)

    def drop(self) -> None:
        """Stops the generator without waiting: for a stream that was forgotten half-read."""
        if not self._ended and self._mailbox is not None and self._forks == _forks:
            self._ended = True
            self._mailbox.open = False
            self._cancel()


async def _pump(generator: AsyncGenerator[Any, None], mailbox: _Mailbox) -> None:
    async with aclosing(generator):
        async for item in generator:
            mailbox.put(item)


Deltas = AsyncGenerator[ChatMessageStreamDelta, None]
