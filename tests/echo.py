"""A backend that echoes, and the four methods of a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, JSONSchema
from modelport.types.request import Request
from modelport.types.tools import Tool
from modelport.types.usage import TokenUsage

Delta = ChatMessageStreamDelta
WEATHER = Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
TIME = Tool("time", "", {"type": "object", "properties": {}})


class EchoModel(Model):
    """A backend that responds with the text `response` and stores the requests."""

    declared_capabilities = Capabilities(tools=True, grammars={JSONSchema, Choice}, seed=True)  # type: ignore[arg-type]
    response: Any = "Paris is it. END And more."

    def __init__(self, model_id: str | None = "echo", **settings: Any) -> None:
        super().__init__(model_id, **settings)
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        if isinstance(self.response, Exception):
            raise self.response
        for word in self.response.split(" "):
            yield Delta(content=word + " ")
        yield Delta(finish_reason="stop", token_usage=TokenUsage(3, 4))


def request_for(*args: Any, settings: dict[str, Any] | None = None, **options: Any) -> Request:
    """Return the request that reaches a backend, for these settings of the model and these options of the call."""
    model = EchoModel(**(settings or {}))
    list(model.generate_stream(*args or ("?",), **options))
    return model.requests[0]


#: The four methods of a call. Each returns the text of the response.
METHODS: dict[str, Callable[..., str]] = {
    "generate": lambda m, *a, **k: m.generate(*a, **k).content,
    "generate_stream": lambda m, *a, **k: "".join(d.content or "" for d in m.generate_stream(*a, **k)),
    "agenerate": lambda m, *a, **k: asyncio.run(m.agenerate(*a, **k)).content,
    "agenerate_stream": lambda m, *a, **k: asyncio.run(text_of(m.agenerate_stream(*a, **k))),
}


async def text_of(stream: Any) -> str:
    """Return the text of an asynchronous stream."""
    return "".join([delta.content or "" async for delta in stream])


each_method = pytest.mark.parametrize("method", METHODS)
