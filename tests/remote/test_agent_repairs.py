"""An agent of smolagents survives each kind of bad call, on every remote backend, streamed and not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.agent_repairs import BAD_CALLS, BAD_CODE, REFUSED_CALL, run_agent, run_code_agent
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


@pytest.mark.parametrize("backend", [name for name in REMOTE if BACKENDS[name].wire is Fault], scope="module")
@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
def test_agent_repairs_a_call_that_the_service_refuses(server: FaultServer, backend: str, streamed: bool) -> None:
    """Only services with chat completions return the refused call."""
    with model_for(server, backend) as model:
        errors = run_agent(server, model, Fault.status(400, body=REFUSED_CALL), streamed)
    assert errors == ["AgentParsingError"]


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("name", BAD_CODE)
def test_code_agent_repairs_bad_code(server: FaultServer, backend: str, name: str, streamed: bool) -> None:
    with model_for(server, backend) as model:
        errors = run_code_agent(server, model, BACKENDS[backend].wire, BAD_CODE[name], streamed)
    assert len(errors) == 1 and errors[0] in ("AgentParsingError", "AgentExecutionError")
