"""A scripted backend, tools and schemas for the tests of the adapt layer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from pydantic import BaseModel

from modelport.layers.retry import RetryPolicy
from modelport.model import Model
from modelport.types.deltas import ChatMessageStreamDelta, ChatMessageToolCallStreamDelta
from modelport.types.messages import ChatMessageToolCallFunction
from modelport.types.output_types import Regex
from modelport.types.request import Request
from modelport.types.tools import Tool
from modelport.types.usage import TokenUsage

Delta = ChatMessageStreamDelta
DATE = Regex(r"\d{4}-\d\d-\d\d")
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
WEATHER = Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
TIME = Tool("time", "", {"type": "object", "properties": {}})


class Person(BaseModel):
    age: int


def tool_call(name: str, arguments: str, call_id: str = "c1") -> list[Any]:
    """Return the deltas of a response with one tool call."""
    function = ChatMessageToolCallFunction(arguments, name)
    call = ChatMessageToolCallStreamDelta(0, call_id, "function", function)
    return [Delta(tool_calls=[call]), Delta(finish_reason="tool_calls", token_usage=TokenUsage(10, 5))]


class ScriptedBackend(Model):
    """Responds to each request with the next list of texts, deltas and errors, and records the requests."""

    def __init__(self, *responses: list[Any] | str, **settings: Any) -> None:
        super().__init__("scripted", retry=RetryPolicy(base=0), **settings)
        self.responses = [[response] if isinstance(response, str) else response for response in responses]
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        finished = False
        for item in self.responses[len(self.requests) - 1]:
            if isinstance(item, Exception):
                raise item
            delta = Delta(content=item) if isinstance(item, str) else item
            finished = finished or delta.finish_reason is not None
            yield delta
        if not finished:
            yield Delta(finish_reason="stop", token_usage=TokenUsage(10, 5, 1))
