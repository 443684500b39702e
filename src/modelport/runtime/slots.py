"""A call's place among those under way at once, which all that work for the call hold until they are done.

A thread can't be ended: where a caller leaves or its time is up it works on, and the place is not free before it ends.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Place(Protocol):
    """Is free once nobody holds it any more; any thread may hold it and let it go."""

    def hold(self) -> bool:
        """Holds it once more; False where it is free already, and the call so over."""
        ...

    def let_go(self) -> None:
        """Takes one `hold` back."""
        ...


#: That of the call which works in this context. It is set around each read of its deltas, never over a `yield`.
here: ContextVar[Place | None] = ContextVar("modelport_place", default=None)


def held(place: Place | None) -> Place | None:
    """The place, held once more for work that may outlast the call; `None` where there is none, or the call is over."""
    return place if place is not None and place.hold() else None
