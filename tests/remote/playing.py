"""Plays the cells of the fault matrix: the backends, the four ways to ask, and what a cell must show."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from modelport import (
    AmazonBedrockServerModel,
    AzureOpenAIServerModel,
    ChatMessage,
    InferenceClientModel,
    LiteLLMModel,
    LiteLLMRouterModel,
    Model,
    OpenAIServerModel,
)
from modelport.errors import ConnectionFailed, ModelError, StreamInterrupted
from modelport.layers.retry import RetryPolicy
from tests.remote.matrix import ANSWER, COLUMNS, DEADLINE, Expected, Not, OKn, Row, X, expected
from tests.servers.bedrock import BedrockServer
from tests.servers.faults import FaultServer

QUICK = RetryPolicy(attempts=3, base=0.01)
KEY = "test-key-0123456789"
SDK = {"client_kwargs": {"timeout": 30.0}}
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
AZURE = "2024-10-21"
BOTO = {"region_name": "us-east-1", "api_key": KEY}


def _router(url: str, **settings: Any) -> Model:
    parameters = {"model": "openai/m", "api_base": url, "api_key": KEY}
    return LiteLLMRouterModel("m", [{"model_name": "m", "litellm_params": parameters}], **settings)


#: A model of each column, for a server and further settings.
MODELS: dict[str, Callable[..., Any]] = {
    "openai": lambda server, **settings: OpenAIServerModel("m", server.base_url, KEY, **settings),
    "openai-sdk": lambda server, **settings: OpenAIServerModel("m", server.base_url, KEY, **SDK, **settings),
    "azure": lambda server, **settings: AzureOpenAIServerModel("m", server.url, KEY, AZURE, **settings),
    "azure-sdk": lambda server, **settings: AzureOpenAIServerModel("m", server.url, KEY, AZURE, **SDK, **settings),
    "huggingface": lambda server, **more: InferenceClientModel("m", token=KEY, base_url=server.base_url, **more),
    "bedrock": lambda server, **more: AmazonBedrockServerModel(CLAUDE, api_base=server.url, **BOTO, **more),
    "litellm": lambda server, **settings: LiteLLMModel("openai/m", server.base_url, KEY, **settings),
    "litellm-router": lambda server, **settings: _router(server.base_url, **settings),
    # A provider that LiteLLM serves through its own HTTP client, not through the openai package.
    "litellm-http": lambda server, **settings: LiteLLMModel("hosted_vllm/m", server.base_url, KEY, **settings),
}


def model_for(server: FaultServer, column: str, **settings: Any) -> Any:
    """A model of a column, which retries fast and never waits for ever."""
    return MODELS[column](server, **{"retry": QUICK, "timeout": DEADLINE, **settings})


def server_for(column: str) -> FaultServer:
    """A server that speaks the column's wire."""
    return BedrockServer(api_key=KEY) if column == "bedrock" else FaultServer()


def ask(model: Model, way: str, **options: Any) -> ChatMessage:
    """The answer, asked for in one of the four ways; connections are closed afterwards."""
    try:
        if way == "sync":
            return model.generate("hello", **options)
        if way == "sync streamed":
            with model.generate_stream("hello", **options) as stream:
                for _ in stream:
                    pass
                return stream.message
        return asyncio.run(_in_a_loop(model, way, options))
    finally:
        if not way.startswith("async") or isinstance(model, AmazonBedrockServerModel):
            model.close()  # of the others, connections that a loop made end with it


async def _in_a_loop(model: Model, way: str, options: dict[str, Any]) -> ChatMessage:
    if way == "async":
        return await model.agenerate("hello", **options)
    async with model.agenerate_stream("hello", **options) as stream:
        async for _ in stream:
            pass
        return stream.message


# --- a cell -----------------------------------------------------------------------------------------------------------

_LIMITS = ("first_token_timeout", "idle_timeout", "timeout")


def play(server: FaultServer, column: str, row: Row, way: str) -> None:
    """Holds a backend to one cell.

    Time limits and busy machines: where a cell with a limit fails, it is played once more with limits four times as
    long (the faults outlast those too). What it shows does not depend on the length; a defect fails at both.
    """
    what = expected(row, column, way)
    if row.special:
        globals()[row.special](server, column, way, what)
        return
    limited = {name: row.options[name] for name in _LIMITS if row.options.get(name, 9.0) < 1.0}
    options = dict(row.options)
    if COLUMNS[column].litellm:  # which makes a client for each new loop, a tenth of a second's work
        options |= {name: 2 * limit for name, limit in limited.items()}
    try:
        _play(server, column, row, way, what, options)
    except (AssertionError, ModelError, TimeoutError):
        if not limited:
            raise
        server.clear()
        _play(server, column, row, way, what, {**options, **{name: 4 * limit for name, limit in limited.items()}})


