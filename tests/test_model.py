"""`Model`: what an author implements, what callers get, and which option takes precedence."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from modelport.errors import (
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)
from modelport.model import Model
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage
from modelport.types.output_types import Choice, JSONSchema
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice, Tool
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


def request_for(
    *args: Any, of: type[EchoModel] = EchoModel, settings: dict[str, Any] | None = None, **options: Any
) -> Request:
    """Return the request that reaches a backend, for these settings of the model and these options of the call."""
    model = EchoModel(**(settings or {}))
    list(model.generate_stream(*args or ("?",), **options))
    return model.requests[0]


# The four methods of a call, each returning the text of the response.

METHODS: dict[str, Callable[..., str]] = {
    "generate": lambda m, *a, **k: m.generate(*a, **k).content,
    "generate_stream": lambda m, *a, **k: "".join(d.content or "" for d in m.generate_stream(*a, **k)),
    "agenerate": lambda m, *a, **k: asyncio.run(m.agenerate(*a, **k)).content,
    "agenerate_stream": lambda m, *a, **k: asyncio.run(_text_of(m.agenerate_stream(*a, **k))),
}


async def _text_of(stream: Any) -> str:
    return "".join([delta.content or "" async for delta in stream])


each_method = pytest.mark.parametrize("method", METHODS)


# --- a class with just generate ---------------------------------------------------------------------------------------


class client:
    """What the snippet of the reference calls; it stores its arguments."""

    calls: list[Any] = []  # noqa: RUF012

    @classmethod
    def chat_completion(cls, messages: Any, stop: Any, max_tokens: int) -> Any:
        cls.calls.append((messages, stop, max_tokens))
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(role="assistant", content="Paris"))])


class CustomModel(Model):
    def generate(self, messages, stop_sequences=["Task"]):  # type: ignore[override]  # noqa: B006
        response = client.chat_completion(messages, stop=stop_sequences, max_tokens=1024)
        answer = response.choices[0].message
        return answer


@each_method
def test_custom_model_of_the_reference_works_with_all_four_methods(method: str) -> None:
    custom_model = CustomModel()
    client.calls.clear()
    assert METHODS[method](custom_model, [{"role": "user", "content": "The capital of France?"}]) == "Paris"
    assert client.calls == [([{"role": "user", "content": "The capital of France?"}], ["Task"], 1024)]


def test_call_of_the_model_runs_generate() -> None:
    assert CustomModel()([{"role": "user", "content": "?"}]).content == "Paris"
    assert EchoModel()("?", stop_sequences=["END"]).content == "Paris is it. "


class RecordingModel(Model):
    """A model with its own `generate`, which records its threads and its arguments."""

    def __init__(self, response: Any = "Paris. END", **settings: Any) -> None:
        super().__init__("noting", **settings)
        self.response = response
        self.threads: list[threading.Thread] = []
        self.arguments: list[Any] = []

    def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
        self.threads.append(threading.current_thread())
        self.arguments.append((messages, stop_sequences, kwargs))
        if isinstance(self.response, BaseException):
            raise self.response
        return SimpleNamespace(content=self.response) if isinstance(self.response, str) else self.response


@pytest.mark.parametrize("method", ["generate", "generate_stream"])
def test_own_generate_of_a_sync_call_runs_in_the_callers_thread(method: str) -> None:
    model = RecordingModel()
    ran_in: list[threading.Thread] = []

    def call() -> None:
        ran_in.append(threading.current_thread())
        METHODS[method](model, "?")

    call()
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(5)
    assert model.threads == ran_in


@pytest.mark.parametrize("method", ["agenerate", "agenerate_stream"])
def test_own_generate_of_an_async_call_runs_in_a_thread_of_its_own(method: str) -> None:
    model = RecordingModel()

    async def two_at_once() -> None:
        if method == "agenerate":
            await asyncio.gather(model.agenerate("?"), model.agenerate("?"))
        else:
            await asyncio.gather(_text_of(model.agenerate_stream("?")), _text_of(model.agenerate_stream("?")))

    asyncio.run(two_at_once())
    assert len(set(model.threads)) == 2
    assert threading.current_thread() not in model.threads


def test_nested_models_do_not_wait_for_each_others_threads() -> None:
    class Nested(Model):
        def __init__(self, inner: Model) -> None:
            super().__init__("nested")
            self.inner = inner

        def generate(self, messages: Any, **kwargs: Any) -> Any:  # type: ignore[override]
            return asyncio.run(self.inner.agenerate(messages))

    async def many() -> list[ChatMessage]:
        model: Model = RecordingModel("deep")
        for _ in range(3):
            model = Nested(model)
        return await asyncio.gather(*(model.agenerate("?") for _ in range(40)))

    assert {message.content for message in asyncio.run(many())} == {"deep"}


context = ContextVar("context", default="outside")


@each_method
def test_own_generate_sees_the_callers_context(method: str) -> None:
    class Seeing(Model):
        def generate(self, messages: Any, **kwargs: Any) -> str:  # type: ignore[override]
            return context.get()

    def call() -> str:
        context.set("inside")
        return METHODS[method](Seeing(), "?") if method != "generate" else Seeing().generate("?")

    import contextvars

    assert contextvars.copy_context().run(call) == "inside"


def test_stream_of_own_generate_ends_at_the_stop_sequence_with_usage() -> None:
    usage = TokenUsage(1, 2)
    response = ChatMessage("assistant", "Paris. END and more", token_usage=usage)
    with RecordingModel(response).generate_stream("?", stop_sequences=["END"]) as stream:
        assert "".join(delta.content or "" for delta in stream) == "Paris. "
    assert (stream.message.finish_reason, stream.message.stop_sequence) == ("stop", "END")
    assert stream.message.token_usage == usage


def test_own_generate_gets_plain_messages_and_the_callers_options() -> None:
    model = RecordingModel("{}")
    list(model.generate_stream(
        [ChatMessage("system", "s"), {"role": "user", "content": [{"type": "text", "text": "u"}]}],
        stop_sequences=["END"], temperature=0.5, max_new_tokens=5,
    ))  # fmt: skip
    ((messages, stop, options),) = model.arguments
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert stop == ["END"]
    assert (options["temperature"], options["max_tokens"]) == (0.5, 5)


def test_own_generate_gets_no_option_that_was_not_given() -> None:
    model = RecordingModel()
    list(model.generate_stream("?"))
    assert model.arguments == [([{"role": "user", "content": "?"}], None, {})]


@pytest.mark.parametrize("response", [SimpleNamespace(content="hi"), ChatMessage("assistant", "hi"), "hi"])
def test_own_generate_may_return_a_string_or_an_object_with_content(response: Any) -> None:
    message = asyncio.run(RecordingModel(response).agenerate("?"))
    assert (message.role, message.content, message.finish_reason) == ("assistant", "hi", "stop")


@pytest.mark.parametrize("response", [None, 5, object()])
def test_own_generate_that_returns_no_content_raises(response: Any) -> None:
    with pytest.raises(
        MalformedResponse, match=r"RecordingModel.generate returned \w+; it must return an object with a"
    ):
        list(RecordingModel(response).generate_stream("?"))


def test_own_generate_that_is_async_raises() -> None:
    class Async(Model):
        async def generate(self, messages: Any, **kwargs: Any) -> str:  # type: ignore[override]
            return "hi"

    with pytest.raises(MalformedResponse, match="returned coroutine"):
        list(Async().generate_stream("?"))


@each_method
@pytest.mark.parametrize("error", [ValueError("mine"), ServerError("no"), StopIteration()])
def test_error_of_own_generate_reaches_the_caller(method: str, error: Exception) -> None:
    expected = RuntimeError if isinstance(error, StopIteration) and method != "generate" else type(error)
    with pytest.raises(expected):
        METHODS[method](RecordingModel(error, retry=False), "?")


def test_own_generate_that_returns_a_message_passes_its_fields_on() -> None:
    inner = ChatMessage("assistant", "hi", warnings=["done another method"], model_id="inner", reasoning="hm")
    message = asyncio.run(RecordingModel(inner).agenerate("?"))
    assert (message.warnings, message.model_id, message.reasoning) == (["done another method"], "inner", "hm")


# --- mistakes of authors ----------------------------------------------------------------------------------------------


def test_class_with_generate_without_self_raises() -> None:
    with pytest.raises(TypeError, match=r"Snippet\.generate lacks 'self'"):

        class Snippet(Model):
            def generate(messages, stop_sequences=["Task"]):  # type: ignore[override]  # noqa: B006
                return None

    with pytest.raises(TypeError, match="lacks 'self'"):
        type("Bare", (Model,), {"generate": lambda: None})


def test_class_with_static_generate_works() -> None:
    class Static(Model):
        @staticmethod
        def generate(messages: Any, **kwargs: Any) -> str:  # type: ignore[override]
            return "hi"

    assert asyncio.run(Static().agenerate("?")).content == "hi"


@each_method
def test_super_generate_without_deltas_raises(method: str) -> None:
    class Asking(Model):
        def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            return super().generate(messages, *args, **kwargs)

    with pytest.raises(TypeError, match=r"Asking.generate calls super\(\).generate\(\)"):
        METHODS[method](Asking(), "?")


@each_method
def test_class_with_neither_deltas_nor_generate_raises(method: str) -> None:
    class Empty(Model):
        pass

    with pytest.raises(TypeError, match="Empty must implement `deltas`"):
        METHODS[method](Empty(), "?")


def test_class_without_super_init_works() -> None:
    class Forgetful(Model):
        def __init__(self, response: str) -> None:
            self.text = response

        async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
            yield Delta(content=self.text, finish_reason="stop")

    model = Forgetful("hi END")
    for method in METHODS.values():
        assert method(model, "?", stop_sequences=["END"]) == "hi "
    assert repr(model) == "Forgetful(None)"


def test_subclass_of_a_backend_may_override_generate() -> None:
    """The override applies to `generate` alone: streams and async calls use `deltas`."""

    class Shouting(EchoModel):
        def generate(self, *args: Any, **options: Any) -> ChatMessage:
            message = super().generate(*args, **options)
            message.content = message.text.upper()
            return message

    model = Shouting()
    assert model.generate("?", stop_sequences=["END"]).content == "PARIS IS IT. "
    assert model("?", stop_sequences=["END"]).content == "PARIS IS IT. "
    for method in ("generate_stream", "agenerate", "agenerate_stream"):
        assert METHODS[method](model, "?", stop_sequences=["END"]) == "Paris is it. "


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


# --- precedence of options --------------------------------------------------------------------------------------------


def test_call_option_takes_precedence_over_constructor() -> None:
    settings = {"temperature": 0.1, "max_tokens": 100, "seed": 1}
    parameters = request_for(settings=settings, temperature=0.9, seed=None).parameters
    assert parameters == {"temperature": 0.9, "max_tokens": 100, "seed": 1}


def test_role_conversions_of_the_call_take_precedence_over_constructor() -> None:
    request = request_for([{"role": "system", "content": "s"}], custom_role_conversions={"system": "user"})
    assert request.messages[0].role == "user"
    request = request_for(
        [{"role": "system", "content": "s"}], settings={"custom_role_conversions": {"system": "assistant"}},
        custom_role_conversions={"system": "user"},
    )  # fmt: skip
    assert request.messages[0].role == "user"


def test_time_limits_become_timeouts_and_no_parameters() -> None:
    request = request_for(settings={"timeout": 30, "idle_timeout": 5}, timeout=10)
    assert (request.timeouts.timeout, request.timeouts.idle_timeout, request.timeouts.first_token_timeout) == (
        10,
        5,
        None,
    )
    assert request.parameters == {}
    assert request_for().timeouts.timeout == 600


def test_tools_and_grammar_of_the_constructor_apply_to_every_call() -> None:
    assert request_for(settings={"tools": [TIME]}).tools == (TIME,)
    assert request_for(settings={"grammar": Choice("a", "Paris is it. END And more. ")}).grammar is not None
    assert request_for(settings={"stop": ["END"]}).stop_sequences == ("END",)


def test_capabilities_of_the_caller_take_precedence_over_the_backends() -> None:
    assert EchoModel().capabilities.tools
    assert not EchoModel(capabilities={"tools": False}).capabilities.tools
    assert EchoModel(capabilities={"tools": False}).capabilities.seed
    assert not EchoModel(capabilities=Capabilities()).capabilities.seed


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"max_new_tokens": 100}, {"max_tokens": 5}, lambda r: r.parameters == {"max_tokens": 5}),
        ({"max_tokens": 100}, {"max_new_tokens": 5}, lambda r: r.parameters == {"max_tokens": 5}),
        ({"stop": ["A"]}, {"stop_sequences": ["B"]}, lambda r: r.stop_sequences == ("B",)),
        ({"stop_sequences": ["A"]}, {}, lambda r: r.stop_sequences == ("A",) and not r.parameters),
        ({"stop_sequences": ["A"]}, {"stop": ["B"]}, lambda r: r.stop_sequences == ("B",) and not r.parameters),
        ({"tools": [TIME]}, {"tools_to_call_from": [WEATHER]}, lambda r: r.tools == (WEATHER,)),
        ({"grammar": Choice("a")}, {"response_format": {"type": "text"}}, lambda r: r.grammar is None),
        ({"tool_choice": "required"}, {}, lambda r: r.tool_choice == "auto"),
    ],
)
def test_call_option_under_another_name_takes_precedence_over_constructor(
    settings: Any, options: Any, expected: Any
) -> None:
    request = EchoModel(**settings)._prepare("?", options.pop("stop_sequences", None), options, stream=True)
    assert expected(request)


@pytest.mark.parametrize("settings", [{"requests_per_minute": 0}, {"max_concurrency": "3"}, {"retry": "often"}])
def test_constructor_with_wrong_limits_raises(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        EchoModel(**settings)


def test_constructor_with_misspelt_capability_raises() -> None:
    with pytest.raises(InvalidRequest, match="'tool' is unknown; known are"):
        EchoModel(capabilities={"tool": True})


def test_first_calls_from_several_threads_share_one_limit() -> None:
    """The chain of layers holds the limits; two chains would be two sets of limits."""

    class Slow(EchoModel):
        running = most = 0

        def _layers(self) -> list[Any]:
            time.sleep(0.05)
            return super()._layers()

        async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            yield Delta(content="hi", finish_reason="stop")
            self.running -= 1

    model = Slow(max_concurrency=1)
    threads = [threading.Thread(target=lambda: list(model.generate_stream("?")), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert model.most == 1


# --- other names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_completion_tokens"])
def test_max_tokens_is_accepted_under_its_other_names(name: str) -> None:
    options: dict[str, Any] = {name: 5}
    assert request_for(**options).parameters == {"max_tokens": 5}
    assert request_for(settings={name: 5}).parameters == {"max_tokens": 5}


def test_stop_is_accepted_as_stop_sequences() -> None:
    assert request_for(stop="END").stop_sequences == request_for("?", ["END"]).stop_sequences == ("END",)
    assert request_for("?", ["END"], stop=["END"]).stop_sequences == ("END",)
    with pytest.raises(InvalidRequest, match="stop_sequences and stop are two names"):
        request_for("?", ["END"], stop=["OTHER"])


def test_tools_to_call_from_require_a_tool_call() -> None:
    model = EchoModel()
    with pytest.raises(InvalidToolCall, match="made none"):
        model.generate("?", tools_to_call_from=[WEATHER])
    assert (model.requests[0].tools, model.requests[0].tool_choice) == ((WEATHER,), "required")
    assert request_for(tools_to_call_from=[WEATHER], tool_choice="auto").tool_choice == "auto"
    assert request_for(tools=[WEATHER]).tool_choice == "auto"
    with pytest.raises(InvalidRequest, match="tools and tools_to_call_from are two names"):
        request_for(tools=[WEATHER], tools_to_call_from=[WEATHER])
    assert request_for(tools_to_call_from=[]).tool_choice == "auto"


def test_response_format_is_accepted_as_grammar() -> None:
    model = EchoModel()
    model.response = "{}"
    assert model.generate("?", response_format={"type": "json_object"}).parsed == {}
    with pytest.raises(InvalidRequest, match="grammar and response_format are two names"):
        request_for(grammar={"type": "object"}, response_format={"type": "json_object"})


def test_named_tool_choice_reaches_the_backend() -> None:
    model = EchoModel()
    with pytest.raises(InvalidToolCall):
        model.generate("?", tools=[WEATHER, TIME], tool_choice={"type": "function", "function": {"name": "time"}})
    assert model.requests[0].tool_choice == NamedToolChoice("time")


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

    def close(self) -> None:
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
            EchoModel().generate(messages, **{name: 5})


def test_own_generate_that_returns_a_tool_call_without_json_raises() -> None:
    class Odd(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            function = {"name": "f", "arguments": {"all": {1}}}
            return ChatMessage("assistant", None, [{"id": "1", "function": function}])  # type: ignore[list-item]

    with pytest.raises(MalformedResponse, match="set is not JSON serializable"):
        next(iter(Odd().generate_stream("hello")))
