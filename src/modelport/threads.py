"""Blocking work for async callers, each piece in a thread of its own.

Never on the loop's default executor: models that call models would fill its few threads and wait for each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()
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
    """Runs `work` in a new daemon thread, in a copy of the caller's context.

    A cancelled caller stops waiting; the thread ends with its work, whose result is dropped.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

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
        _tell(loop, settle, value, error)

    threading.Thread(target=target, name="modelport-call", daemon=True).start()
    return await result


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
    context = contextvars.copy_context()

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
