"""The contract finds what is broken: each row, on a model that breaks just its promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageStreamDelta, InvalidRequest, Model, Request, TokenUsage
from modelport.testing import CHECKS, ScriptedModel, Subject, run_check
from modelport.types.messages import tool_call_from

ROW = {row.name: row for row in CHECKS}


def status(row: str, make: Callable[[], Model], **offers: Any) -> str:
    model = make()
    return run_check(Subject(make=lambda: model, **offers), ROW[row]).status


def scripted(*answers: Any, **settings: Any) -> Callable[[], Model]:
    return lambda: ScriptedModel(*answers, repeat=True, **settings)


class Plain(Model):
    """Bypasses the layers, as a backend that overrides everything would."""

    answer = "The capital of France is Paris."

    def generate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        class Whole(list[ChatMessageStreamDelta]):
            message = ChatMessage("assistant", self.answer, finish_reason="stop")

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *exc: object) -> None:
                pass

        return Whole([ChatMessageStreamDelta(content=self.answer, finish_reason="stop")])

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        return ChatMessage("assistant", self.answer, finish_reason="stop", model_id="plain")


class Drifting(ScriptedModel):
    """Answers differently at each call."""

    count = 0

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        self.count += 1
        for word in ("answer ", "number ", f"{self.count}"):
            yield ChatMessageStreamDelta(content=word)
        usage = TokenUsage(5, 99, 7 if self.count > 1 else None)
        yield ChatMessageStreamDelta(finish_reason="stop", token_usage=usage)


class Forking(ScriptedModel):
    """Works in the process that made it alone."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        import os

        self.home = getattr(self, "home", os.getpid())
        if os.getpid() != self.home:
            raise RuntimeError("not here")
        yield ChatMessageStreamDelta(content="fine", finish_reason="stop")


class Deaf(ScriptedModel):
    """Goes on after it has been cancelled."""

    working = 0

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        Deaf.working += 1
        while True:
            yield ChatMessageStreamDelta(content="more ")
            await asyncio.sleep(0.001)


def wrong_call(*names: str) -> ChatMessage:
    calls = [
        tool_call_from({"id": "same", "function": {"name": name, "arguments": '{"city": "Rome"}'}}) for name in names
    ]
    return ChatMessage("assistant", None, tool_calls=calls)


BROKEN: list[tuple[str, Callable[[], Model], dict[str, Any]]] = [
    ("generate", scripted(""), {}),
    ("stream", Plain, {}),
    ("async", Drifting, {}),
    ("stop sequences", Plain, {}),
    ("cancellation", Deaf, {"busy": lambda: Deaf.working}),
    ("max_tokens", scripted("a whole story"), {}),
    ("deterministic", Drifting, {}),
    ("seed", Drifting, {}),
    ("usage", scripted("no usage"), {}),
    ("usage", Drifting, {"count_tokens": lambda messages: 6}),
    ("cached tokens", Drifting, {}),
    ("logprobs", scripted("none"), {}),
    ("context window exceeded", scripted("fits"), {"prompts": {"too long": "x"}}),
    ("JSON schema", scripted('{"name": "Ann"}'), {}),
    ("typed output", scripted("no JSON"), {}),
    ("truncated structured output", scripted('{"name": "Ann", "age": 3}'), {}),
    ("strict structured output", Plain, {}),
    ("structured output with tools", scripted("no JSON"), {}),
    ("partial objects", scripted('{"name": "Ann"}'), {}),
    ("structured output after reasoning", scripted("Paris it."), {"prompts": {"reasoning": "x"}}),
    ("reasoning effort", scripted(InvalidRequest("reasoning_effort: what is that?")), {}),
    ("regex", scripted("yesterday"), {}),
    ("choice", scripted("perhaps"), {}),
    ("context-free grammar", scripted("[1,[2"), {}),
    ("image input", scripted("a picture"), {}),
    ("reasoning", scripted("<think>hm</think> yes"), {"prompts": {"reasoning": "x"}}),
    ("tools: required", scripted("I'd rather talk"), {}),
    ("tools: named", scripted(wrong_call("add")), {}),
    ("tools: none", scripted(wrong_call("get_weather")), {}),
    ("parallel tool calls", scripted(wrong_call("get_weather", "get_weather")), {}),
    ("tool results", scripted("no call"), {}),
    ("streamed tool calls", scripted("no call"), {}),
    ("errors", scripted("fine"), {"faults": {"401": scripted("fine")}}),
    ("timeout", scripted("at once"), {}),
    ("concurrent calls", Drifting, {}),
    ("fork", Forking, {}),
    ("secrets", scripted("fine", model_id="sk-1234567890"), {"secrets": ("sk-1234567890",)}),
]


@pytest.mark.parametrize(("row", "make", "offers"), BROKEN, ids=[f"{row} {i}" for i, (row, *_) in enumerate(BROKEN)])
def test_a_broken_promise_is_found(row: str, make: Callable[[], Model], offers: dict[str, Any]) -> None:
    assert status(row, make, **offers) == "broken"


def test_every_row_has_been_broken() -> None:
    cannot = {
        "roles", "invalid input",  # the core's own; tests/inputs/test_normalise.py
        "tools: auto",  # whatever the model says is right, or InvalidToolCall
        "event loops", "saving",  # tests/runtime/test_calls.py and tests/test_saving.py
    }  # fmt: skip
    assert {row for row, *_ in BROKEN} | cannot == set(ROW)


def test_what_shows_nothing_is_not_checked() -> None:
    """An answer without a call tells nothing of tools, and one call nothing of several."""
    assert status("tools: auto", scripted("It is sunny.")) == "not checked"
    assert status("parallel tool calls", scripted(wrong_call("get_weather"))) == "not checked"


def test_what_is_declared_is_refused_or_else_broken() -> None:
    class Silent(ScriptedModel):
        declared_capabilities = ScriptedModel.declared_capabilities.replace(seed=False)

    assert status("seed", lambda: Silent("fine", repeat=True)) == "unsupported"

    class Lying(Silent):
        def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
            return ChatMessage("assistant", "dropped it in silence")

    assert status("seed", Lying) == "broken"
