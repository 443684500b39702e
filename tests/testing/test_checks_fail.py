"""Every conformance check fails on a model that lacks the behaviour which the check tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport import (
    Capabilities,
    ChatMessage,
    ChatMessageStreamDelta,
    InvalidRequest,
    MalformedResponse,
    Model,
    ModelError,
    RateLimited,
    Request,
    ServerError,
    TokenUsage,
)
from modelport.local.engine import EngineModel
from modelport.testing import CHECKS, ScriptedModel, Subject, run_check
from modelport.types.messages import tool_call_from

CHECK = {check.name: check for check in CHECKS}


def status_of(check: str, make: Callable[[], Model], **subject: Any) -> str:
    """Run a check on a model, and return the status of its outcome."""
    model = make()
    return run_check(Subject(make=lambda: model, **subject), CHECK[check]).status


def scripted(*answers: Any, **settings: Any) -> Callable[[], Model]:
    """Return a function that makes a model which repeats its script."""
    return lambda: ScriptedModel(*answers, repeat=True, **settings)


class WithoutLayers(Model):
    """Bypasses the layers, as a backend does that overrides every method."""

    answer = "The capital of France is Paris."

    def generate_stream(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        class SingleDelta(list[ChatMessageStreamDelta]):
            message = ChatMessage("assistant", self.answer, finish_reason="stop")

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *exc: object) -> None:
                pass

        return SingleDelta([ChatMessageStreamDelta(content=self.answer, finish_reason="stop")])

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
        return ChatMessage("assistant", self.answer, finish_reason="stop", model_id="plain")


class Nondeterministic(ScriptedModel):
    """Responds differently to each call."""

    count = 0

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        self.count += 1
        for word in ("answer ", "number ", f"{self.count}"):
            yield ChatMessageStreamDelta(content=word)
        usage = TokenUsage(5, 99, 7 if self.count > 1 else None)
        yield ChatMessageStreamDelta(finish_reason="stop", token_usage=usage)


class FailsAfterFork(ScriptedModel):
    """Works only in the process that made it."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        import os

        self.process = getattr(self, "process", os.getpid())
        if os.getpid() != self.process:
            raise RuntimeError("this is another process")
        yield ChatMessageStreamDelta(content="fine", finish_reason="stop")


class IgnoresCancellation(ScriptedModel):
    """Reports that it still works after it was cancelled."""

    working = 0

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        IgnoresCancellation.working += 1
        while True:
            yield ChatMessageStreamDelta(content="more ")
            await asyncio.sleep(0.001)


class CountsWords(ScriptedModel):
    """Reports the number of words in all messages that it sends to its service."""

    def sent_messages(self, request: Request) -> list[ChatMessage]:
        return list(request.messages)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        words = sum(len(message.text.split()) for message in self.sent_messages(request))
        yield ChatMessageStreamDelta(content="It is Paris.", finish_reason="stop", token_usage=TokenUsage(words, 3))


class ReadsSpecialTokens(EngineModel[Any]):
    """Encodes `<|im_end|>` in a message as one token, and each other character as one."""

    declared_capabilities = Capabilities(usage=True)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        tokens = sum(len(message.text.replace("<|im_end|>", "x")) for message in request.messages)
        yield ChatMessageStreamDelta(content="Paris.", finish_reason="stop", token_usage=TokenUsage(tokens, 3))


class DropsSystemMessage(CountsWords):
    """Sends all messages but the system message."""

    def sent_messages(self, request: Request) -> list[ChatMessage]:
        return [message for message in request.messages if message.role != "system"]


class DropsHistory(CountsWords):
    """Sends the system message and the last message."""

    def sent_messages(self, request: Request) -> list[ChatMessage]:
        return [message for message in request.messages[:-1] if message.role == "system"] + [request.messages[-1]]


