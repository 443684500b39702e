"""An agent of smolagents survives each kind of bad call on LiteLLM and its Router, streamed and not."""

from __future__ import annotations

import pytest

from tests.remote.agent_repairs import BAD_CALLS, BAD_CODE, run_agent, run_code_agent
from tests.remote.matrix_runner import model_for
from tests.servers.faults import Fault, FaultServer

BACKENDS = ("litellm", "litellm-router")


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("name", BAD_CALLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_agent_repairs_a_bad_call(server: FaultServer, backend: str, name: str, streamed: bool) -> None:
    reply = {"text": "", **BAD_CALLS[name]}
    with model_for(server, backend) as model:
        errors = run_agent(server, model, Fault.ok(reply.pop("text"), **reply), streamed)
    assert "AgentGenerationError" not in errors
    assert bool(errors) == (name != "call in the text")


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("name", BAD_CODE)
@pytest.mark.parametrize("backend", BACKENDS)
def test_code_agent_repairs_bad_code(server: FaultServer, backend: str, name: str, streamed: bool) -> None:
    with model_for(server, backend) as model:
        assert len(run_code_agent(server, model, Fault, BAD_CODE[name], streamed)) == 1
