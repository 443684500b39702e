"""Blocking work for async callers, each piece in a thread of its own.

Never on the loop's default executor: models that call models would fill its few threads and wait for each other.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from types import AsyncGeneratorType
from typing import Any, TypeVar

T = TypeVar("T")

_END = object()


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


def owned(generator: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same generator, whose closing is left to its consumer.

    A loop that ends closes all generators that it knows, at once and in any order. One that is being closed by another
    at that moment, and waits, would make that an error; so the loop is to know the outermost of a chain alone.
    """
    if isinstance(generator, AsyncGeneratorType):
        known = sys.get_asyncgen_hooks().firstiter
        sys.set_asyncgen_hooks(firstiter=None)
        try:
            generator.__anext__().close()  # type: ignore[attr-defined]  # tells the hooks, and nothing else
        finally:
            sys.set_asyncgen_hooks(firstiter=known)
    return generator


def iterate_in_thread(
    source: Callable[[Callable[[T], bool]], None], *, patience: float = 0.0
) -> AsyncGenerator[T, None]:
    """The items that a blocking function emits from a thread of its own, in a copy of the caller's context.

    Args:
        source: Is called with `emit`, which takes an item and returns True once nobody reads any more: `source` is
            then to return soon.
        patience: How long closing waits for `source` to return, in seconds.
    """
    return owned(_iterate(source, patience))


async def _iterate(source: Callable[[Callable[[T], bool]], None], patience: float) -> AsyncGenerator[T, None]:
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[Any] = asyncio.Queue()
    abandoned = threading.Event()
    ended = asyncio.Event()
    context = contextvars.copy_context()

    def emit(item: T) -> bool:
        return abandoned.is_set() or not _tell(loop, items.put_nowait, item)

    def target() -> None:
        error: BaseException | None = None
        try:
            context.run(source, emit)
        except BaseException as raised:
            error = raised
        _tell(loop, items.put_nowait, (_END, error))
        _tell(loop, ended.set)

    threading.Thread(target=target, name="modelport-stream", daemon=True).start()
    try:
        while True:
            item = await items.get()
            if type(item) is tuple and len(item) == 2 and item[0] is _END:
                if item[1] is not None:
                    raise item[1]
                return
            yield item
    finally:
        abandoned.set()
        if patience and not ended.is_set():
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
