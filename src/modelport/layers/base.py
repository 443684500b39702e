"""The way of a request: layers of one shape, `(request, next) -> async iterator of deltas`.

A layer with nothing to do returns `next(request)`, and so costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Protocol

from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request

Deltas = AsyncGenerator[ChatMessageStreamDelta, None]
Next = Callable[[Request], Deltas]

#: What `Limit` gives first where a limit to the first token is kept: the request goes out now, and its time begins.
SENT = ChatMessageStreamDelta()


class Layer(Protocol):
    """One step on the way; a picklable object."""

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Passes the request on, and the deltas back."""
        ...


def compose(layers: Iterable[Layer], backend: Next) -> Next:
    """One callable: the first layer outermost, the backend innermost."""
    call = backend
    for layer in reversed(list(layers)):
        call = partial(layer, next=call)
    return call
