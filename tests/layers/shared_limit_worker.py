"""A process that calls a model as fast as a shared limit lets it: `url base_url window seconds limits…`.

It prints the moment, on the Redis's clock, of each request that was let through.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from modelport import Model, OpenAIServerModel, RedisLimits
from modelport.layers.limit import layer as limit


class Noting(RedisLimits):
    async def _ask(self, of: str, entry: str, *args: Any) -> tuple[float, float]:
        wait, now = await super()._ask(of, entry, *args)
        if wait == 0:
            print(json.dumps([now, args[-1]]), flush=True)
        return wait, now


async def work(model: Model, seconds: float) -> None:
    ends = time.monotonic() + seconds

    async def call() -> None:
        while time.monotonic() < ends:
            await model.agenerate("hello", max_tokens=30)

    await asyncio.gather(*(call() for _ in range(4)))


if __name__ == "__main__":
    redis_url, base_url, limit.WINDOW, seconds, given = map(json.loads, sys.argv[1:])
    asyncio.run(
        OpenAIServerModel("m", base_url, "k").agenerate("warm up")
    )  # its imports take seconds on a busy machine
    shared = Noting(redis_url, timeout=10.0)
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(work(OpenAIServerModel("m", base_url, "k", retry=False, shared_limits=shared, **given), seconds))
