"""The port: what a newcomer writes, what callers get for it, and whose word goes first."""

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


class Echo(Model):
    """A backend that answers with `answer`, and keeps the requests."""

    declared_capabilities = Capabilities(tools=True, grammars={JSONSchema, Choice}, seed=True)  # type: ignore[arg-type]
    answer: Any = "Paris is it. END And more."

    def __init__(self, model_id: str | None = "echo", **settings: Any) -> None:
        super().__init__(model_id, **settings)
        self.requests: list[Request] = []

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        for word in self.answer.split(" "):
            yield Delta(content=word + " ")
        yield Delta(finish_reason="stop", token_usage=TokenUsage(3, 4))


def asked(*args: Any, of: type[Echo] = Echo, settings: dict[str, Any] | None = None, **options: Any) -> Request:
    """The request that reaches a backend, for these settings of the model and these options of the call."""
    model = of(**(settings or {}))
    list(model.generate_stream(*args or ("?",), **options))
    return model.requests[0]


# The four ways to call, each giving the answer's text.

WAYS: dict[str, Callable[..., str]] = {
    "generate": lambda m, *a, **k: m.generate(*a, **k).content,
    "generate_stream": lambda m, *a, **k: "".join(d.content or "" for d in m.generate_stream(*a, **k)),
    "agenerate": lambda m, *a, **k: asyncio.run(m.agenerate(*a, **k)).content,
    "agenerate_stream": lambda m, *a, **k: asyncio.run(_collected(m.agenerate_stream(*a, **k))),
}


async def _collected(stream: Any) -> str:
    return "".join([delta.content or "" async for delta in stream])


each_way = pytest.mark.parametrize("way", WAYS)


# --- the newcomer's class ---------------------------------------------------------------------------------------------


class client:
    """What the reference's snippet calls; it keeps what it was given."""

    calls: list[Any] = []  # noqa: RUF012

    @classmethod
    def chat_completion(cls, messages: Any, stop: Any, max_tokens: int) -> Any:
        cls.calls.append((messages, stop, max_tokens))
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(role="assistant", content="Paris"))])


class CustomModel(Model):
    def generate(self, messages, stop_sequences=["Task"]):  # noqa: B006
        response = client.chat_completion(messages, stop=stop_sequences, max_tokens=1024)
        answer = response.choices[0].message
        return answer


@each_way
def test_the_references_custom_model_has_all_four_methods(way: str) -> None:
    custom_model = CustomModel()
    client.calls.clear()
    assert WAYS[way](custom_model, [{"role": "user", "content": "The capital of France?"}]) == "Paris"
    assert client.calls == [([{"role": "user", "content": "The capital of France?"}], ["Task"], 1024)]


def test_calling_the_model_is_generate() -> None:
    assert CustomModel()([{"role": "user", "content": "?"}]).content == "Paris"
    assert Echo()("?", stop_sequences=["END"]).content == "Paris is it. "


class Noting(Model):
    """A newcomer's model that notes where it runs and what it is given."""

    def __init__(self, answer: Any = "Paris. END", **settings: Any) -> None:
        super().__init__("noting", **settings)
        self.answer = answer
        self.threads: list[threading.Thread] = []
        self.given: list[Any] = []

    def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
        self.threads.append(threading.current_thread())
        self.given.append((messages, stop_sequences, kwargs))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return SimpleNamespace(content=self.answer) if isinstance(self.answer, str) else self.answer


@pytest.mark.parametrize("way", ["generate", "generate_stream"])
def test_a_sync_call_runs_the_newcomers_code_in_the_callers_thread(way: str) -> None:
    model = Noting()
    ran_in: list[threading.Thread] = []

    def call() -> None:
        ran_in.append(threading.current_thread())
        WAYS[way](model, "?")

    call()
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(5)
    assert model.threads == ran_in


@pytest.mark.parametrize("way", ["agenerate", "agenerate_stream"])
def test_an_async_call_runs_it_in_a_thread_of_its_own(way: str) -> None:
    model = Noting()

    async def two_at_once() -> None:
        if way == "agenerate":
            await asyncio.gather(model.agenerate("?"), model.agenerate("?"))
        else:
            await asyncio.gather(_collected(model.agenerate_stream("?")), _collected(model.agenerate_stream("?")))

    asyncio.run(two_at_once())
    assert len(set(model.threads)) == 2
    assert threading.current_thread() not in model.threads


