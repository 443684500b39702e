"""Runs the cells of the fault matrix: makes the models, calls them in the four ways, and checks the outcomes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

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
from modelport.remote.http import bodies
from tests.remote.matrix import BACKENDS, DEADLINE, expected
from tests.remote.outcomes import ANSWER, Fails, FaultCase, NotApplicable, Outcome, Succeeds
from tests.servers.bedrock import BedrockServer
from tests.servers.faults import FaultServer
from tests.servers.responses import ResponsesFault, ResponsesServer

QUICK = RetryPolicy(attempts=3, base=0.01)
KEY = "test-key-0123456789"
SDK: dict[str, Any] = {"client_kwargs": {"timeout": 30.0}}
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
AZURE = "2024-10-21"
BOTO: dict[str, Any] = {"region_name": "us-east-1", "api_key": KEY}


def _router(url: str, **settings: Any) -> Model:
    parameters = {"model": "openai/m", "api_base": url, "api_key": KEY}
    return LiteLLMRouterModel("m", [{"model_name": "m", "litellm_params": parameters}], **settings)


#: By backend: a function that makes a model for a server, with further settings.
MODELS: dict[str, Callable[..., Any]] = {
    "openai": lambda server, **settings: OpenAIServerModel("m", server.base_url, KEY, **settings),
    "openai-sdk": lambda server, **settings: OpenAIServerModel("m", server.base_url, KEY, **SDK, **settings),
    "openai-responses": lambda server, **settings: OpenAIServerModel(
        "m", server.base_url, KEY, api="responses", **settings
    ),
    "openai-responses-sdk": lambda server, **settings: OpenAIServerModel(
        "m", server.base_url, KEY, api="responses", **SDK, **settings
    ),
    "azure": lambda server, **settings: AzureOpenAIServerModel("m", server.url, KEY, AZURE, **settings),
    "azure-sdk": lambda server, **settings: AzureOpenAIServerModel("m", server.url, KEY, AZURE, **SDK, **settings),
    "huggingface": lambda server, **more: InferenceClientModel("m", token=KEY, base_url=server.base_url, **more),
    "bedrock": lambda server, **more: AmazonBedrockServerModel(CLAUDE, api_base=server.url, **BOTO, **more),
    "litellm": lambda server, **settings: LiteLLMModel("openai/m", server.base_url, KEY, **settings),
    "litellm-router": lambda server, **settings: _router(server.base_url, **settings),
    # LiteLLM calls this provider through its own HTTP client, and not through the openai package.
    "litellm-http": lambda server, **settings: LiteLLMModel("hosted_vllm/m", server.base_url, KEY, **settings),
}


def model_for(server: FaultServer, backend: str, **settings: Any) -> Any:
    """Return a model of a backend that retries fast and whose calls always end."""
    return MODELS[backend](server, **{"retry": QUICK, "timeout": DEADLINE, **settings})


def server_for(backend: str) -> FaultServer:
    """Return a server with the wire format of a backend."""
    if backend == "bedrock":
        return BedrockServer(api_key=KEY)
    return ResponsesServer() if BACKENDS[backend].wire is ResponsesFault else FaultServer()


def ask(model: Model, way: str, messages: Any = "hello", **options: Any) -> ChatMessage:
    """Call a model in one of the four ways, and close its connections afterwards."""
    try:
        if way == "sync":
            return model.generate(messages, **options)
        if way == "sync streamed":
            with model.generate_stream(messages, **options) as stream:
                for _ in stream:
                    pass
                return stream.message
        return asyncio.run(_ask_async(model, way, messages, options))
    finally:
        # Connections that an event loop opened end with the loop, except those of boto3.
        if not way.startswith("async") or isinstance(model, AmazonBedrockServerModel):
            model.release()


async def _ask_async(model: Model, way: str, messages: Any, options: dict[str, Any]) -> ChatMessage:
    if way == "async":
        return await model.agenerate(messages, **options)
    async with model.agenerate_stream(messages, **options) as stream:
        async for _ in stream:
            pass
        return stream.message


# --- one cell ---------------------------------------------------------------------------------------------------------

_TIME_LIMITS = ("first_token_timeout", "idle_timeout", "timeout")
#: A wait between attempts that is longer than this is a wait for the service, in seconds.
_LONG_WAIT = 1.0


def run_cell(server: FaultServer, backend: str, case: FaultCase, way: str) -> None:
    """Run one cell of the matrix, and check its outcome.

    If a cell with time limits fails, it runs once more with limits four times as long (the faults last longer than
    those too), because a busy machine may need longer than the limit. A defect fails with both.
    """
    outcome = expected(case, backend, way)
    if case.special:
        globals()[case.special](server, backend, way, outcome)
        return
    short_limits = {name: case.options[name] for name in _TIME_LIMITS if case.options.get(name, 9.0) < 1.0}
    options = dict(case.options)
    if BACKENDS[backend].litellm:  # LiteLLM makes a client for each new event loop, which takes a tenth of a second.
        options |= {name: 2 * limit for name, limit in short_limits.items()}
    try:
        _check_cell(server, backend, case, way, outcome, options)
    except (AssertionError, ModelError, TimeoutError):
        if not short_limits:
            raise
        server.clear()
        longer_limits = {name: 4 * limit for name, limit in short_limits.items()}
        _check_cell(server, backend, case, way, outcome, {**options, **longer_limits})


def _check_cell(
    server: FaultServer, backend: str, case: FaultCase, way: str, outcome: Outcome, options: dict[str, Any]
) -> None:
    wire = BACKENDS[backend].wire
    model = model_for(server, backend, **case.settings)
    assert case.script is not None and not isinstance(outcome, NotApplicable)
    server.script(case.script(wire), **({"then": case.then(wire)} if case.then else {}))
    with ExitStack() as stack:
        waits = stack.enter_context(_recorded_sleeps())
        if case.stalls_in_error_body:
            stack.enter_context(mock.patch.object(bodies, "ERROR_BODY_TIMEOUT", 0.3))
        if isinstance(outcome, Succeeds):
            message = ask(model, way, **options)
            assert (message.content, message.finish_reason) == (outcome.text, "stop")
            assert len(server.requests) == outcome.attempts
            if outcome.waits:
                assert server.requests[1].at - server.requests[0].at >= outcome.waits
        elif isinstance(outcome, Fails):
            with pytest.raises(ModelError) as caught:
                ask(model, way, **options)
            assert type(caught.value) is outcome.error, repr(caught.value)
            assert {name: getattr(caught.value, name) for name in outcome.attributes} == outcome.attributes
            assert caught.value.model_id in (model.model_id, "m")  # The caller's name, or that of the response.
            assert len(server.requests) == outcome.attempts
            assert not outcome.at_once or max(waits, default=0.0) < _LONG_WAIT
        else:
            with pytest.raises(StreamInterrupted) as interrupted:
                ask(model, way, **options)
            assert interrupted.value.partial.content == outcome.partial
            assert type(interrupted.value.__cause__) is outcome.cause, repr(interrupted.value.__cause__)
            assert len(server.requests) == 1
    wait_until_idle(server)
    assert server.unused == 0
    assert server.requests[-1].stream == ("streamed" in way)
    if isinstance(outcome, Fails) and outcome.abandons:
        assert server.requests[-1].client_left


@contextmanager
def _recorded_sleeps() -> Iterator[list[float]]:
    """Record the seconds of every `asyncio.sleep`, by which the retry layer waits."""
    seconds: list[float] = []
    sleep = asyncio.sleep

    def recording_sleep(delay: float, *args: Any, **kwargs: Any) -> Any:
        seconds.append(delay)
        return sleep(delay, *args, **kwargs)

    with mock.patch.object(asyncio, "sleep", recording_sleep):
        yield seconds


def wait_until_idle(server: FaultServer) -> None:
    """Wait until no request is running and no connection is open."""
    server.wait_for(lambda: all(request.done or request.client_left for request in server.requests), 10.0)
    server.wait_for(lambda: server.open_connections == 0, 10.0)


# --- cells without a script -------------------------------------------------------------------------------------------


def refuse_first_connection(server: FaultServer, backend: str, way: str, outcome: Outcome) -> None:
    """Check kind 5: the server listens again while the call waits for its second attempt."""

    def listen_again(error: ModelError) -> bool:
        assert type(error) is ConnectionFailed
        server.start_listening()
        return True

    server.stop_listening()
    model = model_for(server, backend, retry=RetryPolicy(attempts=2, base=0.01, retryable=listen_again))
    assert ask(model, way).content == ANSWER
    assert len(server.requests) == 1


def refuse_all_connections(server: FaultServer, backend: str, way: str, outcome: Outcome) -> None:
    """Check kind 5: the call is attempted as often as the policy says."""
    errors: list[ModelError] = []

    def note(error: ModelError) -> bool:
        errors.append(error)
        return error.retryable

    server.stop_listening()
    with pytest.raises(ConnectionFailed) as caught:
        ask(model_for(server, backend, retry=RetryPolicy(attempts=3, base=0.01, retryable=note)), way)
    assert len(errors) == 3 and caught.value is errors[-1]


def run_redirect(server: FaultServer, backend: str, way: str, outcome: Outcome) -> None:
    """Check kind 4: the prompt and the caller's headers are not sent to another address."""
    assert isinstance(outcome, Fails)
    with server_for(backend) as other:
        server.script(then=BACKENDS[backend].wire.status(307, headers={"Location": f"{other.base_url}/elsewhere"}))
        with pytest.raises(ModelError) as caught:
            ask(model_for(server, backend), way)
        assert type(caught.value) is outcome.error, repr(caught.value)
        assert (caught.value.status, len(server.requests), other.requests) == (307, 1, [])
    wait_until_idle(server)


