"""Models that replay their responses, and the four methods of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from modelport import ChatMessage, ChatMessageStreamDelta, FallbackModel, Model
from modelport.errors import ServerError
from modelport.types.request import Request

Delta = ChatMessageStreamDelta
END = Delta(finish_reason="stop")
#: A response that is interrupted after its first part.
INTERRUPTED: list[Any] = ["The ", "capi", ServerError("it broke")]


class ReplayModel(Model):
    """Replays one list per call, the last one for all further calls: texts, deltas, seconds to wait, and errors."""

    def __init__(self, model_id: str, *calls: list[Any], **settings: Any) -> None:
        super().__init__(model_id, **{"retry": False, **settings})
        self.calls = calls or ([model_id, END],)
        self.requests: list[Request] = []
        self.closed = 0

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        try:
            for item in self.calls[min(len(self.requests), len(self.calls)) - 1]:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, int | float):
                    await asyncio.sleep(item)
                else:
                    yield Delta(content=item) if isinstance(item, str) else item
        finally:
            self.closed += 1

    @property
    def call_count(self) -> int:
        return len(self.requests)


class FallbackModelWithClock(FallbackModel):
    """A `FallbackModel` with the fake clock of its event loop."""

    def __init__(self, clock: Callable[[], float], models: list[Any], **settings: Any) -> None:
        super().__init__(models, **settings)
        self._clock = clock


def failing(name: str = "failing", error: Exception | None = None) -> ReplayModel:
    """Return a model whose calls all fail."""
    return ReplayModel(name, [error or ServerError("no")])


def generate(model: Model, **options: Any) -> ChatMessage:
    return model.generate("?", **options)


def generate_stream(model: Model, **options: Any) -> ChatMessage:
    with model.generate_stream("?", **options) as stream:
        for _ in stream:
            pass
    return stream.message


def agenerate(model: Model, **options: Any) -> ChatMessage:
    return asyncio.run(model.agenerate("?", **options))


def agenerate_stream(model: Model, **options: Any) -> ChatMessage:
    async def read() -> ChatMessage:
        async with model.agenerate_stream("?", **options) as stream:
            async for _ in stream:
                pass
        return stream.message

    return asyncio.run(read())


def attempts_of(message: ChatMessage | Exception) -> list[tuple[str | None, str | None]]:
    """Return the models that were called, each with its error."""
    return [(attempt.model_id, attempt.error) for attempt in message.attempts]  # type: ignore[union-attr]