def test_models_that_call_models_do_not_wait_for_each_others_threads() -> None:
    class Nested(Model):
        def __init__(self, inner: Model) -> None:
            super().__init__("nested")
            self.inner = inner

        def generate(self, messages: Any, **kwargs: Any) -> Any:
            return asyncio.run(self.inner.agenerate(messages))

    async def many() -> list[ChatMessage]:
        model: Model = Noting("deep")
        for _ in range(3):
            model = Nested(model)
        return await asyncio.gather(*(model.agenerate("?") for _ in range(40)))

    assert {message.content for message in asyncio.run(many())} == {"deep"}


context = ContextVar("context", default="outside")


@each_way
def test_the_newcomers_code_sees_the_callers_context(way: str) -> None:
    class Seeing(Model):
        def generate(self, messages: Any, **kwargs: Any) -> str:
            return context.get()

    def call() -> str:
        context.set("inside")
        return WAYS[way](Seeing(), "?") if way != "generate" else Seeing().generate("?")

    import contextvars

    assert contextvars.copy_context().run(call) == "inside"


def test_streams_of_a_newcomer_are_cut_and_counted_like_any() -> None:
    usage = TokenUsage(1, 2)
    answer = ChatMessage("assistant", "Paris. END and more", token_usage=usage)
    with Noting(answer).generate_stream("?", stop_sequences=["END"]) as stream:
        assert "".join(delta.content or "" for delta in stream) == "Paris. "
    assert (stream.message.finish_reason, stream.message.stop_sequence) == ("stop", "END")
    assert stream.message.token_usage == usage


def test_the_newcomer_is_given_plain_messages_and_what_the_caller_gave() -> None:
    model = Noting("{}")
    list(model.generate_stream(
        [ChatMessage("system", "s"), {"role": "user", "content": [{"type": "text", "text": "u"}]}],
        stop_sequences=["END"], temperature=0.5, max_new_tokens=5,
    ))  # fmt: skip
    ((messages, stop, options),) = model.given
    assert messages == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert stop == ["END"]
    assert (options["temperature"], options["max_tokens"]) == (0.5, 5)


def test_what_the_caller_does_not_give_the_newcomer_is_not_given() -> None:
    model = Noting()
    list(model.generate_stream("?"))
    assert model.given == [([{"role": "user", "content": "?"}], None, {})]


@pytest.mark.parametrize("answer", [SimpleNamespace(content="hi"), ChatMessage("assistant", "hi"), "hi"])
def test_an_answer_is_anything_with_content_or_a_string(answer: Any) -> None:
    message = asyncio.run(Noting(answer).agenerate("?"))
    assert (message.role, message.content, message.finish_reason) == ("assistant", "hi", "stop")


@pytest.mark.parametrize("answer", [None, 5, object()])
def test_an_answer_without_content_is_named(answer: Any) -> None:
    with pytest.raises(MalformedResponse, match=r"Noting.generate returned \w+; it must return an object with a"):
        list(Noting(answer).generate_stream("?"))


def test_a_newcomer_who_writes_async_is_told() -> None:
    class Async(Model):
        async def generate(self, messages: Any, **kwargs: Any) -> str:  # type: ignore[override]
            return "hi"

    with pytest.raises(MalformedResponse, match="returned coroutine"):
        list(Async().generate_stream("?"))


@each_way
@pytest.mark.parametrize("error", [ValueError("mine"), ServerError("no"), StopIteration()])
def test_errors_of_the_newcomers_code_reach_the_caller(way: str, error: Exception) -> None:
    expected = RuntimeError if isinstance(error, StopIteration) and way != "generate" else type(error)
    with pytest.raises(expected):
        WAYS[way](Noting(error, retry=False), "?")


def test_a_wrapped_models_word_is_passed_on() -> None:
    inner = ChatMessage("assistant", "hi", warnings=["done another way"], model_id="inner", reasoning="hm")
    message = asyncio.run(Noting(inner).agenerate("?"))
    assert (message.warnings, message.model_id, message.reasoning) == (["done another way"], "inner", "hm")


# --- mistakes of authors ----------------------------------------------------------------------------------------------


