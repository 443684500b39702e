"""Blocking work for async callers, each piece in a thread of its own.

There are as many threads as there is work, and those that have none wait a little for more. Never the loop's default
executor: models that call models would fill its few threads and wait for each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from modelport.errors import ConnectionFailed
from modelport.runtime.slots import current, retained

T = TypeVar("T")

#: Seconds for which a thread without work waits for more: starting one costs a sixth of a call.
IDLE = 5.0

_END = object()
_idle: deque[SimpleQueue[Callable[[], None]]] = deque()  # the inboxes of the threads that wait
_streams: dict[threading.Thread, tuple[threading.Event, float]] = {}
_exiting = False


def end_streams() -> None:
    """Ends what still emits, and waits for it: at interpreter exit.

    A thread that comes back from native code after that is ended by force, and takes the process along. Who still
    reads, in a daemon thread, is told nothing: it is to vanish in silence.
    """
    global _exiting
    _exiting = True
    under_way = list(_streams.items())
    for _, (abandoned, _) in under_way:
        abandoned.set()
    for thread, (_, patience) in under_way:
        thread.join(patience)


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread that does nothing else meanwhile, in a copy of the caller's context.

    A cancelled caller stops waiting; the thread does its work to the end, whose result is dropped, and holds the call's
    slot until then.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    context, slot = contextvars.copy_context(), retained(current.get())

    def settle(value: Any, error: BaseException | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        elif isinstance(error, StopIteration):  # which a future can't hold
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
        _tell(loop, settle, value, error)

    try:
        _hand_over(target)
    except RuntimeError as error:
        if slot is not None:
            slot.release()
        raise ConnectionFailed(f"No thread can be started for the call: {error}.") from None
    return await result


def _hand_over(work: Callable[[], None]) -> None:
    """Has a thread do it that has nothing to do, or a new one."""
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), daemon=True).start()
    inbox.put(work)


def _serve(inbox: SimpleQueue[Callable[[], None]]) -> None:
    thread = threading.current_thread()
    while True:
        thread.name = "modelport-idle"
        try:
            work = inbox.get(timeout=IDLE)
        except Empty:
            try:
                _idle.remove(inbox)
                return
            except ValueError:
                work = inbox.get()  # Whoever took it off the list at this very moment is about to put it in.
        thread.name = "modelport-call"
        work()
        del work  # with all that it holds
        _idle.append(inbox)


async def iterate_in_thread(
    source: Callable[[Callable[[T], bool]], None], *, patience: float = 0.0
) -> AsyncGenerator[T, None]:
    """The items that a blocking function emits from a thread of its own, in a copy of the caller's context.

    Args:
        source: Is called with `emit`, which takes an item and returns True once nobody reads any more: `source` is
            then to return soon.
        patience: How long closing, and the end of the program, wait for `source` to return, in seconds.
    """
    loop = asyncio.get_running_loop()
    items: deque[Any] = deque()
    arrived = asyncio.Event()
    told = False  # of items that it has not seen: once is enough, since each time costs a write to the loop's pipe
    abandoned = threading.Event()
    ended = asyncio.Event()
    context, slot = contextvars.copy_context(), retained(current.get())

    def put(item: Any) -> bool:
        nonlocal told
        items.append(item)
        if told:
            return not loop.is_closed()
        told = True
        return _tell(loop, arrived.set)

    def emit(item: T) -> bool:
        return abandoned.is_set() or not put(item)

    def target() -> None:
        error: BaseException | None = None
        try:
            context.run(source, emit)
        except BaseException as raised:
            error = raised
        if slot is not None:
            slot.release()
        _streams.pop(threading.current_thread(), None)
        if not _exiting:
            put((_END, error))
            _tell(loop, ended.set)

    thread = threading.Thread(target=target, name="modelport-stream", daemon=True)
    if patience:
        _streams[thread] = abandoned, patience
    thread.start()
    try:
        while True:
            while not items:
                arrived.clear()
                told = False
                if not items:  # nor has one come between the two
                    await arrived.wait()
            item = items.popleft()
            if type(item) is tuple and len(item) == 2 and item[0] is _END:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    finally:
        abandoned.set()
        # A loop that ends closes all its generators at once. While this one waited, those that use it could not be
        # closed, and asyncio would complain of that.
        loop_ends = getattr(loop, "_asyncgens_shutdown_called", False)
        if patience and not ended.is_set() and not loop_ends:
            try:
                async with asyncio.timeout(patience):
                    await ended.wait()
            except TimeoutError:
                pass


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., Any], *args: Any) -> bool:
    """Calls back on the loop; False where the loop has ended."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


os.register_at_fork(after_in_child=_idle.clear)  # where none of its threads is
