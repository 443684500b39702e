"""A user's program. `nox -s release` checks it with mypy --strict against the types of the installed package.

`test_pyright` checks it with pyright. Each `type: ignore` marks a mistake that both must report. If the types of the
package were `Any`, the comment would be unused, which is an error too.
"""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypedDict, TypeVar, Unpack, assert_type

from pydantic import BaseModel

from modelport import (
    AsyncStream,
    CallOptions,
    CallWarning,
    Capabilities,
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    Choice,
    JSONSchema,
    LlamaCppModel,
    MessageInput,
    Model,
    ModelError,
    OpenAIServerModel,
    Regex,
    Request,
    RetryPolicy,
    Stream,
    TokenUsage,
    load_model,
)
from modelport.backend import Deltas, Next
from modelport.testing import CHECKS, ScriptedModel, Subject, run_check


class Person(BaseModel):
    name: str
    age: int


@dataclass
class Point:
    x: float


class Row(TypedDict):
    id: int


class Colour(Enum):
    RED = "red"


Size = Literal["small", "large"]


def output_types(model: Model) -> None:
    assert_type(model.generate("?", grammar=Person).parsed, Person)
    assert_type(model("?", grammar=Point, temperature=0).parsed, Point)
    assert_type(model("?", grammar=Row).parsed, Row)
    assert_type(model("?", grammar=Colour).parsed, Colour)
    assert_type(model("?", grammar=Literal["small", "large"]).parsed, Literal["small", "large"])
    assert_type(model("?", grammar=Size).parsed, Size)
    assert_type(model("?", grammar=list[Person]).parsed, list[Person])
    assert_type(model("?", grammar=int | str).parsed, int | str)
    assert_type(model("?", grammar=Choice("yes", "no")).parsed, str)
    assert_type(model("?", grammar=Regex("[a-z]+")).parsed, str)
    assert_type(model("?", grammar=JSONSchema({"type": "object"})).parsed, Any)
    assert_type(model("?", grammar={"type": "object"}).parsed, Any)
    assert_type(model("?", grammar=None).parsed, None)
    assert_type(model("?").parsed, Any)
    assert_type(model("?", response_format=Person).parsed, Person)
    assert_type(model("?", response_format=Size).parsed, Size)
    assert_type(model("?", response_format=Choice("yes", "no")).parsed, str)
    assert_type(model("?", response_format={"type": "json_object"}).parsed, Any)
    with model.generate_stream("?", grammar=Person) as stream:
        assert_type(stream.message.parsed, Person)
    assert_type(model.generate_stream("?", grammar=Size).message.parsed, Size)
    assert_type(model.generate_stream("?", grammar=Choice("a")).message.parsed, str)


async def asynchronous_output_types(model: Model) -> None:
    assert_type((await model.agenerate("?", grammar=Person)).parsed, Person)
    assert_type((await model.agenerate("?", grammar=Size)).parsed, Size)
    assert_type((await model.agenerate("?", grammar=Choice("a"))).parsed, str)
    async with model.agenerate_stream("?", response_format=Person) as stream:
        assert_type(stream.message.parsed, Person)
    assert_type(model.agenerate_stream("?", grammar=Row).message.parsed, Row)


def mistakes(model: Model) -> None:
    model("?", tempratur=0)  # type: ignore[call-overload]
    model("?", grammar=Person, tempratur=0)  # type: ignore[call-overload]
    model("?", max_tokens="seven")  # type: ignore[call-overload]
    model.generate("?", timout=3)  # type: ignore[call-overload]
    model.generate_stream("?", tool_choise="auto")  # type: ignore[call-overload]
    model.agenerate_stream("?", seed=1.5)  # type: ignore[call-overload]
    model(5)  # type: ignore[call-overload]
    model("?", grammar=5)  # type: ignore[call-overload]
    model("?", stream=True)  # type: ignore[call-overload]


