"""A model that returns prepared responses, for tests of code that is built on models."""

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
    """A model that responds to each call with the next entry of its script, through all layers of a real model.

    Args:
        *answers: The script. Each entry is a text, a `ChatMessage`, a list of deltas or texts that are streamed
            unchanged, an exception that is raised, a number of seconds to wait before the next entry, or a function
            that takes the `Request` and returns one of these.
        repeat: Whether the script starts again after its last entry. By default, a call after the last entry raises
            `ModelError`.
        **settings: See `Model`.

    Attributes:
        requests: The requests that passed the layers and reached the model, in order.

    Examples:
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
        extra_parameters=frozenset(
            {"top_k", "min_p", "repetition_penalty", "extra_body", "extra_headers", "extra_query"}
        ),
    )

    def __init__(self, *answers: Any, repeat: bool = False, **settings: Any) -> None:
        super().__init__(settings.pop("model_id", "scripted"), **settings)
        self.answers: deque[Any] = deque(answers)
        self.repeat = repeat
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Respond to a request with the next entry of the script; see `Model.deltas`."""
        self.requests.append(request)
        entry = self._next_entry(request)
        while isinstance(entry, int | float):
            await asyncio.sleep(entry)
            entry = self._next_entry(request)
        if isinstance(entry, BaseException):
            raise entry
        for delta in _deltas_from(entry, request.stream):
            yield delta
            await asyncio.sleep(0)  # Other tasks run between two deltas, as with a real model.

    def _next_entry(self, request: Request) -> Any:
        if not self.answers:
            raise ModelError(f"the script of this model has no answer left for call {len(self.requests)}")
        entry = self.answers.popleft()
        if self.repeat:
            self.answers.append(entry)
        return entry(request) if isinstance(entry, Callable) else entry  # type: ignore[arg-type]


def _deltas_from(entry: Any, stream: bool) -> Iterable[ChatMessageStreamDelta]:
    """Yield the deltas of a text, a message, or a list. In a stream, each word of a text is a delta."""
    if isinstance(entry, str):
        words = re.findall(r"\S*\s*", entry) if stream else [entry]
        yield from (ChatMessageStreamDelta(content=word) for word in words if word)
        yield ChatMessageStreamDelta(finish_reason="stop")
    elif isinstance(entry, ChatMessage):
        delta = as_delta(entry)
        delta.finish_reason = delta.finish_reason or ("tool_calls" if delta.tool_calls else "stop")
        yield delta
    else:
        for delta in entry:
            yield ChatMessageStreamDelta(content=delta) if isinstance(delta, str) else delta
