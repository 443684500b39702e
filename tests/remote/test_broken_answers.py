"""Responses with status 200 that are no success: failures in finish reasons, web pages, empty bodies."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import ModelError, ServerError, StreamInterrupted
from tests.remote.chat_backends import *  # noqa: F403
from tests.remote.chat_backends import model_for
from tests.remote.matrix_runner import ask
from tests.servers.faults import Fault, FaultServer

TEXT = "The capital"


def failed(**fields: Any) -> Fault:
    """Return a response that ends in a failure after some text."""
    return Fault.ok(TEXT, **{"finish_reason": "error", **fields})


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_failure_as_finish_reason_is_retried_or_interrupts(server: FaultServer, transport: str, way: str) -> None:
    server.script([failed()])
    model = model_for(server, transport)
    if way == "sync":  # The caller has received nothing, so the request is sent again.
        assert ask(model, way).finish_reason == "stop"
        assert len(server.requests) == 2
        return
    with pytest.raises(StreamInterrupted) as caught:
        ask(model, way)
    assert isinstance(caught.value.__cause__, ServerError)
    assert caught.value.partial.content == TEXT
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_error_of_choice_is_raised_with_its_status(server: FaultServer, way: str) -> None:
    error = {"code": 502, "message": "Upstream is down"}
    server.script([failed(choice_fields={"error": error})])
    with pytest.raises(ModelError, match="Upstream is down") as caught:
        ask(model_for(server, retry=False), way)
    assert caught.value.status == 502


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_unknown_finish_reason_is_named_in_a_warning(server: FaultServer, way: str) -> None:
    server.script([Fault.ok(TEXT, finish_reason="pause_turn")])
    message = ask(model_for(server), way)
    assert (message.content, message.finish_reason) == (TEXT, "stop")
    assert "'pause_turn'" in str(message.warnings[0])
