"""Faults of Bedrock that the fault matrix does not have, on a server that sends Converse event streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from modelport import AmazonBedrockServerModel
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    StreamInterrupted,
)
from tests.remote import matrix_runner
from tests.remote.matrix import TOOL, WAYS
from tests.remote.matrix_runner import KEY, ask
from tests.servers.bedrock import BedrockServer, Converse, ConverseFault, frame
from tests.servers.faults import Call

pytestmark = pytest.mark.server

Fault = ConverseFault


@pytest.fixture(scope="module")
def shared_server() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=KEY) as server:
        ask(model_for(server), "async streamed")
        yield server


@pytest.fixture
def server(shared_server: BedrockServer) -> Iterator[BedrockServer]:
    shared_server.settle()
    yield shared_server
    shared_server.start_listening()


def model_for(server: BedrockServer, **settings: Any) -> AmazonBedrockServerModel:
    return matrix_runner.model_for(server, "bedrock", **settings)  # type: ignore[no-any-return]


def test_connection_is_reused_by_responses_and_streams_read_to_the_end(server: BedrockServer) -> None:
    model, before = model_for(server), server.connections_opened
    for _ in range(3):
        model.generate("hello")
        list(model.generate_stream("hello"))
    assert server.connections_opened - before == 1
    model.close()


@pytest.mark.parametrize("end", ["reset", "close", "stall"])
def test_fault_after_the_last_event_is_ignored(server: BedrockServer, end: Any) -> None:
    server.script([Fault.cut(end, after_events=len(Converse().events()), stall_s=9.0)])
    message = ask(model_for(server), "sync streamed")
    assert (message.content, message.finish_reason) == (Converse().text, "stop")
    assert message.token_usage is not None and message.token_usage.output_tokens == 8
    (request,) = server.requests
    server.wait_for(lambda: request.done or request.client_left)
    assert request.client_left == (end == "stall"), "the client waited for the end of the stall"


@pytest.mark.parametrize("end", ["reset", "close", "finish"])
def test_fault_between_stop_reason_and_metadata_loses_only_the_usage(server: BedrockServer, end: Any) -> None:
    server.script([Fault.cut(end, after_events=len(Converse().events()) - 1)])
    message = ask(model_for(server), "sync streamed")
    assert (message.content, message.finish_reason, message.token_usage) == (Converse().text, "stop", None)


def test_stream_received_byte_by_byte_is_read(server: BedrockServer) -> None:
    server.script([Fault.ok("Grüße, 世界! 🎉", piece=3).replace(split=1)])
    assert ask(model_for(server), "sync streamed").content == "Grüße, 世界! 🎉"


def test_valid_frame_without_converse_event_raises_malformed_response(server: BedrockServer) -> None:
    headers = {"event_type": "contentBlockDelta", "content_type": "application/json", "message_type": "event"}
    payloads = [b'{"contentBlockIndex":0}', b'{"contentBlockIndex":0,"delta":{"text":7}}', b"null", b"[]", b"{"]
    for payload in payloads:
        server.script([Fault(replaced_events={3: frame(payload, **headers)})])
        with pytest.raises(StreamInterrupted) as raised:
            ask(model_for(server), "sync streamed")
        assert type(raised.value.__cause__) is MalformedResponse, payload


def test_event_of_unknown_type_is_ignored(server: BedrockServer) -> None:
    """AWS asks clients to ignore event types that they do not know, because the service may send new ones."""
    headers = {"event_type": "novelty", "content_type": "application/json", "message_type": "event"}
    events = Converse().events()
    server.script([Fault(replaced_events={2: frame(b'{"a": 1}', **headers) + events[2]})])
    assert ask(model_for(server), "sync streamed").content == Converse().text


CODES: Sequence[tuple[int, str, str, type[ModelError]]] = [
    (400, "ValidationException", "Input is too long for requested model.", ContextWindowExceeded),
    (400, "ValidationException", "The model returned: prompt is too long: 9 tokens > 8 maximum", ContextWindowExceeded),
    (400, "ValidationException", "The provided model identifier is invalid.", InvalidRequest),
    (403, "UnrecognizedClientException", "The security token included in the request is invalid.", AuthenticationError),
    (403, "ExpiredTokenException", "The security token included in the request is expired", AuthenticationError),
    (400, "UnrecognizedClientException", "The security token is invalid.", AuthenticationError),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model", NotFoundError),
]


@pytest.mark.parametrize(
    ("status", "code", "text", "kind"), CODES, ids=[f"{status}-{code}-{text[:25]}" for status, code, text, _ in CODES]
)
def test_error_code_decides_the_error_class_and_is_not_retried(
    server: BedrockServer, status: int, code: str, text: str, kind: type[ModelError]
) -> None:
    server.script(then=Fault.status(status, code=code, message=text))
    with pytest.raises(kind) as raised:
        model_for(server).generate("hello")
    assert type(raised.value) is kind
    assert (raised.value.status, text.rstrip(".") in str(raised.value)) == (status, True)
    assert len(server.requests) == 1


def test_model_not_ready_error_is_retried(server: BedrockServer) -> None:
    server.script([Fault.status(429, code="ModelNotReadyException")])
    assert model_for(server).generate("hello").content == Converse().text
    assert len(server.requests) == 2


def test_error_of_refused_signature_does_not_quote_the_headers(server: BedrockServer) -> None:
    """After its first line, AWS's message quotes the request's headers, including the session token."""
    text = (
        "The request signature we calculated does not match.\n\nThe Canonical String\nx-amz-security-token:SECRET-TOKEN"
    )
    server.script(then=Fault.status(403, code="InvalidSignatureException", message=text))
    with pytest.raises(AuthenticationError) as raised:
        model_for(server).generate("hello")
    assert "SECRET-TOKEN" not in str(raised.value) and "does not match" in str(raised.value)


def test_key_that_the_service_quotes_is_redacted(server: BedrockServer) -> None:
    server.script(then=Fault.status(403, message=f"API key {KEY} is not valid."))
    with pytest.raises(AuthenticationError, match=r"API key \*\*\* is not valid"):
        model_for(server).generate("hello")


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_interrupted_tool_call_keeps_its_arguments_as_text(server: BedrockServer, way: str) -> None:
    server.script([Fault.cut("close", after_events=6, response=Converse("", calls=(Call(),)))])
    with pytest.raises(StreamInterrupted) as raised:
        ask(model_for(server), way, tools=[TOOL])
    (call,) = raised.value.partial.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", Call().arguments[:24])


def test_stream_interrupted_after_reasoning_is_not_retried(server: BedrockServer) -> None:
    """A retry would deliver the reasoning twice, whether it is plain text or redacted."""
    for response, events in ((Converse(reasoning="I think.", piece=64), 2), (Converse(redacted="hidden"), 4)):
        server.clear()
        server.script([Fault.cut("reset", after_events=events, response=response)])
        with pytest.raises(StreamInterrupted) as raised:
            ask(model_for(server), "sync streamed")
        assert len(server.requests) == 1
        assert raised.value.partial.reasoning == (response.reasoning or None)


def test_empty_response_is_an_empty_message(server: BedrockServer) -> None:
    for way in WAYS:
        server.script([Fault.ok("")])
        message = ask(model_for(server), way)
        assert (message.content, message.finish_reason) == ("", "stop")


@pytest.mark.parametrize("way", WAYS)
def test_idle_connection_closed_by_the_service_costs_no_attempt(server: BedrockServer, way: str) -> None:
    """No byte came back, so the request can safely be sent again; this is done once for each request."""
    model = model_for(server, retry=False)
    server.script([Fault.stale()])
    assert model.generate("hello").content == Converse().text
    assert ask(model, way).content == Converse().text
    assert (len(server.requests), server.stale_hits) == (2, 1)
    server.script([Fault.reset()])
    with pytest.raises(ConnectionFailed):
        ask(model_for(server, retry=False), way)
