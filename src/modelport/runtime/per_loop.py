"""One resource for each event loop, such as an HTTP session, whose connections belong to the loop that made them.

A resource is made at its first use on a loop. It is closed when its loop shuts down, or when its `PerLoop` is garbage
collected.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from modelport.runtime.lifecycle import CLOSE_TIMEOUT
from modelport.runtime.running_calls import running_loop

T = TypeVar("T")
#: Event loop -> its resource, and the generator that closes the resource. The loops have the type `Any`, because
#: asyncio is not imported before the first call.
_Entries = dict[Any, tuple[Any, AsyncGenerator[None, None]]]


class PerLoop(Generic[T]):
    """One resource for each event loop on which `get` is called.

    A resource is closed when its loop shuts down, or when this object is garbage-collected.

    Args:
        close: Closes a resource, on its loop.
    """

    def __init__(self, close: Callable[[T], Awaitable[Any]]) -> None:
        self._close = close
        self._entries: _Entries = {}
        # The finaliser gets the dict and not this object: an object to which its finaliser refers is never collected.
        # It does not run at interpreter exit, when the resources end with the process.
        weakref.finalize(self, _close_all, self._entries).atexit = False

    async def get(self, make: Callable[[], T]) -> T:
        """Return the resource of the running loop. `make` makes it if the loop has none."""
        loop = _running_loop()
        entry = self._entries.get(loop)
        if entry is None:
            for other in list(self._entries):  # `list` copies the keys: other threads add and remove their own loops.
                if other.is_closed():
                    self._entries.pop(other, None)
            resource = make()
            # A loop that shuts down closes its suspended async generators and nothing else. So the resource is closed
            # by a generator, which `anext` runs up to its `yield`.
            closer = _close_with_loop(self._entries, resource, self._close)
            entry = self._entries[loop] = (resource, closer)
            await anext(closer)
        resource = entry[0]
        return resource

    async def aclose(self) -> None:
        """Close the resource of the running loop."""
        entry = self._entries.pop(_running_loop(), None)
        if entry is not None:
            await entry[1].aclose()

    def close(self) -> None:
        """Close the resources of all loops. Any thread may call this method.

        It waits for the loops that run, for `CLOSE_TIMEOUT` seconds at most, but not for the loop that runs in this
        thread. A loop that stands still closes its resource when it runs again.
        """
        from asyncio import run_coroutine_threadsafe
        from concurrent.futures import wait

        own_loop, closing = running_loop(), []
        for loop in list(self._entries):
            if (entry := self._entries.pop(loop, None)) is None:
                continue  # Another thread closes it.
            coroutine = _close(entry[1])
            try:
                future = run_coroutine_threadsafe(coroutine, loop)
            except RuntimeError:
                coroutine.close()  # The loop has ended, and has closed its resource.
                continue
            if loop is not own_loop and loop.is_running():
                closing.append(future)
        wait(closing, timeout=CLOSE_TIMEOUT)


async def _close_with_loop(
    entries: _Entries, resource: T, close: Callable[[T], Awaitable[Any]]
) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        loop = _running_loop()
        if (entry := entries.get(loop)) is not None and entry[0] is resource:
            del entries[loop]
        await close(resource)


async def _close(closer: AsyncGenerator[None, None]) -> None:
    await closer.aclose()


def _running_loop() -> Any:
    from asyncio import get_running_loop

    return get_running_loop()


def _close_all(entries: _Entries) -> None:
    for loop, (_, closer) in list(entries.items()):
        try:
            loop.call_soon_threadsafe(lambda loop=loop, closer=closer: loop.create_task(closer.aclose()))
        except RuntimeError:
            pass  # The loop has ended, and has closed its resource.
    entries.clear()
