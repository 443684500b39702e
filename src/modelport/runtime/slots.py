"""A call's slot among those under way at once, which all that work for the call hold until they are done.

A thread can't be ended: where a caller leaves or its time is up it works on, and the slot is not free before it ends.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Slot(Protocol):
    """Is free once nobody holds it any more; any thread may hold it and let it go."""

    def retain(self) -> bool:
        """Holds it once more; False where it is free already, and the call so over."""
        ...

    def release(self) -> None:
        """Takes one `hold` back."""
        ...


#: That of the call which works in this context. It is set around each read of its deltas, never over a `yield`.
current: ContextVar[Slot | None] = ContextVar("modelport_place", default=None)


def retained(slot: Slot | None) -> Slot | None:
    """The slot, held once more for work that may outlast the call; `None` where there is none, or the call is over."""
    return slot if slot is not None and slot.retain() else None