def _play(server: FaultServer, column: str, row: Row, way: str, what: Expected, options: dict[str, Any]) -> None:
    wire = COLUMNS[column].wire
    model = model_for(server, column, **row.settings)
    assert row.play is not None and not isinstance(what, Not)
    faults = row.play(wire)
    server.script(faults, **({"then": row.then(wire)} if row.then else {}))
    begun = time.monotonic()
    if isinstance(what, OKn):
        message = ask(model, way, **options)
        assert (message.content, message.finish_reason) == (what.text, "stop")
        assert len(server.requests) in _attempts(column, row, what.attempts)
        if what.waits:
            assert server.requests[1].at - server.requests[0].at >= what.waits
    elif isinstance(what, X):
        with pytest.raises(ModelError) as caught:
            ask(model, way, **options)
        took = time.monotonic() - begun
        assert type(caught.value) is what.error, repr(caught.value)
        assert {name: getattr(caught.value, name) for name in what.attributes} == what.attributes
        assert caught.value.model_id in (model.model_id, "m")  # as the caller named it, or as the answer does
        assert took < what.within
        assert len(server.requests) in _attempts(column, row, what.attempts)
    else:
        with pytest.raises(StreamInterrupted) as interrupted:
            ask(model, way, **options)
        assert interrupted.value.partial.content == what.partial
        assert type(interrupted.value.__cause__) is what.cause, repr(interrupted.value.__cause__)
        assert len(server.requests) == 1
    let_go(server)
    assert server.unused == 0
    assert server.requests[-1].stream == ("streamed" in way)


def _attempts(column: str, row: Row, asked: int) -> range:
    """LiteLLM's own HTTP client asks once more, by itself, where a connection was reset before the answer began."""
    again = column == "litellm-http" and row.name.startswith("5: reset")
    return range(asked, (2 * asked if again else asked) + 1)


def let_go(server: FaultServer) -> None:
    """Waits until no request is being answered any more, and no connection is held."""
    server.wait_for(lambda: all(request.done or request.client_left for request in server.requests), 10.0)
    server.wait_for(lambda: server.open_connections == 0, 10.0)


# --- rows with a test of their own ------------------------------------------------------------------------------------


def refused_once(server: FaultServer, column: str, way: str, what: Expected) -> None:
    """Row 5: the server listens again while the call waits for its second attempt."""

    def listen_again(error: ModelError) -> bool:
        assert type(error) is ConnectionFailed
        server.start_listening()
        return True

    server.stop_listening()
    model = model_for(server, column, retry=RetryPolicy(attempts=2, base=0.01, retryable=listen_again))
    assert ask(model, way).content == ANSWER
    assert len(server.requests) == 1


def refused_for_ever(server: FaultServer, column: str, way: str, what: Expected) -> None:
    """Row 5: as many attempts as the policy has."""
    seen: list[ModelError] = []

    def note(error: ModelError) -> bool:
        seen.append(error)
        return error.retryable

    server.stop_listening()
    with pytest.raises(ConnectionFailed) as caught:
        ask(model_for(server, column, retry=RetryPolicy(attempts=3, base=0.01, retryable=note)), way)
    assert len(seen) == 3 and caught.value is seen[-1]


def redirected(server: FaultServer, column: str, way: str, what: Expected) -> None:
    """Row 4: the prompt, and the headers that a user gave, are not sent to another address."""
    assert isinstance(what, X)
    with server_for(column) as other:
        server.script(then=COLUMNS[column].wire.status(307, headers={"Location": f"{other.base_url}/elsewhere"}))
        with pytest.raises(ModelError) as caught:
            ask(model_for(server, column), way)
        assert type(caught.value) is what.error, repr(caught.value)
        assert (caught.value.status, len(server.requests), other.requests) == (307, 1, [])
    let_go(server)


def left_early(server: FaultServer, column: str, way: str, what: Expected) -> None:
    """Row 14: of 50 answers that their callers left, nothing stays: no connection, no task, no thread."""
    wire = COLUMNS[column].wire
    server.script(then=wire.cut("stall", stall_s=9.0) if "streamed" in way else wire.slow(9.0))
    model = model_for(server, column)
    if way == "sync streamed":
        for i in range(50):
            _leave_sync(model, i)
    else:
        asyncio.run(_leave_async(server, model, way))
    server.wait_for(lambda: all(request.client_left for request in server.requests), 10.0)
    assert len(server.requests) == 50
    server.wait_for(lambda: not threads_of_calls(), 10.0)
    server.script()
    assert ask(model, way).content == ANSWER
    let_go(server)


def _leave_sync(model: Model, i: int) -> None:
    stream = model.generate_stream("hello")
    assert any(delta.content for delta in stream)
    if i % 3 == 0:
        stream.close()
    elif i % 3 == 1:
        with stream:
            pass


async def _leave_async(server: FaultServer, model: Model, way: str) -> None:
    for i in range(50):
        await (_leave_stream(model, i) if "streamed" in way else _leave_answer(server, model, i))
    await asyncio.to_thread(server.wait_for, lambda: all(r.client_left for r in server.requests), 10.0)
    for _ in range(100):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"tasks are left: {asyncio.all_tasks()}")


async def _leave_stream(model: Model, i: int) -> None:
    stream = model.agenerate_stream("hello")
    async for delta in stream:
        if delta.content:
            break
    if i % 3 == 0:
        await stream.close()
    elif i % 3 == 1:
        async with stream:
            pass


async def _leave_answer(server: FaultServer, model: Model, i: int) -> None:
    task = asyncio.create_task(model.agenerate("hello"))
    while len(server.requests) <= i:  # noqa: ASYNC110  # the server is in a thread of its own
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def threads_of_calls() -> list[threading.Thread]:
    """Threads in which a call or a stream is read."""
    return [thread for thread in threading.enumerate() if thread.name in ("modelport-call", "modelport-stream")]
