"""Measures how long a call holds the event loop, so that nothing else can run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from modelport.errors import ModelError


async def longest_hold(call: Awaitable[Any]) -> tuple[Any, float]:
    """Await a call; return its result or `ModelError`, and the longest time for which it held the loop, in seconds.

    The time is that of the processor in the loop's own thread, so it does not depend on what else the machine does.
    """
    longest, ended = 0.0, False

    async def tick() -> None:
        nonlocal longest
        last = time.thread_time()
        while not ended:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0)
    try:
        result = await call
    except ModelError as error:
        result = error
    ended = True
    await ticking
    return result, longest


def large_schema(name: str) -> dict[str, Any]:
    """Return a schema of 99 KB. A grammar of it is compiled anew for each name."""
    field = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}}, "required": ["a"]}
    names = [f"{name}{index}" for index in range(830)]
    return {"type": "object", "properties": dict.fromkeys(names, field), "required": names}
