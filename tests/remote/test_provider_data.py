"""Tool loops on services that refuse a conversation unless they get back what they returned."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelport import ChatMessage, FallbackModel, Model, OpenAIServerModel
from modelport.errors import InvalidRequest
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import KEY, SDK
from tests.servers.faults import Fault, FaultServer
from tests.servers.strict import FINAL_TEXT, REASONING, SERVICES, StrictService

pytestmark = [pytest.mark.server, pytest.mark.filterwarnings("ignore:.* in earlier messages:UserWarning")]

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION = {"role": "user", "content": "Do I need an umbrella?"}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[FaultServer, FaultServer]]:
    with FaultServer() as first, FaultServer() as second:
        yield first, second


def call(model: Model, way: str, messages: list[Any], **options: Any) -> ChatMessage:
    """Call a model in one of the four ways."""
    if way == "sync":
        return model.generate(messages, tools=[TOOL], **options)
    if way == "sync streamed":
        with model.generate_stream(messages, tools=[TOOL], **options) as stream:
            for _ in stream:
                pass
            return stream.message

    async def run() -> ChatMessage:
        if way == "async":
            return await model.agenerate(messages, tools=[TOOL], **options)
        async with model.agenerate_stream(messages, tools=[TOOL], **options) as stream:
            async for _ in stream:
                pass
            return stream.message

    return asyncio.run(run())


def results_of(message: ChatMessage) -> list[dict[str, Any]]:
    assert message.tool_calls
    return [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]


def as_it_is(message: ChatMessage) -> Any:
    return message


def through_json(message: ChatMessage) -> Any:
    return json.loads(json.dumps(message.to_dict()))


def options_for(name: str) -> dict[str, Any]:
    return {"reasoning_effort": "low"} if name == "proxy" else {}


def run_loop(
    models: list[Model], way: str, copied: Callable[[ChatMessage], Any], **options: Any
) -> tuple[list[ChatMessage], list[Any]]:
    """Run a loop of three requests, each on the next of the models. Return the responses and the history."""
    history: list[Any] = [QUESTION]
    responses = []
    for model in models:
        responses.append(call(model, way, history, **options))
        history.append(copied(responses[-1]))
        if responses[-1].tool_calls:
            history += results_of(responses[-1])
    return responses, history


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("way", WAYS)
def test_tool_loop_sends_back_what_the_service_returned(
    servers: tuple[FaultServer, FaultServer], name: str, way: str
) -> None:
    """The fourth request is of the next turn, after the service's text."""
    servers[0].script(then=(service := StrictService(name)))
    settings = SDK if way == "async" else {}  # One of the ways goes through the openai package.
    model = OpenAIServerModel("m", servers[0].base_url, KEY, **settings)
    copied = through_json if way == "sync" else as_it_is
    responses, history = run_loop([model] * 3, way, copied, **options_for(name))
    assert responses[0].reasoning == REASONING[name]
    assert len(responses[0].tool_calls or ()) == 2
    assert (responses[2].content, responses[2].warnings) == (FINAL_TEXT, [])
    assert call(model, way, [*history, QUESTION], **options_for(name)).tool_calls
    assert service.refusals == []
    model.release()


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_tool_loop_continues_after_failover_and_back(
    servers: tuple[FaultServer, FaultServer], name: str, way: str
) -> None:
    """The second request is answered by another service, and the third by the first service again."""
    other = "gemini" if name == "deepseek" else "deepseek"
    service, other_service = StrictService(name), StrictService(other)
    requests = 0

    def fails_once(request: Any) -> Fault:
        nonlocal requests
        requests += 1
        return Fault.status(503) if requests == 2 else service(request)

    servers[0].script(then=fails_once)
    servers[1].script(then=other_service)
    models = [OpenAIServerModel("m", server.base_url, KEY, retry=False) for server in servers]
    model = FallbackModel(models, cooldown=0)
    responses, _ = run_loop([model] * 3, way, through_json, **options_for(name))
    assert [len(response.attempts) for response in responses] == [1, 2, 1]
    assert responses[2].content == FINAL_TEXT
    assert any(w.type == "left_out" and w.feature == "provider_data" for w in responses[1].warnings)
    assert len(service.refusals) <= 1 and len(other_service.refusals) <= 1
    # What the refusals said is remembered: the same conversation runs without another one.
    refusals = len(service.refusals), len(other_service.refusals)
    requests = 0
    run_loop([model] * 3, way, through_json, **options_for(name))
    assert (len(service.refusals), len(other_service.refusals)) == refusals
    for inner in models:
        inner.release()


REFUSALS = [
    # Groq, https://github.com/janhq/jan/issues/8136
    "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property "
    "'reasoning_content' is unsupported)]",
    # Cerebras, https://github.com/Kilo-Org/kilocode/issues/10375
    "messages.1.assistant.reasoning_content: property 'messages.1.assistant.reasoning_content' is unsupported",
    "Unknown parameter: 'messages[1].reasoning_content'.",
    "Additional properties are not allowed ('reasoning_content' was unexpected) - 'messages.1'",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refused_field_is_left_out_for_the_lifetime_of_the_model(
    servers: tuple[FaultServer, FaultServer], text: str
) -> None:
    def refuses(request: Any) -> Fault:
        has_field = any("reasoning_content" in message for message in request.json["messages"])
        return Fault.status(400, message=text) if has_field else Fault.ok("Paris")

    servers[0].script(then=refuses)
    before = len(servers[0].requests)
    model = OpenAIServerModel("m", servers[0].base_url, KEY)
    history = [QUESTION, {"role": "assistant", "content": "No.", "reasoning_content": "It is dry."}, QUESTION]
    with pytest.warns(UserWarning, match="reasoning_content"):
        message = model.generate(history)
    assert [str(warning) for warning in message.warnings] == [
        "reasoning_content of earlier messages was left out: the service refuses it."
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.generate(history).content == "Paris"
    assert len(servers[0].requests) - before == 3
    model.release()


def test_other_refusal_is_not_taken_for_one_of_the_history(servers: tuple[FaultServer, FaultServer]) -> None:
    servers[0].script(then=Fault.status(400, message="messages.1: reasoning_content is too long"))
    model = OpenAIServerModel("m", servers[0].base_url, KEY)
    history = [QUESTION, {"role": "assistant", "content": "No.", "reasoning_content": "It is dry."}, QUESTION]
    before = len(servers[0].requests)
    with pytest.raises(InvalidRequest):
        model.generate(history)
    assert len(servers[0].requests) - before == 1
    model.release()
