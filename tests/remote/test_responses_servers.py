"""The Responses API of two servers that others wrote: `@copilotkit/aimock` (npm) and `llmock` (PyPI)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from modelport import ChatMessage, Model, OpenAIServerModel
from modelport.errors import (
    ContextWindowExceeded,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.types.usage import TokenUsage
from tests.remote.fault_cases import TOOL
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import SDK, ask
from tests.servers.aimock import AimockServer, aimock
from tests.servers.llmock import Fault, LlmockServer, llmock

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:The output type was sent:UserWarning")]

INVOICE = {
    "type": "object",
    "properties": {"number": {"type": "string"}, "total": {"type": "number"}, "paid": {"type": "boolean"}},
    "required": ["number", "total", "paid"],
    "additionalProperties": False,
}


def model_for(server: AimockServer | LlmockServer, way: str) -> Model:
    """Return a model. One of the ways goes through the openai package.

    The model does not ask these servers of which kind they are, because each request counts for their scripts.
    """
    settings = SDK if way == "async" else {}
    return OpenAIServerModel(
        "gpt-5", server.base_url, server.api_key, api="responses", dialect="openai", retry=False, timeout=20, **settings
    )


@pytest.fixture(scope="module")
def mock() -> Iterator[AimockServer]:
    if shutil.which("npm") is None and "CI" not in os.environ:
        pytest.skip("no npm")
    with aimock(latency_ms=0) as server:
        yield server


@pytest.fixture(scope="module")
def faulty() -> Iterator[LlmockServer]:
    with llmock() as server:
        yield server


def results_of(message: ChatMessage) -> list[dict[str, Any]]:
    return [{"role": "tool", "tool_call_id": call.id, "content": "21"} for call in message.tool_calls or ()]


# --- aimock -----------------------------------------------------------------------------------------------------------


@pytest.mark.node
@pytest.mark.parametrize("way", WAYS)
def test_aimock_answers_with_text_usage_and_reasoning(mock: AimockServer, way: str) -> None:
    message = ask(model_for(mock, way), way, "usage please")
    assert (message.content, message.finish_reason) == ("Seven tokens of answer.", "stop")
    assert message.token_usage == TokenUsage(11, 7)
    message = ask(model_for(mock, way), way, "think first")
    assert (message.content, message.reasoning) == ("42", "Six times seven is forty-two.")


@pytest.mark.node
@pytest.mark.parametrize("way", WAYS)
def test_aimock_gets_its_items_back_with_the_results(mock: AimockServer, way: str) -> None:
    """The items go back without their IDs, each reasoning item before the call that follows it."""
    model = model_for(mock, way)
    question = {"role": "user", "content": "two cities"}
    called = ask(model, way, [question], tools=[TOOL])
    assert [(call.id, call.function.arguments) for call in called.tool_calls or ()] == [
        ("call_paris", {"city": "Paris", "unit": "celsius"}),
        ("call_oslo", {"city": "Oslo", "unit": "celsius"}),
    ]
    assert called.provider_data is not None
    kinds = [item["type"] for item in called.provider_data.items]
    assert kinds == ["reasoning", "function_call", "function_call"]
    answer = ask(model, way, [question, called, *results_of(called)], tools=[TOOL])
    assert (answer.content, answer.warnings) == ("Paris has 21 °C, Oslo has 4 °C.", [])


@pytest.mark.node
@pytest.mark.parametrize("way", WAYS)
def test_aimock_returns_structured_output(mock: AimockServer, way: str) -> None:
    message = ask(model_for(mock, way), way, "bill", response_format=INVOICE)
    assert message.parsed == {"number": "A-17", "total": 12.5, "paid": True}


@pytest.mark.node
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("prompt", "error"), [("too long", ContextWindowExceeded), ("nobody wrote this", NotFoundError)]
)
def test_aimock_error_is_typed(mock: AimockServer, way: str, prompt: str, error: type[ModelError]) -> None:
    with pytest.raises(error):
        ask(model_for(mock, way), way, prompt)


@pytest.mark.node
@pytest.mark.parametrize("way", WAYS)
def test_aimock_response_with_status_incomplete_or_failed(mock: AimockServer, way: str) -> None:
    message = ask(model_for(mock, way), way, "cut by length")
    assert (message.content, message.finish_reason) == ("This stops in the", "length")
    with pytest.raises(StreamInterrupted if "streamed" in way else ServerError) as caught:
        ask(model_for(mock, way), way, "filtered")
    if isinstance(caught.value, StreamInterrupted):
        assert caught.value.partial.content == "I"


# --- llmock -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_llmock_answers_with_text_and_calls(faulty: LlmockServer, way: str) -> None:
    faulty.reset()
    model = model_for(faulty, way)
    message = ask(model, way, "hello")
    assert (message.content, message.token_usage) == ("Hello! You said: hello", TokenUsage(1, 5, 0, 0))
    called = ask(model, way, [{"role": "user", "content": "hello"}], tools=[TOOL], tool_choice="get_weather")
    assert [call.function.name for call in called.tool_calls or ()] == ["get_weather"]
    answer = ask(model, way, [{"role": "user", "content": "hello"}, called, *results_of(called)], tools=[TOOL])
    assert answer.content == "Hello! You said: hello 21"
    assert ask(model, way, "bill", response_format=INVOICE).parsed == {
        "number": "mock-number", "total": 1.0, "paid": True,
    }  # fmt: skip
    assert {request.path for request in faulty.requests()} == {"/v1/responses"}


#: A fault -> the error.
FAULTS: dict[str, tuple[Fault, type[ModelError]]] = {
    "429": (Fault.rate_limit(1), RateLimited),
    "500": (Fault.fail(500), ServerError),
    "broken arguments": (Fault.broken_tool(), InvalidToolCall),
    "unknown tool": (Fault.broken_tool("unknown_tool"), InvalidToolCall),
}
#: A fault of a stream, and the number of events before it -> the error, which has what arrived.
STREAM_FAULTS: dict[str, tuple[Fault, type[ModelError]]] = {
    "disconnect, nothing": (Fault.disconnect(after_chunks=3), MalformedResponse),
    "disconnect": (Fault.disconnect(after_chunks=6), StreamInterrupted),
    "truncate, nothing": (Fault.truncate(after_chunks=3), MalformedResponse),
    "truncate": (Fault.truncate(after_chunks=6), StreamInterrupted),
    "malformed": (Fault.malformed(after_chunks=6), StreamInterrupted),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAULTS)
def test_llmock_fault_is_typed(faulty: LlmockServer, way: str, name: str) -> None:
    fault, error = FAULTS[name]
    faulty.reset()
    faulty.inject(fault)
    with pytest.raises(error):
        ask(model_for(faulty, way), way, tools=[TOOL])
    assert faulty.pending() == 0


@pytest.mark.parametrize("way", [way for way in WAYS if "streamed" in way])
@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_llmock_fault_of_a_stream_is_typed(faulty: LlmockServer, way: str, name: str) -> None:
    fault, error = STREAM_FAULTS[name]
    faulty.reset()
    faulty.inject(fault)
    with pytest.raises(error) as caught:
        ask(model_for(faulty, way), way, "hello there my friend")
    if isinstance(caught.value, StreamInterrupted):
        text = caught.value.partial.text
        assert text and "Hello! You said: hello there".startswith(text)
    assert faulty.pending() == 0
