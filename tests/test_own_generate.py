"""Models whose author implemented just `generate`, and mistakes of authors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from modelport.errors import (
    MalformedResponse,
    ServerError,
)
from modelport.layers.retry import RetryPolicy
from modelport.model import Model
from modelport.types.messages import ChatMessage
from modelport.types.request import Request
from modelport.types.tools import Tool
from modelport.types.usage import TokenUsage
from tests.echo import METHODS, Delta, EchoModel, each_method, text_of

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
    both = threading.Barrier(2)

    class WaitingModel(RecordingModel):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            both.wait(5)
            return super().generate(messages, stop_sequences, **kwargs)

    model = WaitingModel()

    async def two_at_once() -> None:
        if method == "agenerate":
            await asyncio.gather(model.agenerate("?"), model.agenerate("?"))
        else:
            await asyncio.gather(text_of(model.agenerate_stream("?")), text_of(model.agenerate_stream("?")))

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
    inner = ChatMessage("assistant", "hi", warnings=["Done in another way."], model_id="inner", reasoning="hm")  # type: ignore[list-item]
    message = asyncio.run(RecordingModel(inner).agenerate("?"))
    assert ([str(one) for one in message.warnings], message.model_id, message.reasoning) == (
        ["Done in another way."],
        "inner",
        "hm",
    )


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


class Numbers(Model):
    """Its author knows neither stop sequences nor output types, and the service fails once."""

    def __init__(self, *answers: str | Exception, **settings: Any) -> None:
        super().__init__(**settings)
        self.answers = list(answers)

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:  # type: ignore[override]
        if isinstance(answer := self.answers.pop(0), Exception):
            raise answer
        return ChatMessage("assistant", answer)


def test_plain_call_of_an_authors_generate_runs_through_the_layers() -> None:
    """Stop sequences, output types, retries with feedback and retries after errors work as on other models."""
    assert Numbers("one END two")("?", stop_sequences=["END"]).content == "one "
    assert Numbers(ServerError("busy"), "yes", retry=RetryPolicy(base=0.01))("?").content == "yes"
    message = Numbers("none", "7")("?", grammar={"type": "integer"})
    assert (message.parsed, message.enforcement) == (7, "validated")
    model = Numbers('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>')
    message = model("?", tools=[Tool("f", "", {"type": "object"})])
    assert message.tool_calls and message.tool_calls[0].function.arguments == {"a": 1}
