"""The faults of llmock, a server that others wrote, on every backend with chat completions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from modelport import AzureOpenAIServerModel, InferenceClientModel, Model, OpenAIServerModel
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    StreamInterrupted,
)
from modelport.layers.retry import RetryPolicy
from tests.remote.matrix import TOOL, WAYS
from tests.remote.matrix_runner import ask
from tests.servers.front import azure
from tests.servers.llmock import Fault, LlmockServer, llmock

pytestmark = pytest.mark.server
KEY = "test-key-0123456789"
BACKENDS: dict[str, Callable[..., Model]] = {
    "openai": lambda url, **settings: OpenAIServerModel("m", f"{url}/v1", KEY, **settings),
    "azure": lambda url, **settings: AzureOpenAIServerModel("m", url, KEY, "2024-10-21", **settings),
    "huggingface": lambda url, **settings: InferenceClientModel("m", token=KEY, base_url=url, **settings),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[LlmockServer, dict[str, str]]]:
    """The server, and the address of the server for each backend."""
    with ExitStack() as stack:
        server = stack.enter_context(llmock())
        resource = stack.enter_context(azure(server.url, KEY, deployment="m", api_key=KEY))
        yield server, {**dict.fromkeys(BACKENDS, server.url), "azure": resource.url}


@pytest.fixture
def server(servers: tuple[LlmockServer, dict[str, str]]) -> LlmockServer:
    servers[0].reset()
    return servers[0]


@pytest.fixture(params=BACKENDS)
def make(request: pytest.FixtureRequest, servers: tuple[LlmockServer, dict[str, str]]) -> Callable[..., Model]:
    name = str(request.param)
    settings: dict[str, Any] = {"retry": RetryPolicy(attempts=3, base=0.01), "timeout": 20}
    return lambda **more: BACKENDS[name](servers[1][name], **{**settings, **more})


@pytest.mark.parametrize("way", WAYS)
def test_rate_limit_and_unavailable_are_retried(server: LlmockServer, make: Callable[..., Model], way: str) -> None:
    server.inject(Fault.rate_limit(0.2), Fault.fail(503, retry_after=0.1))
    assert ask(make(), way).content
    assert [request.status for request in server.requests()] == [429, 503, 200]


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (403, AuthenticationError), (404, NotFoundError)]
)
def test_refusals_are_not_retried(
    server: LlmockServer, make: Callable[..., Model], status: int, kind: type[ModelError]
) -> None:
    server.inject(Fault.fail(status))
    with pytest.raises(kind) as caught:
        make().generate("hello")
    assert caught.value.status == status and server.pending() == 0


def test_endless_rate_limit_raises_after_all_attempts(server: LlmockServer, make: Callable[..., Model]) -> None:
    server.inject(Fault.rate_limit(0.1, times=None))
    with pytest.raises(RateLimited) as caught:
        make().generate("hello")
    assert caught.value.retry_after == pytest.approx(0.1) and len(server.requests()) == 3


@pytest.mark.parametrize(
    ("fault", "causes"),
    [
        # The HTTP library of the openai package has one exception for both, and llmock decides how the connection ends.
        (Fault.disconnect(after_chunks=3), {ConnectionFailed, MalformedResponse}),
        (Fault.truncate(after_chunks=3), {MalformedResponse}),
        (Fault.malformed(after_chunks=3), {MalformedResponse}),
        (Fault.stall(5.0, after_chunks=3), {DeadlineExceeded}),
    ],
    ids=lambda value: value.fields["kind"] if isinstance(value, Fault) else "",
)
@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_broken_stream_raises_stream_interrupted(
    server: LlmockServer, make: Callable[..., Model], fault: Fault, causes: set[type[ModelError]], way: str
) -> None:
    server.inject(Fault.reply("The capital of France is Paris."), fault)
    with pytest.raises(StreamInterrupted) as caught:
        ask(make(idle_timeout=0.4), way)
    assert type(caught.value.__cause__) in causes
    text = caught.value.partial.text
    assert text and "The capital of France is Paris.".startswith(text)


@pytest.mark.parametrize("way", WAYS)
def test_truncated_tool_arguments_raise_invalid_tool_call(
    server: LlmockServer, make: Callable[..., Model], way: str
) -> None:
    server.inject(Fault.broken_tool())
    with pytest.raises(InvalidToolCall) as caught:
        ask(make(), way, tools=[TOOL])
    assert caught.value.text
