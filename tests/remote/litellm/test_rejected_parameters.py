"""Services behind LiteLLM that reject a parameter: the model updates its profile, as with modelport's own transport."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import InvalidRequest
from tests.remote.litellm.helpers import model_on
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import ask, model_for
from tests.remote.outcomes import ANSWER
from tests.servers.faults import OK, Fault, FaultServer

pytestmark = pytest.mark.server


def rejecting(field: str, message: str, code: str | None = None, param: str | None = None) -> Any:
    def respond(request: Any) -> Fault:
        return Fault.status(400, message=message, code=code, param=param) if field in request.json else OK

    return respond


STOP = "Unsupported parameter: 'stop' is not supported with this model."


@pytest.mark.parametrize("backend", ["litellm", "litellm-router"])
@pytest.mark.parametrize("way", WAYS)
def test_rejected_stop_is_done_by_modelport(server: FaultServer, backend: str, way: str) -> None:
    server.script(then=rejecting("stop", STOP, "unsupported_parameter", "stop"))
    model = model_for(server, backend)
    with pytest.warns(UserWarning, match="stop"):
        assert ask(model, way, stop_sequences=[" France"]).content == "The capital of"
    assert ask(model, way, stop_sequences=[" is"]).content == "The capital of France"
    assert ["stop" in request.json for request in server.requests] == [True, False, False]


@pytest.mark.parametrize("way", WAYS)
def test_rejected_temperature_is_left_out_with_warning(server: FaultServer, way: str) -> None:
    server.script(then=rejecting("temperature", "`temperature` is deprecated for this model."))
    model = model_on(server)
    with pytest.warns(UserWarning, match="temperature"):
        message = ask(model, way, temperature=0.2)
    assert message.content == ANSWER
    assert [warning.feature for warning in message.warnings or ()] == ["temperature"]
    ask(model, way, temperature=0.2)
    assert ["temperature" in request.json for request in server.requests] == [True, False, False]


def test_too_long_id_is_no_context_overflow(server: FaultServer) -> None:
    """LiteLLM raises its `ContextWindowExceededError` for it."""
    text = "Invalid 'messages[3].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a string with length 41 instead."  # fmt: skip  # noqa: E501
    server.script(then=Fault.status(400, message=text, code="string_above_max_length"))
    with pytest.raises(InvalidRequest) as caught:
        ask(model_on(server), "sync")
    assert type(caught.value) is InvalidRequest
