"""A model that answers from a queue, for tests of what is built on models."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, ClassVar

from modelport.errors import ModelError
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta, as_delta
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Request


class ScriptedModel(Model):
    """Answers each call with the next answer of its script, through all layers of a real model.

    Args:
        *answers: Each a text, a `ChatMessage`, a list of deltas (or texts) to stream as they are, an exception to
            raise, a number of seconds to wait before the next answer, or a function of the `Request` that returns one
            of these.
        repeat: Whether to begin again at the end of the script; by default a call too many is an error.
        **settings: See `Model`.

    Attributes:
        requests: The requests that reached the model, in order.

    Example:
        >>> model = ScriptedModel("Paris", "Rome")
        >>> print(model("The capital of France?"))
        Paris
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        tools=True,
        grammars=frozenset({JSONSchema, Regex, Choice, Lark}),
        grammar_with_tools=True,
        inputs=frozenset({"text", "image", "audio", "file"}),
        image_urls=True,
        logprobs=True,
        seed=True,
        reasoning=True,
        reasoning_efforts=frozenset(REASONING_EFFORTS),
        reasoning_budget=True,
        usage=True,
        cached_tokens=True,
    )

    def __init__(self, *answers: Any, repeat: bool = False, **settings: Any) -> None:
        super().__init__(settings.pop("model_id", "scripted"), **settings)
        self.answers: deque[Any] = deque(answers)
        self.repeat = repeat
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        self.requests.append(request)
        answer = self._next(request)
        while isinstance(answer, int | float):
            await asyncio.sleep(answer)
            answer = self._next(request)
        if isinstance(answer, BaseException):
            raise answer
        for piece in _pieces(answer, request.stream):
            yield piece
            await asyncio.sleep(0)

    def _next(self, request: Request) -> Any:
        if not self.answers:
            raise ModelError(f"the script of this model has no answer left for call {len(self.requests)}")
        answer = self.answers.popleft()
        if self.repeat:
            self.answers.append(answer)
        return answer(request) if isinstance(answer, Callable) else answer  # type: ignore[arg-type]


def _pieces(answer: Any, stream: bool) -> Iterable[ChatMessageStreamDelta]:
    if isinstance(answer, str):
        words = re.findall(r"\S*\s*", answer) if stream else [answer]
        yield from (ChatMessageStreamDelta(content=word) for word in words if word)
        yield ChatMessageStreamDelta(finish_reason="stop")
    elif isinstance(answer, ChatMessage):
        delta = as_delta(answer)
        delta.finish_reason = delta.finish_reason or ("tool_calls" if delta.tool_calls else "stop")
        yield delta
    else:
        for piece in answer:
            yield ChatMessageStreamDelta(content=piece) if isinstance(piece, str) else piece
