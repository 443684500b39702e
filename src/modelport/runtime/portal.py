"""The portal between synchronous code and the event loop on which its calls run.

Theory of operation:

- There is one event loop for all synchronous calls of a process. It runs in a daemon thread of its own, the loop
  thread, which starts with the first call. So a synchronous call works in a notebook, whose own loop is running, in any
  thread, and after a fork.
- `run(coroutine)` runs a coroutine as one task on the loop thread. `SyncIteration(generator)` reads an async generator
  as one task on the loop thread. Both run in a copy of the caller's context.
- The task sends everything to its caller through one queue, the caller's mailbox: the items of a generator, work for
  the caller's own thread (`in_callers_thread`), and at last `_End`, which holds the result or the error. The caller
  waits for the mailbox and for nothing else.
- A caller that stops waiting (`close`, Ctrl-C) cancels the task and waits until the task has ended, for
  `CLOSE_TIMEOUT` at most. So the engine and the connection are released when the caller continues. If the task sends
  work for the caller's thread meanwhile, the work is not done.
- A synchronous call on the loop thread would wait for itself, and is an error.
- After a fork, the child starts a loop thread of its own at its first call. A stream that was opened before the fork
  continues in the parent, and can't be read in the child. The child never closes the parent's loop: both processes
  share its epoll object, so that would disconnect the parent's loop from its own wake-up pipe.
- At interpreter exit the portal cancels all tasks, waits for them for half a second, and ends the loop thread.

This module imports asyncio, so it is imported at the first call and not with the package.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from modelport.runtime import lifecycle, slots

T = TypeVar("T")


class _CallerWork:
    """Blocking work that a task on the loop thread passes to the thread of its synchronous caller."""

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self._work, self._loop = work, loop
        self.result: asyncio.Future[Any] = loop.create_future()
        self._slot = slots.current.get()

    def run(self) -> None:
        """Do the work, in the caller's thread."""
        slot = slots.retain(self._slot)
        # `slot` is `None` if the call has no concurrency slot, or has ended and freed it. If the wait for the result is
        # cancelled too, the call has ended, and the work is not done. But work that has retained the slot may be done
        # although the call is just being cancelled: it counts in `max_concurrency` until it has finished.
        if slot is None and self.result.cancelled():
            return
        try:
            value, error = self._work(), None
        except BaseException as raised:
            value, error = None, raised
        if slot is not None:
            slot.release()
        self._loop.call_soon_threadsafe(self._set_result, value, error)
        if error is not None and not isinstance(error, Exception):
            raise error  # KeyboardInterrupt and SystemExit are raised in the caller's thread too.

    def refuse(self) -> None:
        """Cancel the task's wait for the work, because the caller will not do it."""
        self._loop.call_soon_threadsafe(self.result.cancel)

    def _set_result(self, value: Any, error: BaseException | None) -> None:
        if self.result.done():
            return
        if error is None:
            self.result.set_result(value)
        elif isinstance(error, StopIteration):  # A future can't hold a StopIteration.
            self.result.set_exception(RuntimeError("generate() raised StopIteration"))
        else:
            # KeyboardInterrupt and SystemExit are raised in the caller's thread. In the task they are a cancellation.
            self.result.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())


class _Mailbox:
    """A queue for a waiting caller: it receives items, work for the caller's thread, and at last `_End`.

    Attributes:
        put: Puts something into the queue.
        get: Waits for the next thing in the queue.
        is_open: Whether the caller still waits, and so would do work for the task.
        fork_count: The value of `lifecycle.fork_count` when the caller started to wait.
    """

    __slots__ = ("put", "get", "is_open", "fork_count")

    def __init__(self) -> None:
        queue: SimpleQueue[Any] = SimpleQueue()
        self.put, self.get = queue.put, queue.get
        self.is_open = True
        self.fork_count = lifecycle.fork_count


class _End:
    """The end of a task: its result or its error."""

    __slots__ = ("error", "value")

    def __init__(self, value: Any = None, error: BaseException | None = None) -> None:
        self.value, self.error = value, error


#: The mailbox of the synchronous caller that waits for the current task; `None` if no caller waits.
_callers_mailbox: contextvars.ContextVar[_Mailbox | None] = contextvars.ContextVar("modelport_caller", default=None)


def in_callers_thread(work: Callable[[], T]) -> asyncio.Future[T] | None:
    """Have `work` done by the thread of the synchronous caller that waits for the current task.

    Returns:
        A future for the result, or `None` if no synchronous caller waits.
    """
    mailbox = _callers_mailbox.get()
    if mailbox is None or not mailbox.is_open:
        return None
    caller_work = _CallerWork(work, asyncio.get_running_loop())
    mailbox.put(caller_work)
    return caller_work.result


def context_without_caller() -> contextvars.Context:
    """Return a copy of the current context in which no caller waits, for a second task of the same call.

    Blocking work of that task then runs in threads of its own. The caller's thread could do the work of two tasks only
    one after the other.
    """
    context = contextvars.copy_context()
    context.run(_callers_mailbox.set, None)
    return context


class _LoopThread:
    """The thread in which the event loop runs."""

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
                pass  # A task raised this. Its caller receives the exception from the task, and the loop continues.
        self.loop.close()

    def stop(self) -> None:
        """Cancel all tasks and end the loop within a second, at interpreter exit. Errors of tasks are not logged."""
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
_inherited: list[_LoopThread] = []  # Loop threads of parent processes. Their loops are never closed in this process.
_lock = threading.Lock()


def _loop_thread() -> _LoopThread:
    global _current
    thread = _current
    if thread is None:
        with _lock:
            thread = _current
            if thread is None:
                thread = _current = _LoopThread()
    return thread


