"""An agent of smolagents survives each kind of bad call, on every remote backend, streamed and not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.agent_repairs import BAD_CALLS, REFUSED_CALL, run_agent
from tests.remote.matrix import BACKENDS
from tests.remote.matrix_runner import model_for, server_for
from tests.servers.faults import Fault, FaultServer

pytestmark = pytest.mark.server
REMOTE = [name for name, backend in BACKENDS.items() if not backend.litellm]


@pytest.fixture(scope="module", params=REMOTE)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(backend: str) -> Iterator[FaultServer]:
    with server_for(backend) as server:
        yield server


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("name", BAD_CALLS)
def test_agent_repairs_a_bad_call(server: FaultServer, backend: str, name: str, streamed: bool) -> None:
    if backend == "bedrock" and name in ("broken JSON", "arguments are a list"):
        streamed = True  # A complete response of Converse holds the arguments as an object.
    reply = {"text": "", **BAD_CALLS[name]}
    with model_for(server, backend) as model:
        errors = run_agent(server, model, BACKENDS[backend].wire.ok(reply.pop("text"), **reply), streamed)
    assert "AgentGenerationError" not in errors
    assert bool(errors) == (name != "call in the text")


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
def test_agent_repairs_a_call_that_the_service_refuses(server: FaultServer, backend: str, streamed: bool) -> None:
    if BACKENDS[backend].wire is not Fault:
        pytest.skip("only services with chat completions return the refused call")
    with model_for(server, backend) as model:
        errors = run_agent(server, model, Fault.status(400, body=REFUSED_CALL), streamed)
    assert errors == ["AgentParsingError"]
