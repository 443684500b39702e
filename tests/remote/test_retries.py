"""Retries on every remote backend: N attempts are N requests, and every header that names a wait is honoured."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec

import pytest

from modelport import AmazonBedrockServerModel, Model, RateLimited, RetryPolicy, ServerError
from modelport.errors import ModelError
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import MODELS, ask
from tests.remote.test_llmock_faults import BACKENDS
from tests.servers.bedrock import BedrockServer, ConverseFault
from tests.servers.faults import Fault, FaultServer
from tests.servers.front import azure
from tests.servers.llmock import Fault as LlmockFault
from tests.servers.llmock import LlmockServer, llmock
from tests.servers.responses import ResponsesServer

pytestmark = pytest.mark.server

KEY = "bedrock-test-key-0123456789"


def bedrock(server: FaultServer, **settings: object) -> Model:
    where = {"region_name": "us-east-1", "api_base": server.url, "api_key": KEY}
    return AmazonBedrockServerModel("us.amazon.nova-pro-v1:0", **where, **settings)  # type: ignore[arg-type]


#: The backends of LiteLLM are tested in a session of their own, where LiteLLM is installed.
MODELS_BY_BACKEND: dict[str, Callable[..., Model]] = {
    **{name: make for name, make in MODELS.items() if find_spec("litellm") or not name.startswith("litellm")},
    "bedrock": bedrock,
}
#: The backends that llmock can serve, and the key of their model in `BACKENDS`.
LLMOCK_BACKENDS = {"openai": "openai", "openai-sdk": "openai", "azure": "azure", "huggingface": "huggingface"}


@pytest.fixture(scope="module")
def llmock_server() -> Iterator[tuple[LlmockServer, dict[str, str]]]:
    with ExitStack() as stack:
        server = stack.enter_context(llmock())
        front = stack.enter_context(
            azure(server.url, "test-key-0123456789", deployment="m", api_key="test-key-0123456789")
        )
        yield server, {"openai": server.url, "azure": front.url, "huggingface": server.url}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.server
@pytest.mark.parametrize("backend", LLMOCK_BACKENDS)
def test_n_attempts_send_n_requests(
    llmock_server: tuple[LlmockServer, dict[str, str]], backend: str, attempts: int, way: str
) -> None:
    server, urls = llmock_server
    server.reset()
    server.inject(LlmockFault.fail(503, retry_after=0.01, times=None))
    settings = {"client_kwargs": {"timeout": 30.0}} if backend.endswith("sdk") else {}
    model = BACKENDS[LLMOCK_BACKENDS[backend]](
        urls[LLMOCK_BACKENDS[backend]], retry=RetryPolicy(attempts, base=0.01), **settings
    )
    with pytest.raises(ServerError):
        ask(model, way)
    assert [request.status for request in server.requests()] == [503] * attempts


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], FaultServer]]:
    with FaultServer() as chat, BedrockServer(api_key=KEY) as converse, ResponsesServer() as responses:
        others = {"bedrock": converse, "openai-responses": responses, "openai-responses-sdk": responses}
        yield lambda backend: others.get(backend, chat)


@pytest.fixture(params=MODELS_BY_BACKEND)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def http_date(seconds: float, date_format: str) -> str:
    """Return a time from now in one of the three formats of an HTTP date.

    See https://www.rfc-editor.org/rfc/rfc9110#http.date
    """
    moment = time.time() + seconds
    return (
        time.strftime(date_format, time.gmtime(moment)) if date_format else email.utils.formatdate(moment, usegmt=True)
    )


#: Headers, and the seconds that they mean. Dates have whole seconds.
WAITS: dict[str, tuple[Callable[[], dict[str, str]], float]] = {
    "seconds": (lambda: {"Retry-After": "7"}, 7),
    "a fraction": (lambda: {"Retry-After": "0.25"}, 0.25),
    "retry-after-ms": (lambda: {"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
    "x-amz-retry-after": (lambda: {"x-amz-retry-after": "250"}, 0.25),
    "a date": (lambda: {"Retry-After": http_date(30, "")}, 30),
    "a date in the format of RFC 850": (lambda: {"Retry-After": http_date(30, "%A, %d-%b-%y %H:%M:%S GMT")}, 30),
    "a date in the format of asctime": (lambda: {"Retry-After": http_date(30, "%a %b %e %H:%M:%S %Y")}, 30),
    "a date in the past": (lambda: {"Retry-After": http_date(-30, "")}, 0),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("status", [429, 503])
def test_wait_that_service_asks_for_is_read(
    servers: Callable[[str], FaultServer], backend: str, status: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # A date without a time zone is not local time.
    time.tzset()
    server, (headers, expected) = servers(backend), WAITS[name]
    server.clear()
    fault = ConverseFault if backend == "bedrock" else Fault
    server.script([fault.status(status, headers=headers())])
    try:
        with pytest.raises(RateLimited if status == 429 else ServerError) as caught:
            ask(MODELS_BY_BACKEND[backend](server, retry=False, timeout=20), "sync")
    finally:
        monkeypatch.undo()
        time.tzset()
    # A busy machine may be seconds late. A wrong time zone would be hours.
    assert caught.value.retry_after == pytest.approx(expected, abs=15 if "date" in name and expected else 0.0)


@pytest.mark.parametrize("way", WAYS)
def test_retry_waits_as_long_as_service_asks(servers: Callable[[str], FaultServer], backend: str, way: str) -> None:
    server = servers(backend)
    server.clear()
    fault = ConverseFault if backend == "bedrock" else Fault
    server.script(
        [fault.status(503, headers={"retry-after-ms": "300"}), fault.status(429, headers={"Retry-After": "0.2"})]
    )
    assert ask(MODELS_BY_BACKEND[backend](server, retry=RetryPolicy(3, base=0.001), timeout=20), way).content
    first, second, third = (request.at for request in server.requests)
    assert second - first >= 0.3 and third - second >= 0.2


@pytest.mark.parametrize("way", WAYS)
def test_retry_budget_limits_retries_of_all_calls(
    servers: Callable[[str], FaultServer], backend: str, way: str
) -> None:
    """Twelve calls with three attempts each share four retries."""
    server = servers(backend)
    server.clear()
    server.script(then=(ConverseFault if backend == "bedrock" else Fault).status(500))
    model = MODELS_BY_BACKEND[backend](server, retry=RetryPolicy(3, base=0.001, budget=4), timeout=20)
    noted = 0
    for _ in range(12):
        with pytest.raises(ModelError) as caught:
            ask(model, way)
        noted += any("was not sent again" in note for note in getattr(caught.value, "__notes__", ()))
    assert (len(server.requests), noted) == (16, 10)
