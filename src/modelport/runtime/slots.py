"""The concurrency slot of a call (`max_concurrency`), which is free only when everybody who works for the call is done.

The limit layer holds the slot, and so does each thread that does blocking work for the call, because a thread can't be
ended: if the caller leaves, or the time of the call is up, the thread works on.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Slot(Protocol):
    """A slot with a count of holders; it is free when nobody holds it. Any thread may retain and release it."""

    def retain(self) -> bool:
        """Add a holder. Return False, and add none, if the slot is free already because the call has ended."""
        ...

    def release(self) -> None:
        """Remove a holder."""
        ...


#: The slot of the call that runs in this context. It is set around each read of the call's deltas, and never over a
#: `yield`.
current: ContextVar[Slot | None] = ContextVar("modelport_slot", default=None)


def retain(slot: Slot | None) -> Slot | None:
    """Add a holder for work that may outlast the call.

    Returns:
        The slot, which the caller must release; `None` if there is no slot, or if the call has ended.
    """
    return slot if slot is not None and slot.retain() else None