async def asynchronous_mistakes(model: Model) -> None:
    await model.agenerate("?", temprature=0)  # type: ignore[call-overload]


def ask(model: Model, messages: MessageInput, **options: Unpack[CallOptions]) -> ChatMessage:
    """Pass options on."""
    return model(messages, **options)


def vendor_parameters(model: Model) -> None:
    model("?", service_tier="flex", provider={"order": ["x"]}, enable_thinking=False, top_k=40)
    model("?", extra_body={"anything": 1})
    ask(model, "?", temperature=0, grammar=Person)
    ask(model, "?", tempratur=0)  # type: ignore[call-arg]


async def passed_on(model: Model, pool: ThreadPoolExecutor, prompts: list[str]) -> None:
    message = await asyncio.to_thread(model, "?")
    assert_type(message.text, str)
    future = pool.submit(model.generate, "?")
    assert_type(future.result().text, str)
    print([message.text for message in map(model, prompts)])


T = TypeVar("T")


def extract(model: Model, kind: type[T]) -> T:
    return model("?", grammar=kind).parsed


def conversation(model: Model) -> None:
    history: list[ChatMessage | dict[str, Any]] = [{"role": "user", "content": "?"}]
    history.append(model(history))
    model([{"role": "user", "content": "?"}, ChatMessage("assistant", "!")])
    for warning in model(history).warnings:
        assert_type(warning, CallWarning)
        assert_type(warning.feature, str | None)


async def count_deltas(request: Request, next: Next) -> Deltas:
    async for delta in next(request):
        yield delta


def layers(model: LlamaCppModel) -> None:
    assert_type(model.with_layers(count_deltas), LlamaCppModel)
    model.with_layers(5)  # type: ignore[arg-type]


def synchronous(model: Model) -> str:
    message = model.generate("Hello", stop_sequences=["\n"], temperature=0, grammar=Choice("yes", "no"))
    assert_type(message, ChatMessage[str])
    assert_type(model("Hello", ["\n"], temperature=0), ChatMessage)
    assert_type(message.tool_calls, list[ChatMessageToolCall] | None)
    assert_type(message.token_usage, TokenUsage | None)
    print(message.token_usage.input_tokens)  # type: ignore[union-attr]
    with model.generate_stream([{"role": "user", "content": "Hello"}, message]) as stream:
        assert_type(stream, Stream)
        for delta in stream:
            assert_type(delta, ChatMessageStreamDelta)
            assert_type(delta.content, str | None)
    return stream.message.text


async def asynchronous(model: Model) -> None:
    assert_type(await model.agenerate("Hello"), ChatMessage)
    async with model.agenerate_stream("Hello") as stream:
        assert_type(stream, AsyncStream)
        async for delta in stream:
            print(delta.content or "", end="")


class StreamingModel(Model):
    declared_capabilities = Capabilities(grammars=frozenset({JSONSchema}), usage=True)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        assert_type(request.stop_sequences, tuple[str, ...])
        yield ChatMessageStreamDelta(content="Hello", finish_reason="stop")


class BlockingModel(Model):
    def generate(self, messages: object, stop_sequences: object = None, **options: object) -> ChatMessage:
        return ChatMessage("assistant", "Hello")


def construction() -> list[Model]:
    LlamaCppModel(parallel="4")  # type: ignore[arg-type]
    RetryPolicy(attempts=None)  # type: ignore[arg-type]
    remote = OpenAIServerModel("gpt-4o", api_base="http://127.0.0.1:1/v1", api_key="k", temperature=0.2)
    return [remote, StreamingModel("mine"), BlockingModel(), load_model("llamacpp"), ScriptedModel("Paris")]


def conformance(model: StreamingModel) -> None:
    for check in CHECKS:
        assert_type(run_check(Subject(make=lambda: model), check).status, str)


def main() -> None:
    for model in construction():
        try:
            print(synchronous(model))
            asyncio.run(asynchronous(model))
        except ModelError as error:
            assert_type(error.retry_after, float | None)
