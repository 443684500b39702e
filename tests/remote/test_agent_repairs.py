"""An agent of smolagents survives each kind of bad call, on every remote backend, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.remote.agent_repairs import (
    BAD_CALLS,
    BAD_CODE,
    BAD_STRUCTURES,
    REFUSED_CALL,
    run_agent,
    run_code_agent,
    run_structured_agent,
)  # fmt: skip
from tests.remote.matrix import BACKENDS
from tests.remote.matrix_runner import ask, model_for, server_for
from tests.servers.faults import Call, Fault, FaultServer

pytestmark = pytest.mark.server
FORECAST = {
    "name": "forecast", "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}},
}  # fmt: skip
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


@pytest.mark.parametrize(
    "backend", [name for name in REMOTE if BACKENDS[name].wire is Fault], indirect=True, scope="module"
)
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


@pytest.mark.filterwarnings("ignore:.*ignored it:UserWarning")
@pytest.mark.parametrize(
    "backend", [name for name in REMOTE if BACKENDS[name].wire is Fault], indirect=True, scope="module"
)
@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("name", BAD_STRUCTURES)
def test_code_agent_repairs_bad_structured_output(server: FaultServer, backend: str, name: str, streamed: bool) -> None:
    """If the call does not stream, modelport repeats some requests itself, and the agent notes fewer errors."""
    with model_for(server, backend) as model:
        errors = run_structured_agent(server, model, BACKENDS[backend].wire, BAD_STRUCTURES[name], streamed)
    expected = "AgentExecutionError" if name == "broken code" else "AgentParsingError"
    assert set(errors) <= {expected}
    assert len(errors) == BAD_STRUCTURES[name][0] if streamed else errors or name == "missing key"


@pytest.mark.parametrize("arguments", ['{"days": 3', "[3]"])
def test_call_that_was_no_object_goes_back_as_one(server: FaultServer, backend: str, arguments: str) -> None:
    """vLLM's, llama.cpp's and others' servers parse the arguments of earlier calls, and refuse any others for ever."""
    wire = BACKENDS[backend].wire
    server.script([wire.ok("", calls=(Call("forecast", arguments, "call_bad"),)), wire.ok("fine")])
    messages: list[object] = [{"role": "user", "content": "How will the weather be?"}]
    with model_for(server, backend) as model:
        message = ask(model, "sync streamed", messages, tools=[FORECAST], tool_errors="return")
        messages += [message.to_dict(), {"role": "tool", "tool_call_id": "call_bad", "content": "Write JSON."}]
        message = ask(model, "sync", messages, tools=[FORECAST])
    assert (message.content, [warning.type for warning in message.warnings]) == ("fine", ["changed"])
    sent = json.dumps(server.requests[-1].json).replace("\\", "")  # The arguments are JSON in JSON.
    assert f'"invalid_arguments": "{arguments}"' in sent