def test_generate_without_self_is_an_error_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Snippet\.generate lacks 'self'"):

        class Snippet(Model):
            def generate(messages, stop_sequences=["Task"]):  # noqa: B006
                return None

    with pytest.raises(TypeError, match="lacks 'self'"):
        type("Bare", (Model,), {"generate": lambda: None})


def test_a_static_generate_is_somebodys_own_choice() -> None:
    class Static(Model):
        @staticmethod
        def generate(messages: Any, **kwargs: Any) -> str:  # type: ignore[override]
            return "hi"

    assert asyncio.run(Static().agenerate("?")).content == "hi"


@each_way
def test_super_generate_without_deltas_is_an_error_and_no_recursion(way: str) -> None:
    class Asking(Model):
        def generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            return super().generate(messages, *args, **kwargs)

    with pytest.raises(TypeError, match=r"Asking.generate calls super\(\).generate\(\)"):
        WAYS[way](Asking(), "?")


@each_way
def test_a_class_that_writes_neither_is_told_what_to_write(way: str) -> None:
    class Empty(Model):
        pass

    with pytest.raises(TypeError, match="Empty must implement `deltas`"):
        WAYS[way](Empty(), "?")


def test_an_author_who_forgets_super_init_has_a_working_model() -> None:
    class Forgetful(Model):
        def __init__(self, answer: str) -> None:
            self.text = answer

        async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
            yield Delta(content=self.text, finish_reason="stop")

    model = Forgetful("hi END")
    for way in WAYS.values():
        assert way(model, "?", stop_sequences=["END"]) == "hi "
    assert repr(model) == "Forgetful(None)"


def test_a_backends_subclass_may_override_generate() -> None:
    """Then `generate` is a plain override; streams and async calls go through `deltas`."""

    class Shouting(Echo):
        def generate(self, *args: Any, **options: Any) -> ChatMessage:
            message = super().generate(*args, **options)
            message.content = message.text.upper()
            return message

    model = Shouting()
    assert model.generate("?", stop_sequences=["END"]).content == "PARIS IS IT. "
    assert model("?", stop_sequences=["END"]).content == "PARIS IS IT. "
    for way in ("generate_stream", "agenerate", "agenerate_stream"):
        assert WAYS[way](model, "?", stop_sequences=["END"]) == "Paris is it. "


# --- calls ------------------------------------------------------------------------------------------------------------


@each_way
def test_the_four_ways_give_one_answer(way: str) -> None:
    model = Echo()
    assert WAYS[way](model, "The capital of France?", stop_sequences=["END"]) == "Paris is it. "
    (request,) = model.requests
    assert request.messages == (ChatMessage("user", "The capital of France?"),)
    assert (request.stop_sequences, request.stream) == (("END",), "stream" in way)


def test_a_message_says_all_about_its_answer() -> None:
    message = Echo().generate("?")
    assert message.content == "Paris is it. END And more. "
    assert (message.finish_reason, message.token_usage, message.model_id) == ("stop", TokenUsage(3, 4), "echo")


async def test_a_stream_knows_the_message_so_far() -> None:
    async with Echo().agenerate_stream("?") as stream:
        assert stream.message.content == ""
        await anext(stream)
        assert stream.message.content == "Paris "
        async for _ in stream:
            pass
    assert stream.message == await Echo().agenerate("?")


def test_a_streams_message_is_whole_once_it_has_ended() -> None:
    stream = Echo().generate_stream("?")
    assert "".join(delta.content or "" for delta in stream) == stream.message.content
    assert stream.message == Echo().generate("?")


def test_a_request_is_checked_when_the_call_is_made_and_sent_when_it_is_read() -> None:
    model = Echo()
    with pytest.raises(InvalidRequest):
        model.generate_stream([{"role": "robot", "content": "?"}])
    with pytest.raises(UnsupportedFeature):
        model.generate_stream([{"role": "user", "content": [Image(b"\x89PNG\r\n\x1a\n", "image/png")]}])
    stream = model.generate_stream("?")
    assert model.requests == []
    next(stream)
    assert len(model.requests) == 1
    stream.close()


