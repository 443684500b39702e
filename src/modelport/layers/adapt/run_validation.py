"""Runs the validation of a response: at once if that is short, and otherwise in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from modelport.schema.time_limit import ThreadNeeded, time_limit
from modelport.types.request import Timeouts

T = TypeVar("T")


async def run_validation(validate: Callable[[], T], timeouts: Timeouts) -> T:
    """Validate on the event loop, or in a thread if that takes too long for the loop, and return the result.

    The result is that of the validation, however busy the machine is and whatever has been imported: `ThreadNeeded`
    says nothing about the value.

    Raises:
        DeadlineExceeded: The validation takes longer than the call's `timeout`.
    """
    try:
        with time_limit(on_loop=True):
            return validate()
    except ThreadNeeded:
        from modelport.layers.adapt.off_loop import run_in_thread  # Here, because it imports asyncio.

    return await run_in_thread(validate, timeouts)
