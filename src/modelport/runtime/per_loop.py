"""Connections belong to the event loop that made them, and are closed with it."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
#: By event loop. asyncio itself is not imported before the first call.
_Entries = dict[Any, tuple[Any, AsyncGenerator[None, None]]]


class PerLoop(Generic[T]):
    """One resource for each event loop that asks for it; closed with the loop, or when this object is forgotten.

    Args:
        close: Closes a resource, on its loop.
    """

    def __init__(self, close: Callable[[T], Awaitable[Any]]) -> None:
        self._close = close
        self._entries: _Entries = {}
        # The finaliser holds the resources, so that they are still whole when their owner is collected.
        weakref.finalize(self, _release, self._entries).atexit = False

    async def get(self, make: Callable[[], T]) -> T:
        """The running loop's resource, made on first use."""
        loop = _running_loop()
        entry = self._entries.get(loop)
        if entry is None:
            for other in list(self._entries):  # a copy: other threads add and remove their own
                if other.is_closed():
                    self._entries.pop(other, None)
            resource = make()
            # A suspended async generator is the one thing that a loop closes by itself when it ends.
            keeper = _keep(self._entries, resource, self._close)
            entry = self._entries[loop] = (resource, keeper)
            await anext(keeper)
        resource = entry[0]
        return resource

    async def aclose(self) -> None:
        """Closes the running loop's resource."""
        entry = self._entries.get(_running_loop())
        if entry is not None:
            await entry[1].aclose()


async def _keep(entries: _Entries, resource: T, close: Callable[[T], Awaitable[Any]]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        entries.pop(_running_loop(), None)
        await close(resource)


def _running_loop() -> Any:
    from asyncio import get_running_loop

    return get_running_loop()


def _release(entries: _Entries) -> None:
    for loop, (_, keeper) in list(entries.items()):
        try:
            loop.call_soon_threadsafe(lambda loop=loop, keeper=keeper: loop.create_task(keeper.aclose()))
        except RuntimeError:
            pass  # The loop has ended.
    entries.clear()