@each_way
def test_what_the_caller_gives_is_not_changed(way: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    options: dict[str, Any] = {
        "stop_sequences": ["END"], "tools": [{"type": "function", "function": {"name": "f"}}], "max_new_tokens": 5,
    }  # fmt: skip
    before = copy.deepcopy((messages, options))
    WAYS[way](Echo(flatten_messages_as_text=True, custom_role_conversions={"user": "system"}), messages, **options)
    assert (messages, options) == before


@each_way
def test_an_error_names_the_model(way: str) -> None:
    model = Echo(retry=False)
    model.answer = ServerError("no")
    with pytest.raises(ServerError, match=r"no \(model: echo\)"):
        WAYS[way](model, "?")


# --- whose word goes first --------------------------------------------------------------------------------------------


def test_the_calls_word_goes_before_the_constructors() -> None:
    settings = {"temperature": 0.1, "max_tokens": 100, "seed": 1}
    parameters = asked(settings=settings, temperature=0.9, seed=None).parameters
    assert parameters == {"temperature": 0.9, "max_tokens": 100, "seed": 1}


def test_messages_settings_can_be_given_for_one_call() -> None:
    request = asked([{"role": "system", "content": "s"}], custom_role_conversions={"system": "user"})
    assert request.messages[0].role == "user"
    request = asked(
        [{"role": "system", "content": "s"}], settings={"custom_role_conversions": {"system": "assistant"}},
        custom_role_conversions={"system": "user"},
    )  # fmt: skip
    assert request.messages[0].role == "user"


def test_time_limits_are_no_parameters() -> None:
    request = asked(settings={"timeout": 30, "idle_timeout": 5}, timeout=10)
    assert (request.timeouts.timeout, request.timeouts.idle_timeout, request.timeouts.first_token_timeout) == (
        10,
        5,
        None,
    )
    assert request.parameters == {}
    assert asked().timeouts.timeout == 600


def test_the_constructor_sets_tools_and_grammar_for_every_call() -> None:
    assert asked(settings={"tools": [TIME]}).tools == (TIME,)
    assert asked(settings={"grammar": Choice("a", "Paris is it. END And more. ")}).grammar is not None
    assert asked(settings={"stop": ["END"]}).stop_sequences == ("END",)


def test_the_callers_word_on_capabilities_goes_before_the_backends() -> None:
    assert Echo().capabilities.tools
    assert not Echo(capabilities={"tools": False}).capabilities.tools
    assert Echo(capabilities={"tools": False}).capabilities.seed
    assert not Echo(capabilities=Capabilities()).capabilities.seed


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
def test_the_calls_word_goes_first_under_another_name_too(settings: Any, options: Any, expected: Any) -> None:
    request = Echo(**settings)._prepare("?", options.pop("stop_sequences", None), options, stream=True)
    assert expected(request)


@pytest.mark.parametrize("settings", [{"requests_per_minute": 0}, {"max_concurrency": "3"}, {"retry": "often"}])
def test_a_constructors_mistake_is_found_by_the_constructor(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Echo(**settings)


def test_a_misspelt_capability_is_found_by_the_constructor() -> None:
    with pytest.raises(InvalidRequest, match="'tool' is unknown; known are"):
        Echo(capabilities={"tool": True})


def test_threads_that_make_the_first_calls_at_once_share_one_limit() -> None:
    """The chain of layers holds the limits; two chains would let twice as many requests through."""

    class Slow(Echo):
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
def test_other_names_of_max_tokens(name: str) -> None:
    assert asked(**{name: 5}).parameters == {"max_tokens": 5}
    assert asked(settings={name: 5}).parameters == {"max_tokens": 5}


def test_stop_is_another_name_of_stop_sequences() -> None:
    assert asked(stop="END").stop_sequences == asked("?", ["END"]).stop_sequences == ("END",)
    assert asked("?", ["END"], stop=["END"]).stop_sequences == ("END",)
    with pytest.raises(InvalidRequest, match="stop_sequences and stop are two names"):
        asked("?", ["END"], stop=["OTHER"])


def test_tools_to_call_from_means_that_one_is_to_be_called() -> None:
    model = Echo()
    with pytest.raises(InvalidToolCall, match="made none"):
        model.generate("?", tools_to_call_from=[WEATHER])
    assert (model.requests[0].tools, model.requests[0].tool_choice) == ((WEATHER,), "required")
    assert asked(tools_to_call_from=[WEATHER], tool_choice="auto").tool_choice == "auto"
    assert asked(tools=[WEATHER]).tool_choice == "auto"
    with pytest.raises(InvalidRequest, match="tools and tools_to_call_from are two names"):
        asked(tools=[WEATHER], tools_to_call_from=[WEATHER])
    assert asked(tools_to_call_from=[]).tool_choice == "auto"


def test_response_format_is_another_name_of_grammar() -> None:
    model = Echo()
    model.answer = "{}"
    assert model.generate("?", response_format={"type": "json_object"}).parsed == {}
    with pytest.raises(InvalidRequest, match="grammar and response_format are two names"):
        asked(grammar={"type": "object"}, response_format={"type": "json_object"})


def test_a_named_tool_choice_reaches_the_backend() -> None:
    model = Echo()
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
def test_a_call_is_read_from_text_for_agents(text: str) -> None:
    message = ChatMessage("user", text)
    assert Echo().parse_tool_calls(message) is message
    (call,) = message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})
    assert message.role == "assistant"