def abandon_calls(server: FaultServer, backend: str, way: str, outcome: Outcome) -> None:
    """Check kind 14: 50 abandoned calls leave no connection, no task and no thread."""
    wire = BACKENDS[backend].wire
    server.script(then=wire.cut("stall", stall_s=9.0) if "streamed" in way else wire.slow(9.0))
    model = model_for(server, backend)
    if way == "sync streamed":
        for number in range(50):
            _abandon_sync_stream(model, number)
    else:
        asyncio.run(_abandon_async(server, model, way))
    server.wait_for(lambda: all(request.client_left for request in server.requests), 10.0)
    assert len(server.requests) == 50
    server.wait_for(lambda: not threads_of_calls(), 10.0)
    server.script()
    assert ask(model, way).content == ANSWER
    wait_until_idle(server)


def _abandon_sync_stream(model: Model, number: int) -> None:
    stream = model.generate_stream("hello")
    assert any(delta.content for delta in stream)
    if number % 3 == 0:
        stream.close()
    elif number % 3 == 1:
        with stream:
            pass


async def _abandon_async(server: FaultServer, model: Model, way: str) -> None:
    for number in range(50):
        await (_abandon_stream(model, number) if "streamed" in way else _cancel_call(server, model, number))
    await asyncio.to_thread(server.wait_for, lambda: all(r.client_left for r in server.requests), 10.0)
    for _ in range(100):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"tasks are left: {asyncio.all_tasks()}")


async def _abandon_stream(model: Model, number: int) -> None:
    stream = model.agenerate_stream("hello")
    async for delta in stream:
        if delta.content:
            break
    if number % 3 == 0:
        await stream.close()
    elif number % 3 == 1:
        async with stream:
            pass


async def _cancel_call(server: FaultServer, model: Model, number: int) -> None:
    task = asyncio.create_task(model.agenerate("hello"))
    while len(server.requests) <= number:  # noqa: ASYNC110  # The server runs in another thread.
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def threads_of_calls() -> list[threading.Thread]:
    """Return the threads in which a call or a stream is read."""
    return [thread for thread in threading.enumerate() if thread.name in ("modelport-call", "modelport-stream")]
