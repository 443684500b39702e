"""Responses with status 200 that are no success: failures in finish reasons, web pages, empty bodies."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.errors import MalformedResponse, ModelError, ServerError, StreamInterrupted
from tests.remote.chat_backends import *  # noqa: F403
from tests.remote.chat_backends import model_for
from tests.remote.matrix import BACKENDS
from tests.remote.matrix_runner import ask, server_for
from tests.remote.matrix_runner import model_for as model_for_backend
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


HTML = {"Content-Type": "text/html; charset=utf-8"}
NO_RESPONSES = {
    "web page": (Fault(headers=HTML, content=b"<!doctype html><title>Sign in</title>", never_streams=True), "web page"),
    "web page as events": (
        Fault(headers={"Content-Type": "text/event-stream"}, content=b"<html>\n\n<body>\n\n", never_streams=True),
        "web page",
    ),
    "204": (Fault(status_code=204, content=b""), "empty body"),
    "empty stream": (
        Fault(headers={"Content-Type": "text/event-stream"}, content=b"", never_streams=True), "empty body"
    ),
    "comments alone": (
        Fault(headers={"Content-Type": "text/event-stream"}, content=b": hello\n\n", never_streams=True), "no events"
    ),
    "[DONE] alone": (
        Fault(headers={"Content-Type": "text/event-stream"}, content=b"data: [DONE]\n\n", never_streams=True),
        "no part of a response",
    ),
}  # fmt: skip


@pytest.mark.parametrize("accepts", [False, True])
@pytest.mark.parametrize(("fault", "text"), NO_RESPONSES.values(), ids=NO_RESPONSES)
def test_response_that_is_none_is_an_error_without_wrong_advice(
    server: FaultServer, transport: str, fault: Fault, text: str, accepts: bool
) -> None:
    server.script([fault])
    model = model_for(server, transport, accept_missing_finish=accepts, retry=False)
    with pytest.raises(MalformedResponse, match=text) as caught:
        ask(model, "async streamed")
    assert "accept_missing_finish" not in str(caught.value)


@pytest.mark.parametrize("case", ["web page", "204"])
def test_non_streaming_response_that_is_none_is_an_error(server: FaultServer, transport: str, case: str) -> None:
    fault, text = NO_RESPONSES[case]
    server.script([fault])
    with pytest.raises(MalformedResponse, match=text):
        ask(model_for(server, transport, accept_missing_finish=True, retry=False), "sync")


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_media_beside_text_are_named_in_a_warning(server: FaultServer, transport: str, way: str) -> None:
    image = {"type": "image_url", "index": 0, "image_url": {"url": "data:image/png;base64,iVBORw0="}}
    server.script([Fault.ok("See:", message_fields={"images": [image], "audio": {"id": "a", "data": "UklGRg=="}})])
    message = ask(model_for(server, transport), way)
    assert ([warning.feature for warning in message.warnings], message.content) == (["audio", "images"], "See:")


@pytest.mark.parametrize("streamed", [False, True], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("backend", ["openai", "openai-responses", "bedrock"])
def test_usage_of_a_failed_response_is_counted(backend: str, streamed: bool) -> None:
    """The service reports its usage together with the failure, and the request is sent again."""
    wire = BACKENDS[backend].wire
    fields = {"openai": {"finish_reason": "malformed_function_call"}, "bedrock": {"stop_reason": "malformed_tool_use"}}
    failure = wire.ok("", **fields.get(backend, {"status": "failed"}))
    with server_for(backend) as server, model_for_backend(server, backend) as model:
        server.script([failure, wire.ok("fine")])
        message = ask(model, "sync streamed" if streamed else "sync")
        assert (message.text, len(server.requests)) == ("fine", 2)
    assert message.token_usage is not None
    assert (message.token_usage.input_tokens, message.token_usage.output_tokens) == (24, 16)
