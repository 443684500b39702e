"""What the layer needs from a window in which several processes count together, such as `RedisLimits`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio

#: Seconds for which a call that leaves waits until the shared window has removed its request. The removal continues
#: afterwards in the background.
LEAVE_SECONDS = 0.25


class SharedDelay(NamedTuple):
    """How long a request has to wait.

    Attributes:
        seconds: The seconds to wait before asking again; 0 if the request is admitted.
        for_requests: The seconds for which the limit of requests alone makes it wait. The limit of tokens counts
            estimates, which may shrink meanwhile, but this time does not become shorter.
    """

    seconds: float
    for_requests: float = 0.0


class SharedWindow(Protocol):
    """A window in which several processes count together, such as `RedisLimits`.

    Attributes:
        on_unavailable: `error` if calls fail while the window cannot be reached; `local` if each process then enforces
            the limits in its own window.
    """

    @property
    def on_unavailable(self) -> str:
        """What happens while the window cannot be reached: `error` or `local`."""
        ...

    async def acquire(
        self, name: str, request_id: str, seconds: float, requests: float | None, tokens: float | None, wanted: int
    ) -> SharedDelay:
        """Admit a request, or return how long it has to wait before it asks again.

        Args:
            name: The name of the limit.
            request_id: The identifier of the request, which must be the same each time it asks.
            seconds: The length of the window in seconds.
            requests: The most requests in one window; `None` for no limit.
            tokens: The most tokens in one window; `None` for no limit.
            wanted: The estimated tokens of this request.
        """
        ...

    async def leave(self, name: str, request_id: str) -> None:
        """Remove a request that will not be sent, whether it waits or has been admitted."""
        ...

    async def correct(self, name: str, request_id: str, tokens: int) -> None:
        """Replace the estimated tokens of an admitted request by the tokens that it used."""
        ...


#: The removals in progress. asyncio itself has only weak references to tasks.
_removals: set[asyncio.Task[None]] = set()


async def leave(shared: SharedWindow, name: str, request_id: str) -> None:
    """Remove a request that will not be sent, and wait for that for `LEAVE_SECONDS` at most.

    If the window cannot be reached, nothing is raised: it drops a request that does not ask again.
    """
    import asyncio  # Imported at the first call and not with the package, because the import takes long.

    task = asyncio.get_running_loop().create_task(_remove(shared, name, request_id))
    _removals.add(task)
    task.add_done_callback(_removals.discard)
    await asyncio.wait({task}, timeout=LEAVE_SECONDS)


async def _remove(shared: SharedWindow, name: str, request_id: str) -> None:
    try:
        await shared.leave(name, request_id)
    except Exception:  # A window of another author may raise any error, and nobody waits for this task.
        pass
