"""`Model`: calls, tool calls in text, and the model as an object."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncGenerator
from typing import Any

import pytest

import modelport
from modelport.errors import (
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    MissingDependency,
    ModelError,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)
from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image
from modelport.types.messages import ChatMessage
from modelport.types.request import Request
from modelport.types.usage import TokenUsage
from tests.echo import METHODS, Delta, EchoModel, each_method

# --- construction -----------------------------------------------------------------------------------------------------


#: What the constructors of some classes require besides a `model_id`.
REQUIRED_SETTINGS: dict[str, dict[str, Any]] = {
    "FallbackModel": {"models": [EchoModel(), EchoModel()]},
    "LiteLLMRouterModel": {"model_list": [{"model_name": "g", "litellm_params": {"model": "openai/m"}}]},
}


@pytest.mark.parametrize("model_id", ["", 0, False, b"", []], ids=repr)
@pytest.mark.parametrize("name", [name for name in modelport.__all__ if name.endswith("Model")])
def test_model_id_that_names_nothing_is_refused(name: str, model_id: Any) -> None:
    """Otherwise it would silently mean the default model."""
    try:
        with pytest.raises(InvalidRequest, match="model_id"):
            getattr(modelport, name)(model_id=model_id, **REQUIRED_SETTINGS.get(name, {}))
    except MissingDependency:
        assert name.startswith(("LiteLLM", "MLX", "Transformers", "VLLM"))


# --- calls ------------------------------------------------------------------------------------------------------------


@each_method
def test_all_four_methods_return_the_same_response(method: str) -> None:
    model = EchoModel()
    assert METHODS[method](model, "The capital of France?", stop_sequences=["END"]) == "Paris is it. "
    (request,) = model.requests
    assert request.messages == (ChatMessage("user", "The capital of France?"),)
    assert (request.stop_sequences, request.stream) == (("END",), "stream" in method)


def test_message_has_finish_reason_usage_and_model_id() -> None:
    message = EchoModel().generate("?")
    assert message.content == "Paris is it. END And more. "
    assert (message.finish_reason, message.token_usage, message.model_id) == ("stop", TokenUsage(3, 4), "echo")


async def test_async_stream_has_the_message_so_far() -> None:
    async with EchoModel().agenerate_stream("?") as stream:
        assert stream.message.content == ""
        await anext(stream)
        assert stream.message.content == "Paris "
        async for _ in stream:
            pass
    assert stream.message == await EchoModel().agenerate("?")


def test_ended_stream_has_the_complete_message() -> None:
    stream = EchoModel().generate_stream("?")
    assert "".join(delta.content or "" for delta in stream) == stream.message.content
    assert stream.message == EchoModel().generate("?")


def test_stream_is_checked_when_it_is_made_and_sent_when_it_is_read() -> None:
    model = EchoModel()
    with pytest.raises(InvalidRequest):
        model.generate_stream([{"role": "robot", "content": "?"}])
    with pytest.raises(UnsupportedFeature):
        model.generate_stream([{"role": "user", "content": [Image(b"\x89PNG\r\n\x1a\n", "image/png")]}])
    stream = model.generate_stream("?")
    assert model.requests == []
    next(stream)
    assert len(model.requests) == 1
    stream.close()


def rejection() -> InvalidRequest:
    error = InvalidRequest("no such parameter")
    error.profile_updated = True
    return error


class UpdatingModel(Model):
    """A backend that replays one list per request, and whose profile loses the seed with each rejection."""

    declared_capabilities = Capabilities(seed=True)

    def __init__(self, *responses: list[Any], **settings: Any) -> None:
        super().__init__("updating", **settings)
        self.responses = responses
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        for item in self.responses[len(self.requests) - 1]:
            if isinstance(item, Exception):
                self._capabilities = self.capabilities.replace(seed=False)
                raise item
            yield Delta(content=item, finish_reason="stop")


@each_method
@pytest.mark.parametrize("settings", [{}, {"retry": False}, {"retry": False, "timeout": None}], ids=str)
def test_rejection_that_updated_the_profile_starts_the_call_again(method: str, settings: dict[str, Any]) -> None:
    """Also if nothing is retried and no time is limited."""
    model = UpdatingModel([rejection()], [rejection()], ["Paris"], **settings)
    assert METHODS[method](model, "?") == "Paris"
    assert [request.capabilities.seed for request in model.requests] == [True, False, False]
    assert len({request.timeouts.deadline for request in model.requests}) == 1


@each_method
def test_other_error_after_an_updated_profile_is_raised(method: str) -> None:
    model = UpdatingModel([rejection()], [ServerError("no")], ["Paris"], retry=False)
    with pytest.raises(ServerError):
        METHODS[method](model, "?")
    assert len(model.requests) == 2


@each_method
def test_rejection_after_a_delivered_part_does_not_start_the_call_again(method: str) -> None:
    model = UpdatingModel(["Pa", rejection()], ["Paris"])
    with pytest.raises(StreamInterrupted if "stream" in method else InvalidRequest) as raised:
        METHODS[method](model, "?")
    assert raised.value.partial is not None and raised.value.partial.content == "Pa"
    assert len(model.requests) == 1


@each_method
def test_updated_profile_that_cannot_do_the_call_raises(method: str) -> None:
    model = UpdatingModel([rejection()], ["Paris"])
    with pytest.raises(UnsupportedFeature, match="seed"):
        METHODS[method](model, "?", seed=1)
    assert len(model.requests) == 1


@each_method
def test_arguments_of_the_caller_are_not_changed(method: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    options: dict[str, Any] = {
        "stop_sequences": ["END"], "tools": [{"type": "function", "function": {"name": "f"}}], "max_new_tokens": 5,
    }  # fmt: skip
    before = copy.deepcopy((messages, options))
    METHODS[method](
        EchoModel(flatten_messages_as_text=True, custom_role_conversions={"user": "system"}), messages, **options
    )
    assert (messages, options) == before


@each_method
def test_error_names_the_model(method: str) -> None:
    model = EchoModel(retry=False)
    model.response = ServerError("no")
    with pytest.raises(ServerError, match=r"no \(model: echo\)"):
        METHODS[method](model, "?")


# --- calls in text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "weather", "arguments": {"city": "Paris"}}',
        'Action:\n{"name": "weather", "arguments": {"city": "Paris"}}\nObservation',
        '{"thought": "hm"} {"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}',
        '```json\n{"name": "weather", "arguments": {"city": "Paris"}}\n``` { broken',
        'a {brace} {"name": "weather", "arguments": {"city": "Paris"}}',
    ],
)
def test_parse_tool_calls_reads_a_call_from_text(text: str) -> None:
    message = ChatMessage("user", text)
    assert EchoModel().parse_tool_calls(message) is message
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})
    assert message.role == "assistant"


def test_parse_tool_calls_uses_the_models_keys() -> None:
    model = EchoModel(tool_name_key="tool", tool_arguments_key="args")
    message = model.parse_tool_calls(ChatMessage("assistant", '{"tool": "time", "args": {"a": 1}}'))
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("time", {"a": 1})


@pytest.mark.parametrize("text", ["", "no call", '{"name": 5}', '{"name": "weather"', "{" * 5000, "[" * 100_000 + "{"])
def test_parse_tool_calls_of_text_without_a_call_raises_with_the_text(text: str) -> None:
    with pytest.raises(InvalidToolCall, match="holds no tool call") as raised:
        EchoModel().parse_tool_calls(ChatMessage("assistant", text))
    assert raised.value.text == text
    assert len(str(raised.value)) < 1000


# --- the object -------------------------------------------------------------------------------------------------------


def test_pickled_model_returns_the_same_response() -> None:
    model = EchoModel("other", temperature=0.5, requests_per_minute=100, capabilities={"tools": False}, retry=2)
    model.generate("?")  # This makes the chain of layers, with the locks of the limits.
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin.generate("?", stop_sequences=["END"]).content == "Paris is it. "
        assert (twin.model_id, twin.kwargs, twin.requests_per_minute) == ("other", {"temperature": 0.5}, 100)
        assert twin.capabilities == model.capabilities


def test_stream_cannot_be_pickled() -> None:
    for stream in (EchoModel().generate_stream("?"), EchoModel().agenerate_stream("?")):
        with pytest.raises(TypeError, match="pickle its message"):
            pickle.dumps(stream)


def test_repr_is_short_and_has_no_settings() -> None:
    assert repr(EchoModel("gpt", temperature=0.5, extra_headers={"Authorization": "sk-1"})) == "EchoModel('gpt')"
    request = Request((ChatMessage("user", "private"),), parameters={"extra_headers": {"Authorization": "sk-1"}})
    assert "private" not in repr(request)
    assert "sk-1" not in repr(request)


class Closing(EchoModel):
    closed = 0

    def close(self, drain: float = 0.0) -> None:
        self.closed += 1


def test_with_block_closes_the_model() -> None:
    with Closing() as model:
        assert model.generate("?").content
        assert not model.closed
    assert model.closed == 1
    with pytest.raises(ModelError), Closing() as model:
        raise ModelError("inside")
    assert model.closed == 1


async def test_async_with_block_closes_the_model() -> None:
    async with Closing() as model:
        assert (await model.agenerate("?")).content
    assert model.closed == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", ["hot"]),
        ("model_id", [5, ["m"]]),
        ("flatten_messages_as_text", ["yes", 1]),
        ("custom_role_conversions", [5, "system", {"system": 5}, {"system": "robot"}, {5: "user"}]),
        ("tool_name_key", [5]),
        ("tool_arguments_key", [5]),
        ("allow_private_urls", ["no", 1]),
        ("tool_choice", [5, {}, [], {1}]),
        ("stream", [True]),
        ("extra_headers", ["x"]),
        ("capabilities", [
            5, "tools", {1: True}, {"stop": "yes"}, {"inputs": 5}, {"inputs": "text"}, {"inputs": [5]}, {"renamed": 5},
            {"grammars": ["xml"]}, {"grammars": [[]]}, {"max_stop_sequences": "4"}, {"max_stop_sequences": True},
        ]),
    ],
)  # fmt: skip
def test_constructor_with_wrong_setting_names_it(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest, match=name):
            EchoModel(**{name: value})


@pytest.mark.parametrize("name", ["custom_role_conversions", "flatten_messages_as_text"])
def test_wrong_option_is_found_whatever_the_messages_are(name: str) -> None:
    for messages in ("hello", [{"role": "user", "content": "hello"}]):
        with pytest.raises(InvalidRequest, match=name):
            EchoModel().generate(messages, **{name: 5})  # type: ignore[call-overload]


def test_own_generate_that_returns_a_tool_call_without_json_raises() -> None:
    class Odd(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            function = {"name": "f", "arguments": {"all": {1}}}
            return ChatMessage("assistant", None, [{"id": "1", "function": function}])  # type: ignore[list-item]

    with pytest.raises(MalformedResponse, match="set is not JSON serializable"):
        next(iter(Odd().generate_stream("hello")))