def _stop() -> None:
    if _current is not None:
        _current.stop()


def _after_fork_in_child() -> None:
    global _current, _lock
    _lock = threading.Lock()
    if _current is not None:
        _inherited.append(_current)
        _current = None


lifecycle.stop_calls_at_exit(_stop)
os.register_at_fork(after_in_child=_after_fork_in_child)


def _start(coroutine: Coroutine[Any, Any, Any], mailbox: _Mailbox) -> Callable[[], None]:
    """Start the coroutine as one task on the loop thread, in the caller's context.

    Returns:
        A function that cancels the task.
    """
    thread = _loop_thread()
    if threading.get_ident() == thread.thread.ident:
        coroutine.close()
        raise RuntimeError(
            "a synchronous call was made on modelport's own loop thread, where it would wait for itself: "
            "inside async code use `await model.agenerate(…)` or `async for … in model.agenerate_stream(…)`"
        )
    context = contextvars.copy_context()
    context.run(_callers_mailbox.set, mailbox)
    task: asyncio.Task[Any] | None = None

    def start() -> None:
        nonlocal task
        task = thread.loop.create_task(coroutine, context=context)
        task.add_done_callback(deliver_end)

    def deliver_end(task: asyncio.Task[Any]) -> None:
        if thread.stopping:
            return  # The interpreter exits.
        if task.cancelled():
            mailbox.put(_End(error=asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            mailbox.put(_End(error=error))
        else:
            mailbox.put(_End(task.result()))

    def cancel() -> None:
        try:
            thread.loop.call_soon_threadsafe(lambda: task.cancel() if task else None)
        except RuntimeError:
            pass  # The loop has ended, and every task with it.

    try:
        thread.loop.call_soon_threadsafe(start)
    except RuntimeError:
        coroutine.close()
        raise RuntimeError("the interpreter is shutting down: no call can be made any more") from None
    return cancel


def _next_item(mailbox: _Mailbox) -> Any:
    """Wait for the next item or `_End` and return it. If work for this thread arrives before, do the work."""
    while True:
        item = mailbox.get()
        if type(item) is not _CallerWork:
            return item
        item.run()


def _abandon(mailbox: _Mailbox, cancel: Callable[[], None], timeout: float = lifecycle.CLOSE_TIMEOUT) -> None:
    """Cancel the task, and wait until it has released its engine and its connection."""
    mailbox.is_open = False
    if mailbox.fork_count != lifecycle.fork_count:
        return  # Work in the caller's thread forked the process. This is the child, and the task runs in the parent.
    cancel()
    try:
        while type(item := mailbox.get(timeout=timeout)) is not _End:
            if type(item) is _CallerWork:
                item.refuse()
        mailbox.put(item)  # Another thread may still wait for the next item, and must receive the end too.
    except Empty:
        pass


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine on the loop thread, and wait for its result.

    Raises:
        RuntimeError: The call was made on the loop thread itself, or while the interpreter exits.
    """
    mailbox = _Mailbox()
    cancel = _start(coroutine, mailbox)
    try:
        end = _next_item(mailbox)
    except BaseException:  # After Ctrl-C the call must not go on in the background.
        _abandon(mailbox, cancel)
        raise
    mailbox.is_open = False
    if end.error is not None:
        raise end.error
    return end.value  # type: ignore[no-any-return]


class SyncIteration(Generic[T]):
    """An async generator that is read from a thread.

    Args:
        generator: One task on the loop thread reads the generator ahead, without waiting for calls of `next`.
    """

    def __init__(self, generator: AsyncGenerator[T, None]) -> None:
        self._generator = generator
        self._mailbox: _Mailbox | None = None
        self._cancel: Callable[[], None] = lambda: None
        #: Whether the generator has ended or was closed.
        self._ended = False
        self._fork_count = lifecycle.fork_count

    def next(self) -> T:
        """Return the next item. The first call starts the generator.

        Raises:
            StopIteration: The generator has ended, or was closed.
            RuntimeError: This object was made before a fork, and this is the child process.
        """
        if self._fork_count != lifecycle.fork_count:
            raise RuntimeError("this stream was opened before a fork and can only be read in the parent process")
        if self._ended:
            raise StopIteration
        try:
            if self._mailbox is None:
                mailbox = _Mailbox()
                self._cancel = _start(_put_items(self._generator, mailbox), mailbox)
                self._mailbox = mailbox
            item = _next_item(self._mailbox)
        except BaseException:
            if self._mailbox is not None:
                self.close()
            raise
        if type(item) is not _End:
            return item  # type: ignore[no-any-return]
        if self._ended:  # Another thread has closed the stream meanwhile, and may still wait for the end.
            self._mailbox.put(item)
            raise StopIteration
        self._ended = True
        if item.error is not None:
            raise item.error
        raise StopIteration

    def close(self) -> None:
        """Stop the generator, and return when it has stopped. Nothing happens if it has ended or never started."""
        if self._ended or self._fork_count != lifecycle.fork_count:
            return
        self._ended = True
        if self._mailbox is not None:
            _abandon(self._mailbox, self._cancel)

    def drop(self) -> None:
        """Stop the generator, and return at once. A stream that is deleted before its end calls this method."""
        if not self._ended and self._mailbox is not None and self._fork_count == lifecycle.fork_count:
            self._ended = True
            self._mailbox.is_open = False
            self._cancel()


async def _put_items(generator: AsyncGenerator[Any, None], mailbox: _Mailbox) -> None:
    async with aclosing(generator):
        async for item in generator:
            mailbox.put(item)
