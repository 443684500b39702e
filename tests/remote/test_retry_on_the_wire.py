"""What the one retry loop does on the wire of every remote backend: N attempts are N requests, and every way in which a
service says how long to wait is honoured."""

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
from tests.remote.test_faults_of_others import BACKENDS
from tests.servers.bedrock import BedrockServer, ConverseFault
from tests.servers.faults import Fault, FaultServer
from tests.servers.front import azure
from tests.servers.llmock import Fault as OthersFault
from tests.servers.llmock import LlmockServer, llmock

KEY = "bedrock-test-key-0123456789"


def bedrock(server: FaultServer, **settings: object) -> Model:
    where = {"region_name": "us-east-1", "api_base": server.url, "api_key": KEY}
    return AmazonBedrockServerModel("us.amazon.nova-pro-v1:0", **where, **settings)  # type: ignore[arg-type]


#: LiteLLM's run in its own session, where it is installed.
ALL: dict[str, Callable[..., Model]] = {
    **{name: make for name, make in MODELS.items() if find_spec("litellm") or not name.startswith("litellm")},
    "bedrock": bedrock,
}
#: The server of somebody else's making speaks no Converse.
OTHERS = {"openai": "openai", "openai-sdk": "openai", "azure": "azure", "huggingface": "huggingface"}


@pytest.fixture(scope="module")
def others() -> Iterator[tuple[LlmockServer, dict[str, str]]]:
    with ExitStack() as stack:
        server = stack.enter_context(llmock())
        front = stack.enter_context(
            azure(server.url, "test-key-0123456789", deployment="m", api_key="test-key-0123456789")
        )
        yield server, {"openai": server.url, "azure": front.url, "huggingface": server.url}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("backend", OTHERS)
def test_n_attempts_are_n_requests(
    others: tuple[LlmockServer, dict[str, str]], backend: str, attempts: int, way: str
) -> None:
    server, urls = others
    server.reset()
    server.inject(OthersFault.fail(503, retry_after=0.01, times=None))
    settings = {"client_kwargs": {"timeout": 30.0}} if backend.endswith("sdk") else {}
    model = BACKENDS[OTHERS[backend]](urls[OTHERS[backend]], retry=RetryPolicy(attempts, base=0.01), **settings)
    with pytest.raises(ServerError):
        ask(model, way)
    assert [request.status for request in server.requests()] == [503] * attempts


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], FaultServer]]:
    with FaultServer() as chat, BedrockServer(api_key=KEY) as converse:
        yield lambda backend: converse if backend == "bedrock" else chat


@pytest.fixture(params=ALL)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def at(seconds: float, form: str) -> str:
    """A moment in one of the three forms of an HTTP date (https://www.rfc-editor.org/rfc/rfc9110#http.date)."""
    moment = time.time() + seconds
    return time.strftime(form, time.gmtime(moment)) if form else email.utils.formatdate(moment, usegmt=True)


#: Headers, and the seconds that they mean; those of a date are whole ones.
WAITS: dict[str, tuple[Callable[[], dict[str, str]], float]] = {
    "seconds": (lambda: {"Retry-After": "7"}, 7),
    "a fraction": (lambda: {"Retry-After": "0.25"}, 0.25),
    "retry-after-ms": (lambda: {"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
    "x-amz-retry-after": (lambda: {"x-amz-retry-after": "250"}, 0.25),
    "a date": (lambda: {"Retry-After": at(30, "")}, 30),
    "a date of RFC 850": (lambda: {"Retry-After": at(30, "%A, %d-%b-%y %H:%M:%S GMT")}, 30),
    "a date of C": (lambda: {"Retry-After": at(30, "%a %b %e %H:%M:%S %Y")}, 30),
    "a date that has passed": (lambda: {"Retry-After": at(-30, "")}, 0),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("status", [429, 503])
def test_what_a_service_says_of_the_wait_is_understood(
    servers: Callable[[str], FaultServer], backend: str, status: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")  # a date without a zone is no local time
    time.tzset()
    server, (headers, expected) = servers(backend), WAITS[name]
    server.clear()
    fault = ConverseFault if backend == "bedrock" else Fault
    server.script([fault.status(status, headers=headers())])
    try:
        with pytest.raises(RateLimited if status == 429 else ServerError) as caught:
            ask(ALL[backend](server, retry=False, timeout=20), "sync")
    finally:
        monkeypatch.undo()
        time.tzset()
    # The test machine may be busy for seconds; a wrong zone would be hours.
    assert caught.value.retry_after == pytest.approx(expected, abs=15 if "date" in name and expected else 0.0)


@pytest.mark.parametrize("way", WAYS)
def test_the_wait_is_kept(servers: Callable[[str], FaultServer], backend: str, way: str) -> None:
    server = servers(backend)
    server.clear()
    fault = ConverseFault if backend == "bedrock" else Fault
    server.script(
        [fault.status(503, headers={"retry-after-ms": "300"}), fault.status(429, headers={"Retry-After": "0.2"})]
    )
    assert ask(ALL[backend](server, retry=RetryPolicy(3, base=0.001), timeout=20), way).content
    first, second, third = (request.at for request in server.requests)
    assert second - first >= 0.3 and third - second >= 0.2


@pytest.mark.parametrize("way", WAYS)
def test_an_outage_is_not_multiplied(servers: Callable[[str], FaultServer], backend: str, way: str) -> None:
    """Twelve calls with three attempts each, and four retries for all of them."""
    server = servers(backend)
    server.clear()
    server.script(then=(ConverseFault if backend == "bedrock" else Fault).status(500))
    model = ALL[backend](server, retry=RetryPolicy(3, base=0.001, budget=4), timeout=20)
    noted = 0
    for _ in range(12):
        with pytest.raises(ModelError) as caught:
            ask(model, way)
        noted += any("was not sent again" in note for note in getattr(caught.value, "__notes__", ()))
    assert (len(server.requests), noted) == (16, 10)