class FailsAfterOutput(ScriptedModel):
    """Notices that its stream ended too early."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        yield ChatMessageStreamDelta(content="The capital of")
        raise MalformedResponse("The stream ended before the response did.")


def calling_message(*names: str) -> ChatMessage:
    """Return a message that calls these tools, all with one id."""
    calls = [
        tool_call_from({"id": "same", "function": {"name": name, "arguments": '{"city": "Rome"}'}}) for name in names
    ]
    return ChatMessage("assistant", None, tool_calls=calls)


#: The name of a check, a model that lacks the behaviour, and further arguments of the subject.
FAILING: list[tuple[str, Callable[[], Model], dict[str, Any]]] = [
    ("generate", scripted(""), {}),
    ("stream", WithoutLayers, {}),
    ("async", Nondeterministic, {}),
    ("stop sequences", WithoutLayers, {}),
    ("cancellation", IgnoresCancellation, {"busy": lambda: IgnoresCancellation.working}),
    ("max_tokens", scripted("a whole story"), {}),
    ("deterministic", Nondeterministic, {}),
    ("seed", Nondeterministic, {}),
    ("usage", scripted("no usage"), {}),
    ("usage", Nondeterministic, {"count_tokens": lambda messages: 6}),
    ("usage", lambda: DropsSystemMessage(), {}),
    ("usage", lambda: DropsHistory(), {}),
    ("cached tokens", Nondeterministic, {}),
    ("logprobs", scripted("none"), {}),
    ("context window exceeded", scripted("fits"), {"prompts": {"too long": "x"}}),
    ("JSON schema", scripted('{"name": "Ann"}'), {}),
    ("typed output", scripted("no JSON"), {}),
    ("truncated structured output", scripted('{"name": "Ann", "age": 3}'), {}),
    ("strict structured output", WithoutLayers, {}),
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
    ("tools: named", scripted(calling_message("add")), {}),
    ("tools: none", scripted(calling_message("get_weather")), {}),
    ("parallel tool calls", scripted(calling_message("get_weather", "get_weather")), {}),
    ("tool results", scripted("no call"), {}),
    ("streamed tool calls", scripted("no call"), {}),
    ("errors", scripted("fine"), {"faults": {"401": scripted("fine")}}),
    ("errors", scripted("fine"), {"faults": {"truncated": scripted([ChatMessageStreamDelta(content="The cap")])}}),
    ("errors", scripted("fine"), {"faults": {"truncated": scripted(InvalidRequest("What?"))}}),
    ("errors", scripted("fine"), {"faults": {"retry_after": scripted(RateLimited("Slow down"), retry=False)}}),
    ("errors", scripted("fine"), {"faults": {"out of coffee": scripted(ServerError("No coffee"), retry=False)}}),
    ("timeout", scripted("at once"), {}),
    ("concurrent calls", Nondeterministic, {}),
    ("fork", FailsAfterFork, {}),
    ("closing", WithoutLayers, {}),
    ("special tokens", lambda: ReadsSpecialTokens("reads"), {}),
    ("secrets", scripted("fine", model_id="sk-1234567890"), {"secrets": ("sk-1234567890",)}),
]


@pytest.mark.parametrize(
    ("check", "make", "subject"), FAILING, ids=[f"{check} {n}" for n, (check, *_) in enumerate(FAILING)]
)
def test_check_on_model_without_the_behaviour_fails(
    check: str, make: Callable[[], Model], subject: dict[str, Any]
) -> None:
    assert status_of(check, make, **subject) == "failed"


def test_usage_check_on_model_that_sends_all_messages_passes() -> None:
    assert status_of("usage", lambda: CountsWords()) == "passed"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429", RateLimited("Slow down")),
        ("retry_after", RateLimited("Slow down", retry_after=0)),
        ("truncated", MalformedResponse("The stream ended before the response did.")),
    ],
)
def test_errors_check_on_model_that_reports_the_fault_passes(fault: str, error: ModelError) -> None:
    faults = {fault: scripted(error, retry=False)}
    assert status_of("errors", scripted("fine"), faults=faults) == "passed"


def test_errors_check_on_stream_that_raises_after_output_passes() -> None:
    assert status_of("errors", scripted("fine"), faults={"truncated": lambda: FailsAfterOutput()}) == "passed"


def test_every_check_has_a_failing_model() -> None:
    exceptions = {
        "roles", "invalid input",  # modelport's core decides these; see tests/inputs.
        "tools: auto",  # Whatever the model writes is either correct or raises InvalidToolCall.
        "event loops", "saving",  # See tests/runtime/test_calls.py and tests/test_saving.py.
    }  # fmt: skip
    assert {check for check, *_ in FAILING} | exceptions == set(CHECK)


def test_check_without_evidence_is_not_checked() -> None:
    """A response without a call shows nothing about tools, and one call shows nothing about several."""
    assert status_of("tools: auto", scripted("It is sunny.")) == "not checked"
    assert status_of("parallel tool calls", scripted(calling_message("get_weather"))) == "not checked"


def test_unsupported_feature_must_be_refused() -> None:
    class WithoutSeed(ScriptedModel):
        declared_capabilities = ScriptedModel.declared_capabilities.replace(seed=False)

    assert status_of("seed", lambda: WithoutSeed("fine", repeat=True)) == "unsupported"

    class IgnoresSeed(WithoutSeed):
        def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
            return ChatMessage("assistant", "the seed was ignored")

    assert status_of("seed", IgnoresSeed) == "failed"
