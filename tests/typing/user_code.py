"""A user's program, which `nox -s release` checks with mypy --strict against the types of the installed package.

Each `type: ignore` marks a mistake that mypy must report. If the types of the package were `Any`, the comment would be
unused, which is an error too.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import assert_type

from modelport import (
    AsyncStream,
    Capabilities,
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    Choice,
    JSONSchema,
    LlamaCppModel,
    Model,
    ModelError,
    OpenAIServerModel,
    Request,
    RetryPolicy,
    Stream,
    TokenUsage,
    load_model,
)
from modelport.testing import CHECKS, ScriptedModel, Subject, run_check


def synchronous(model: Model) -> str:
    message = model.generate("Hello", stop_sequences=["\n"], temperature=0, grammar=Choice("yes", "no"))
    assert_type(message, ChatMessage)
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
