"""Runs the layers of a caller (`model.with_layers(…)`) around a model.

Layers of callers are simpler than those of modelport: most read the deltas of `next(request)` in a loop, without
closing the generator if the loop ends early. So this module closes every generator that a layer got, and it applies the
time limit of the call to the layers too.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

from modelport.layers.base import Deltas, Layer, Next
from modelport.layers.deadline import AttemptTimer
from modelport.runtime.running_calls import RunningCalls
from modelport.types.request import Request, Timeouts

M = TypeVar("M")


def check_layers(layers: Iterable[Any]) -> None:
    """Check that these objects can be layers.

    Raises:
        TypeError: One is not callable, or does not return an asynchronous generator.
    """
    for layer in layers:
        if not callable(layer):
            raise TypeError(f"with_layers takes callables, as layer(request, next), not {type(layer).__name__}")
        function = layer if inspect.isroutine(layer) else type(layer).__call__
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise TypeError("a layer is written with `async def` and contains `yield`, or returns `next(request)`")


def copy_of(model: M) -> M:
    """Return a copy of an object without layers, as `copy.copy` makes it."""
    reduced: Any = object.__reduce_ex__(model, 4)
    function, arguments, state = reduced[:3]
    result: M = function(*arguments)
    if hasattr(result, "__setstate__"):
        result.__setstate__(state)
    else:
        result.__dict__.update(state)
    return result


async def run_layers_of_caller(
    layers: Iterable[Layer], run: Next, request: Request, running_calls: RunningCalls
) -> Deltas:
    """Send a request through layers of a caller, and yield the deltas of the response.

    Args:
        layers: The layers, the outermost first.
        run: Sends the request to the model, through modelport's own layers.
        request: The request.
        running_calls: The calls of the model that run, to which this one is added.

    Raises:
        DeadlineExceeded: The time limit of the call has passed.
        ModelClosed: The model has been closed.
        TypeError: A layer returned no asynchronous generator.
    """
    opened: list[Any] = []  # Every generator that a layer or the model has returned, usually the outermost first.

    def recorded(send: Next, request: Request) -> Deltas:
        deltas = send(request)
        if not hasattr(deltas, "aclose"):
            raise TypeError(f"a layer returned {type(deltas).__name__} instead of an asynchronous generator of deltas")
        opened.append(deltas)
        return deltas

    send: Next = partial(recorded, run)
    for layer in reversed(list(layers)):
        send = partial(recorded, partial(layer, next=send))
    timeouts = request.timeouts
    loop = asyncio.get_running_loop()
    if timeouts.timeout is not None and timeouts.deadline is None:
        timeouts.deadline = loop.time() + timeouts.timeout
    call = running_calls.start(timeouts, loop, None)
    timer = AttemptTimer(Timeouts(timeout=timeouts.timeout, deadline=timeouts.deadline, call=call))
    call.close_deltas = partial(_close_all, opened)
    try:
        call.deltas = deltas = send(request)
        while True:
            with timer:
                delta = await anext(deltas, None)
            if delta is None:
                return
            yield delta
            if call.error is not None:
                await call.raise_error()
    finally:
        timer.close()
        running_calls.remove(call)
        await _close_all(opened)


async def _close_all(generators: Iterable[Any]) -> None:
    async with AsyncExitStack() as stack:
        for one in reversed(list(generators)):
            stack.push_async_callback(one.aclose)
