"""A process that calls a model as fast as a shared limit allows.

Its arguments are JSON: the Redis URL, the URL of the model's server, the window in seconds, the seconds to run, and the
limits. For each admitted request it prints its identifier, the time on Redis's clock and the estimated tokens. For each
request that it removes, because it was admitted too long ago when the process noticed, it prints the identifier alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from modelport import Model, OpenAIServerModel, RedisLimits
from modelport.layers.limit import layer
from modelport.layers.limit.shared import SharedDelay


class ReportingLimits(RedisLimits):
    async def _acquire(self, name: str, request_id: str, *arguments: Any) -> tuple[SharedDelay, float]:
        delay, now = await super()._acquire(name, request_id, *arguments)
        if delay.seconds == 0:
            print(json.dumps([request_id, now, arguments[-1]]), flush=True)
        return delay, now

    async def leave(self, name: str, request_id: str) -> None:
        await super().leave(name, request_id)
        print(json.dumps([request_id]), flush=True)


async def call_until(model: Model, seconds: float) -> None:
    end = time.monotonic() + seconds

    async def call() -> None:
        while time.monotonic() < end:
            await model.agenerate("hello", max_tokens=30)

    await asyncio.gather(*(call() for _ in range(4)))


if __name__ == "__main__":
    redis_url, base_url, layer.WINDOW_SECONDS, seconds, limits = map(json.loads, sys.argv[1:])
    # The imports of the first call take seconds on a busy machine.
    asyncio.run(OpenAIServerModel("m", base_url, "k").agenerate("warm up"))
    shared = ReportingLimits(redis_url, timeout=10.0)
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(call_until(OpenAIServerModel("m", base_url, "k", retry=False, shared_limits=shared, **limits), seconds))
