"""The concurrency slot of a call (`max_concurrency`), which is released when the call and its threads have finished.

The layer `limit` holds the slot, and so does each thread that does blocking work for the call. A thread can't be
stopped from outside: if the call is cancelled or its timeout passes, the thread continues to work.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Slot(Protocol):
    """A slot that counts its holders. It is free when it has none. Any thread may call the methods."""

    def retain(self) -> bool:
        """Add a holder and return True. If the slot is already free because the call has ended, only return False."""
        ...

    def release(self) -> None:
        """Remove a holder."""
        ...


#: The slot of the call that runs in this context. It is set while a delta of the call is read, and reset before the
#: delta is yielded, because the consumer may resume the generator in another context.
current: ContextVar[Slot | None] = ContextVar("modelport_slot", default=None)


def retain(slot: Slot | None) -> Slot | None:
    """Add a holder for work that may outlast the call.

    Returns:
        The slot, on which `release` must be called later; `None` if there is no slot, or if the call has ended.
    """
    return slot if slot is not None and slot.retain() else None
