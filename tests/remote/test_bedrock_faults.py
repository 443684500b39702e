"""Faults beside the matrix for Bedrock, on a server that speaks Converse in event streams."""

from __future__ import annotations

import time
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
from tests.remote.matrix import FAST, TOOL, WAYS
from tests.remote.matrix_runner import KEY, ask
from tests.servers.bedrock import BedrockServer, Converse, ConverseFault
from tests.servers.faults import Call

Fault = ConverseFault


@pytest.fixture(scope="module")
def running() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=KEY) as server:
        ask(model_for(server), "async streamed")
        yield server


@pytest.fixture
def server(running: BedrockServer) -> Iterator[BedrockServer]:
    running.settle()
    yield running
    running.start_listening()


def model_for(server: BedrockServer, **settings: Any) -> AmazonBedrockServerModel:
    return matrix_runner.model_for(server, "bedrock", **settings)  # type: ignore[no-any-return]


def test_a_connection_is_used_again(server: BedrockServer) -> None:
    """Whole answers and streams that were read to their end keep it, also one after another."""
    model, before = model_for(server), server.connections_opened
    for _ in range(3):
        model.generate("hello")
        list(model.generate_stream("hello"))
    assert server.connections_opened - before == 1
    model.close()


@pytest.mark.parametrize("end", ["reset", "close", "stall"])
def test_what_happens_after_the_last_event_does_not_matter(server: BedrockServer, end: Any) -> None:
    server.script([Fault.cut(end, after_events=len(Converse().events()), stall_s=9.0)])
    begun = time.monotonic()
    message = ask(model_for(server), "sync streamed")
    assert (message.content, message.finish_reason) == (Converse().text, "stop")
    assert message.token_usage is not None and message.token_usage.output_tokens == 8
    assert time.monotonic() - begun < FAST


@pytest.mark.parametrize("end", ["reset", "close", "finish"])
def test_what_breaks_after_the_stop_costs_the_usage_alone(server: BedrockServer, end: Any) -> None:
    server.script([Fault.cut(end, after_events=len(Converse().events()) - 1)])
    message = ask(model_for(server), "sync streamed")
    assert (message.content, message.finish_reason, message.token_usage) == (Converse().text, "stop", None)


def test_a_stream_in_pieces_of_a_byte(server: BedrockServer) -> None:
    server.script([Fault.ok("Grüße, 世界! 🎉", piece=3).replace(split=1)])
    assert ask(model_for(server), "sync streamed").content == "Grüße, 世界! 🎉"


def test_every_event_counts(server: BedrockServer) -> None:
    """A frame in good order that holds no Converse event is no answer."""
    from tests.servers.bedrock import frame

    about = {"event_type": "contentBlockDelta", "content_type": "application/json", "message_type": "event"}
    shapes = [b'{"contentBlockIndex":0}', b'{"contentBlockIndex":0,"delta":{"text":7}}', b"null", b"[]", b"{"]
    for payload in shapes:
        server.script([Fault(replaced_events={3: frame(payload, **about)})])
        with pytest.raises(StreamInterrupted) as caught:
            ask(model_for(server), "sync streamed")
        assert type(caught.value.__cause__) is MalformedResponse, payload


def test_an_unknown_event_is_passed_over(server: BedrockServer) -> None:
    """As AWS asks of clients: the service may send further kinds."""
    from tests.servers.bedrock import frame

    about = {"event_type": "novelty", "content_type": "application/json", "message_type": "event"}
    events = Converse().events()
    server.script([Fault(replaced_events={2: frame(b'{"a": 1}', **about) + events[2]})])
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


@pytest.mark.parametrize(("status", "code", "text", "kind"), CODES, ids=lambda value: str(value)[:40])
def test_a_refusal_by_its_code(
    server: BedrockServer, status: int, code: str, text: str, kind: type[ModelError]
) -> None:
    """None of them is sent again."""
    server.script(then=Fault.status(status, code=code, message=text))
    with pytest.raises(kind) as caught:
        model_for(server).generate("hello")
    assert type(caught.value) is kind
    assert (caught.value.status, text.rstrip(".") in str(caught.value)) == (status, True)
    assert len(server.requests) == 1


def test_a_model_that_is_not_ready_is_asked_again(server: BedrockServer) -> None:
    server.script([Fault.status(429, code="ModelNotReadyException")])
    assert model_for(server).generate("hello").content == Converse().text
    assert len(server.requests) == 2


def test_the_text_of_a_refused_signature_is_not_passed_on(server: BedrockServer) -> None:
    """After its first line it quotes the request's headers, session token included."""
    text = (
        "The request signature we calculated does not match.\n\nThe Canonical String\nx-amz-security-token:SECRET-TOKEN"
    )
    server.script(then=Fault.status(403, code="InvalidSignatureException", message=text))
    with pytest.raises(AuthenticationError) as caught:
        model_for(server).generate("hello")
    assert "SECRET-TOKEN" not in str(caught.value) and "does not match" in str(caught.value)


def test_a_quoted_key_is_blotted_out(server: BedrockServer) -> None:
    server.script(then=Fault.status(403, message=f"API key {KEY} is not valid."))
    with pytest.raises(AuthenticationError, match=r"API key \*\*\* is not valid"):
        model_for(server).generate("hello")


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_a_cut_tool_call_keeps_its_raw_text(server: BedrockServer, way: str) -> None:
    server.script([Fault.cut("close", after_events=6, said=Converse("", calls=(Call(),)))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server), way, tools=[TOOL])
    (call,) = caught.value.partial.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", Call().arguments[:24])


def test_nothing_is_retried_once_a_thought_has_been_delivered(server: BedrockServer) -> None:
    """Neither one in the clear nor a sealed one, which would come twice."""
    for said, events in ((Converse(reasoning="I think.", piece=64), 2), (Converse(sealed="hidden"), 4)):
        server.clear()
        server.script([Fault.cut("reset", after_events=events, said=said)])
        with pytest.raises(StreamInterrupted) as caught:
            ask(model_for(server), "sync streamed")
        assert len(server.requests) == 1
        assert caught.value.partial.reasoning == (said.reasoning or None)


def test_an_empty_answer(server: BedrockServer) -> None:
    """A model may say nothing at all."""
    for way in WAYS:
        server.script([Fault.ok("")])
        message = ask(model_for(server), way)
        assert (message.content, message.finish_reason) == ("", "stop")


@pytest.mark.parametrize("way", WAYS)
def test_a_kept_connection_that_is_dead_costs_no_attempt(server: BedrockServer, way: str) -> None:
    """The service closed it while nobody looked: no byte came back, so sending again is safe, once for each."""
    model = model_for(server, retry=False)
    server.script([Fault.stale()])
    assert model.generate("hello").content == Converse().text
    assert ask(model, way).content == Converse().text
    assert (len(server.requests), server.stale_hits) == (2, 1)
    server.script([Fault.reset()])
    with pytest.raises(ConnectionFailed):
        ask(model_for(server, retry=False), way)
