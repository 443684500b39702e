"""What a layer is, and how layers become one callable.

A request passes through the layers from the outermost to the innermost, and then to the backend. Deltas come back the
same way. A layer with nothing to do returns `next(request)` itself, and so adds no work to a call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Protocol

from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request

Deltas = AsyncGenerator[ChatMessageStreamDelta, None]
Next = Callable[[Request], Deltas]


class Layer(Protocol):
    """One layer: a callable that can be pickled."""

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Pass the request on to `next`, and the deltas back to the caller."""
        ...


def compose(layers: Iterable[Layer], backend: Next) -> Next:
    """Return one callable that sends a request through all layers.

    Args:
        layers: The outermost layer comes first.
        backend: Receives what the innermost layer passes on.
    """
    call = backend
    for layer in reversed(list(layers)):
        call = partial(layer, next=call)
    return call
