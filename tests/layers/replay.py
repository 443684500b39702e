"""A backend that replays attempts, and calls of it through the retry layer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from modelport.errors import (
    ModelError,
)
from modelport.layers.retry import Retry, RetryPolicy
from modelport.model import Model
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.request import Request, Timeouts
from tests.layers.clock import run_with_fake_clock

Delta = ChatMessageStreamDelta
OK: list[Any] = ["Paris", Delta(finish_reason="stop")]
HANG: list[Any] = [10_000]
WITHOUT_WAITS = RetryPolicy(base=0)


class Backend:
    """Replays one list per attempt: texts and deltas to yield, seconds to wait, errors to raise."""

    def __init__(self, *attempts: list[Any]) -> None:
        self.attempts = list(attempts)
        self.sent_at: list[float] = []
        self.log: list[str] = []

    async def __call__(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.sent_at.append(asyncio.get_running_loop().time())
        self.log.append("sent")
        try:
            for item in self.attempts[min(len(self.sent_at), len(self.attempts)) - 1]:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, int | float):
                    await asyncio.sleep(item)
                else:
                    yield Delta(content=item) if isinstance(item, str) else item
        finally:
            self.log.append("closed")


class BackedModel(Model):
    """A model with such a backend."""

    def __init__(self, *attempts: list[Any], **settings: Any) -> None:
        super().__init__("backed", **settings)
        self.backend = Backend(*attempts)

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        async for delta in self.backend(request):
            yield delta


def request(**limits: Any) -> Request:
    return Request((ChatMessage(MessageRole.USER, "?"),), timeouts=Timeouts(**limits), stream=True)


def start(request: Request, backend: Any, policy: RetryPolicy = WITHOUT_WAITS) -> AsyncGenerator[Delta, None]:
    """Start a call through the layer, as `Model` does: with the deadline set."""
    if request.timeouts.timeout is not None:
        request.timeouts.deadline = asyncio.get_running_loop().time() + request.timeouts.timeout
    return Retry(policy)(request, backend)


async def deltas_of(backend: Backend, policy: RetryPolicy = WITHOUT_WAITS, sent: Request | None = None) -> list[Delta]:
    return [delta async for delta in start(sent or request(), backend, policy)]


def result_of(backend: Backend, policy: RetryPolicy = WITHOUT_WAITS, **limits: float | None) -> tuple[Any, float]:
    """Return the text of the response or the error, and the time at which it came."""

    async def work(clock: Callable[[], float]) -> tuple[Any, float]:
        try:
            return accumulate(await deltas_of(backend, policy, request(**limits))).content, clock()
        except ModelError as error:
            return error, clock()

    return run_with_fake_clock(work)
