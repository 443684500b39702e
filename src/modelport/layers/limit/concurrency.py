"""The slots of `max_concurrency`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelport.layers.base import Deltas
from modelport.runtime import slots
from modelport.types.deltas import ChatMessageStreamDelta

if TYPE_CHECKING:
    from modelport.layers.limit.layer import Limit


class ConcurrencySlot:
    """One of the slots of `max_concurrency`.

    Its holders are the call and each thread that works for the call. The slot becomes free when every holder has
    released it or has been garbage-collected.
    """

    def __init__(self, limit: Limit) -> None:
        self._limit, self._holders = limit, 1

    def retain(self) -> bool:
        """Add a holder. Return False, and add none, if the slot is free already because the call has ended."""
        with self._limit._lock:
            self._holders += self._holders > 0
            return self._holders > 0

    def release(self) -> None:
        """Remove a holder. If it was the last, free the slot and wake the first waiting call."""
        with self._limit._lock:
            self._holders -= 1
            if not self._holders:
                self._limit._slots.discard(self)
                self._limit._wake_first()

    async def read(self, deltas: Deltas) -> ChatMessageStreamDelta:
        """Read the next delta. Threads that are started meanwhile find this slot in `slots.current`, and retain it."""
        token = slots.current.set(self)
        try:
            return await anext(deltas)
        finally:
            try:
                slots.current.reset(token)
            except ValueError:  # The garbage collector closes the call in another context, where `token` is invalid.
                pass
