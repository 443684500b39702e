"""Validates a response without holding the event loop.

Most validations take less than a millisecond, and run at once. One that takes longer than
`modelport.schema.time_limit.LOOP_TIMEOUT`, or has a long step that can't be interrupted, is run again in a thread. The
call then waits for the thread, but no longer than its `timeout`.

This module imports asyncio, which takes long. So it is imported when a thread is needed, and not with the package.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from modelport.errors import DeadlineExceeded
from modelport.runtime.threads import in_thread
from modelport.schema.time_limit import time_limit
from modelport.types.request import Timeouts

T = TypeVar("T")


async def run_in_thread(validate: Callable[[], T], timeouts: Timeouts) -> T:
    """Validate in a thread, and return the result.

    If the call ends before the thread, because of its `timeout` or because it is cancelled, the thread ends at the next
    part of the schema.

    Raises:
        DeadlineExceeded: The call's `timeout` has passed.
    """
    abandoned = threading.Event()

    def work() -> T:
        with time_limit(is_abandoned=abandoned.is_set):
            return validate()

    try:
        async with asyncio.timeout_at(timeouts.deadline) as limit:
            return await in_thread(work)
    except TimeoutError:
        if not limit.expired():
            raise
        name = "The timeout" if timeouts.timeout is None else f"timeout={timeouts.timeout:g} s"
        raise DeadlineExceeded(f"{name} ran out while the response was validated.", retryable=False) from None
    finally:
        abandoned.set()
