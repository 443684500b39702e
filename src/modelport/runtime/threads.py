"""Blocking work for asynchronous callers, in threads.

`in_thread` runs a function that returns one result, and `iterate_in_thread` a function that emits items. Both run it in
a copy of the caller's context, in a thread that does nothing else meanwhile. The default executor of the event loop is
not used: models that call models would occupy its few threads and wait for each other without end.

`ThreadPool` starts a thread for each function that finds no idle thread. A thread without work stays idle for a while,
because waking it takes less time than starting one: on two busy cores a call of `in_thread` takes 100 µs instead of
420 µs.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from modelport.errors import ConnectionFailed
from modelport.runtime import lifecycle, slots

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_END = object()


class Emit(Protocol[T_contra]):
    """Passes items from a thread to the event loop."""

    def __call__(self, *items: T_contra) -> bool:
        """Emit the items, if any. Return True if the items are no longer read, so that the thread should stop."""
        ...


class ThreadPool:
    """Threads that each do one piece of work at a time. The pool has no upper bound.

    Args:
        name: The name of a thread while it works.
        idle_name: The name of a thread that waits for work.
        idle_timeout: How long a thread waits for work before it ends, in seconds; `None` if it never ends.
    """

    def __init__(self, name: str, idle_name: str, idle_timeout: float | None) -> None:
        self.name, self.idle_name, self.idle_timeout = name, idle_name, idle_timeout
        # The inboxes of the idle threads. The operations of a deque are atomic, so there is no lock that a fork could
        # leave locked in the child.
        self.idle: deque[SimpleQueue[Callable[[], None]]] = deque()
        _pools.add(self)

    def start(self, work: Callable[[], None]) -> None:
        """Do the work in a thread that has nothing to do, or in a new thread.

        Args:
            work: Must not raise.

        Raises:
            RuntimeError: No thread can be started.
        """
        try:
            inbox = self.idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            threading.Thread(target=self._serve, args=(inbox,), daemon=True).start()
        inbox.put(work)

    def _serve(self, inbox: SimpleQueue[Callable[[], None]]) -> None:
        thread = threading.current_thread()
        while True:
            thread.name = self.idle_name
            try:
                work = inbox.get(timeout=self.idle_timeout)
            except Empty:
                try:
                    self.idle.remove(inbox)
                    return
                except ValueError:
                    work = inbox.get()  # `start` has just taken the inbox, and is about to put the work into it.
            thread.name = self.name
            work()
            del work  # An idle thread must not keep alive the objects to which the work refers.
            self.idle.append(inbox)


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()
_pool = ThreadPool("modelport-call", "modelport-idle", idle_timeout=5.0)


def _after_fork_in_child() -> None:
    for pool in _pools:
        pool.idle.clear()  # A fork copies no threads, so the child has no idle ones.


os.register_at_fork(after_in_child=_after_fork_in_child)


#: In the thread of a call of `in_thread`: the future that its caller waits for.
_awaited: contextvars.ContextVar[asyncio.Future[Any] | None] = contextvars.ContextVar("modelport_awaited", default=None)


def is_abandoned() -> bool:
    """Return whether this thread does work of `in_thread` for which nobody waits any more, so that it should end."""
    awaited = _awaited.get()
    return awaited is not None and awaited.cancelled()


async def in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread, in a copy of the caller's context, and return its result.

    If the caller is cancelled, it stops waiting. The thread still completes the work, holds the call's concurrency slot
    until then, and drops the result. Long work can ask `is_abandoned`.

    Raises:
        ConnectionFailed: No thread can be started.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    context, slot = contextvars.copy_context(), slots.retain(slots.current.get())
    context.run(_awaited.set, result)

    def set_result(value: Any, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        elif isinstance(error, StopIteration):  # A future can't hold a StopIteration.
            result.set_exception(RuntimeError("the work raised StopIteration"))
        else:
            result.set_exception(error)

    def target() -> None:
        try:
            value, error = context.run(work), None
        except BaseException as raised:
            value, error = None, raised
        if slot is not None:
            slot.release()
        _call_on_loop(loop, set_result, value, error)

    try:
        _pool.start(target)
    except RuntimeError as error:
        if slot is not None:
            slot.release()
        raise ConnectionFailed(f"No thread can be started for the call: {error}.") from None
    return await result


async def iterate_in_thread(
    source: Callable[[Emit[T]], None], *, patience: float = 0.0, max_items: int | None = None
) -> AsyncGenerator[T, None]:
    """Run a blocking function in a thread of its own and in a copy of the caller's context; yield what it emits.

    Args:
        source: Is called with a function `emit`, which takes items. `emit` returns True if the items are no longer
            read; `source` must then return soon.
        patience: How long `source` is waited for when this generator is closed and at interpreter exit, in seconds; by
            default it is not waited for. A cancelled reader (its deadline has passed, or another model was faster)
            waits for `lifecycle.CANCEL_TIMEOUT` at most.
        max_items: The number of items, not yet read, from which on `emit` blocks; by default it never blocks.

    Yields:
        The items, in order.
    """
    loop = asyncio.get_running_loop()
    items: deque[Any] = deque()
    arrived = asyncio.Event()
    # Whether the loop has been notified of the items in `items`. One notification is enough for all of them, and each
    # costs a write to a pipe.
    notified = False
    abandoned = threading.Event()
    ended = asyncio.Event()
    has_room = threading.Event()
    context, slot = contextvars.copy_context(), slots.retain(slots.current.get())

    def put(*new: Any) -> bool:
        nonlocal notified
        items.extend(new)
        if notified or not new:
            return not loop.is_closed()
        notified = True
        return _call_on_loop(loop, arrived.set)

    def emit(*new: T) -> bool:
        if abandoned.is_set() or not put(*new):
            return True
        while max_items is not None and len(items) >= max_items and not abandoned.is_set():
            has_room.clear()
            if len(items) >= max_items:  # An item may have been read between the two checks.
                has_room.wait(1.0)  # The wait ends although a loop that has ended reads no more items.
                if loop.is_closed():
                    return True
        return abandoned.is_set()

    def target() -> None:
        error: BaseException | None = None
        try:
            context.run(source, emit)
        except BaseException as raised:
            error = raised
        if slot is not None:
            slot.release()
        lifecycle.emitting_ended(thread)
        if not lifecycle.exiting:
            put((_END, error))
            _call_on_loop(loop, ended.set)

    thread = threading.Thread(target=target, name="modelport-stream", daemon=True)
    if patience:
        lifecycle.stop_emitting_at_exit(thread, abandoned, patience)
    thread.start()
    try:
        while True:
            while not items:
                arrived.clear()
                notified = False
                if not items:  # An item may have arrived between the two checks.
                    await arrived.wait()
            item = items.popleft()
            if max_items is not None and len(items) <= max_items // 2:
                has_room.set()
            if type(item) is tuple and len(item) == 2 and item[0] is _END:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    except asyncio.CancelledError:
        patience = min(patience, lifecycle.CANCEL_TIMEOUT)
        raise
    finally:
        abandoned.set()
        has_room.set()
        # A loop that ends closes all its generators at the same time. While this generator waits here, a generator that
        # iterates over it can't be closed: `aclose` would raise "asynchronous generator is already running". So this
        # generator does not wait when its loop ends.
        loop_ends = getattr(loop, "_asyncgens_shutdown_called", False)
        if patience and not ended.is_set() and not loop_ends:
            try:
                async with asyncio.timeout(patience):
                    await ended.wait()
            except TimeoutError:
                pass


def _call_on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., Any], *args: Any) -> bool:
    """Call `callback` on the loop; return False if the loop has ended."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True
