"""A backend for the tests of limits: it records when requests arrive, and how many run at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from modelport.layers.base import Next
from modelport.layers.limit.layer import Limit
from modelport.model import Model
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

Delta = ChatMessageStreamDelta


def request(text: str = "?", **parameters: Any) -> Request:
    return Request((ChatMessage(MessageRole.USER, text),), parameters=parameters)


class Backend:
    """Takes `seconds` for each request, and records each request's time and text."""

    def __init__(
        self, seconds: float = 0.0, usage: TokenUsage | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seconds, self.usage, self.clock = seconds, usage, clock
        self.times: list[float] = []
        self.texts: list[str] = []
        self.running = self.most_running = 0
        self._lock = threading.Lock()

    async def __call__(self, request: Request) -> AsyncGenerator[Delta, None]:
        with self._lock:
            self.times.append(self.clock())
            self.texts.append(request.messages[0].text)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        try:
            yield Delta(content="a")
            await asyncio.sleep(self.seconds)
            yield Delta(finish_reason="stop", token_usage=self.usage)
        finally:
            with self._lock:
                self.running -= 1


class BackendModel(Model):
    """A model over a `Backend`."""

    def __init__(self, backend: Backend, **settings: Any) -> None:
        super().__init__("counting", **settings)
        self.backend = backend

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        async for delta in self.backend(request):
            yield delta


async def send(limit: Limit, backend: Next, sent: Request | None = None) -> None:
    """Send one request through the limit, and read the complete response."""
    async for _ in limit(sent or request(), backend):
        pass


def most_in_a_window(times: Sequence[float], seconds: float) -> int:
    """Return the largest number of these times within any window of so many seconds."""
    return max(sum(start <= t < start + seconds for t in times) for start in times)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - other threads make the condition true
            await asyncio.sleep(0.001)


def call_from_threads_and_loops(model: Model, calls: int) -> None:
    """Make one call, then `calls` each from two threads (sync, in turn) and from two event loops (async, at once)."""

    def one_after_another() -> None:
        for n in range(calls):
            model.generate("?") if n % 2 else list(model.generate_stream("?"))

    async def all_at_once() -> None:
        await asyncio.gather(*(model.agenerate("?") for _ in range(calls)))

    model.generate("?")
    callers = [threading.Thread(target=one_after_another, daemon=True) for _ in range(2)]
    callers += [threading.Thread(target=lambda: asyncio.run(all_at_once()), daemon=True) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
        assert not caller.is_alive(), "a waiter was never woken"
