"""What a layer is, and how layers become one callable.

A request passes through the layers from the outermost to the innermost, and then to the backend. The deltas of the
response pass through the same layers in reverse order. A layer with nothing to do returns `next(request)` itself, and
so adds no work for each delta.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Protocol

from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request

Deltas = AsyncGenerator[ChatMessageStreamDelta, None]
#: Sends a request to the next layer, or from the innermost layer to the backend.
Next = Callable[[Request], Deltas]


class Layer(Protocol):
    """One layer: a callable that can be pickled."""

    def __call__(self, request: Request, next: Next) -> Deltas:
        """Pass the request on to `next`, and return the deltas of the response."""
        ...


def compose(layers: Iterable[Layer], backend: Next) -> Next:
    """Return one callable that sends a request through all layers.

    Args:
        layers: The layers, the outermost first.
        backend: The function to which the innermost layer passes the request.
    """
    call = backend
    for layer in reversed(list(layers)):
        call = partial(layer, next=call)
    return call