def test_the_keys_of_a_call_in_text_can_be_chosen() -> None:
    model = Echo(tool_name_key="tool", tool_arguments_key="args")
    message = model.parse_tool_calls(ChatMessage("assistant", '{"tool": "time", "args": {"a": 1}}'))
    (call,) = message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("time", {"a": 1})


@pytest.mark.parametrize("text", ["", "no call", '{"name": 5}', '{"name": "weather"', "{" * 5000, "[" * 100_000 + "{"])
def test_a_text_without_a_call_is_an_error_with_the_text(text: str) -> None:
    with pytest.raises(InvalidToolCall, match="holds no tool call") as raised:
        Echo().parse_tool_calls(ChatMessage("assistant", text))
    assert raised.value.text == text
    assert len(str(raised.value)) < 1000


# --- the object -------------------------------------------------------------------------------------------------------


def test_a_pickled_model_answers_alike() -> None:
    model = Echo("other", temperature=0.5, requests_per_minute=100, capabilities={"tools": False}, retry=2)
    model.generate("?")  # The chain of layers, the limits' locks in it, is made by now.
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin.generate("?", stop_sequences=["END"]).content == "Paris is it. "
        assert (twin.model_id, twin.kwargs, twin.requests_per_minute) == ("other", {"temperature": 0.5}, 100)
        assert twin.capabilities == model.capabilities


def test_a_stream_cannot_be_pickled() -> None:
    for stream in (Echo().generate_stream("?"), Echo().agenerate_stream("?")):
        with pytest.raises(TypeError, match="pickle its message"):
            pickle.dumps(stream)


def test_a_repr_is_short_and_holds_no_settings() -> None:
    assert repr(Echo("gpt", temperature=0.5, extra_headers={"Authorization": "sk-1"})) == "Echo('gpt')"
    request = Request((ChatMessage("user", "private"),), parameters={"extra_headers": {"Authorization": "sk-1"}})
    assert "private" not in repr(request)
    assert "sk-1" not in repr(request)


class Closing(Echo):
    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_model_is_closed_with_its_block() -> None:
    with Closing() as model:
        assert model.generate("?").content
        assert not model.closed
    assert model.closed == 1
    with pytest.raises(ModelError), Closing() as model:
        raise ModelError("inside")
    assert model.closed == 1


async def test_a_model_is_closed_with_its_async_block() -> None:
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
def test_a_bad_setting_is_found_by_the_constructor(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest, match=name):
            Echo(**{name: value})


@pytest.mark.parametrize("name", ["custom_role_conversions", "flatten_messages_as_text"])
def test_a_bad_option_is_found_whatever_the_messages_are(name: str) -> None:
    for messages in ("hello", [{"role": "user", "content": "hello"}]):
        with pytest.raises(InvalidRequest, match=name):
            Echo().generate(messages, **{name: 5})


def test_an_answer_whose_call_is_no_json_is_none() -> None:
    class Odd(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            function = {"name": "f", "arguments": {"all": {1}}}
            return ChatMessage("assistant", None, [{"id": "1", "function": function}])  # type: ignore[list-item]

    with pytest.raises(MalformedResponse, match="set is not JSON serializable"):
        next(iter(Odd().generate_stream("hello")))
