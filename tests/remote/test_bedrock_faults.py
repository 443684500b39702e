"""The fault matrix for Bedrock, sync and async, streamed and not, on a server that speaks Converse in event streams.

The table's words are those of the other backends' matrix.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from modelport import AmazonBedrockServerModel, ChatMessage
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContextWindowExceeded,
    DeadlineExceeded,
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.layers.retry import RetryPolicy
from tests.remote.test_faults import DEADLINE, FAST, INT, QUICK, TOOL, WAYS, OKn, Row, X
from tests.remote.test_faults import ask as asked
from tests.servers.bedrock import BedrockServer, Converse, ConverseFault
from tests.servers.faults import Call

Fault = ConverseFault
MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
KEY = "bedrock-test-key-0123456789"
FIRST = {"first_token_timeout": 0.4}
IDLE = {"idle_timeout": 0.3}
BROKEN = X(MalformedResponse)
#: Bytes up to the middle of the fourth event.
INSIDE = sum(map(len, Converse().events()[:3])) + 50
FOREVER = X(ConnectionFailed, 3)


@pytest.fixture(scope="module")
def running() -> Iterator[BedrockServer]:
    with BedrockServer(api_key=KEY) as server:
        ask(model_for(server), "async streamed")
        yield server


@pytest.fixture
def server(running: BedrockServer) -> Iterator[BedrockServer]:
    running.clear()
    yield running
    running.start_listening()


def model_for(server: BedrockServer, **settings: Any) -> AmazonBedrockServerModel:
    where = {"region_name": "us-east-1", "api_base": server.url, "api_key": KEY}
    return AmazonBedrockServerModel(MODEL, **where, **{"retry": QUICK, "timeout": DEADLINE, **settings})


def ask(model: AmazonBedrockServerModel, way: str, **options: Any) -> ChatMessage:
    try:
        return asked(model, way, **options)
    finally:
        model.close()  # its connections belong to no loop


def exceptions(*cells: tuple[str, type[ModelError]]) -> list[Row]:
    """Row 11: an exception as a frame, after a delta and before it."""
    return [
        Row(f"11: {kind}", [Fault.exception(kind)], None, INT(error))
        for kind, error in cells
    ]  # fmt: skip


ROWS = [
    Row("1: 429 with Retry-After, once", [Fault.rate_limit(0.2)], OKn(2, 0.2), OKn(2, 0.2)),
    Row("1: 429 without Retry-After, once", [Fault.rate_limit(None)], OKn(2), OKn(2)),
    Row(
        "2: 429 for ever", [], then=Fault.rate_limit(0.05),
        plain=X(RateLimited, 3, {"retry_after": 0.05, "status": 429}),
        streamed=X(RateLimited, 3, {"retry_after": 0.05, "status": 429}),
    ),
    Row(
        "2: a wait longer than the policy allows", [], then=Fault.rate_limit(3600),
        plain=X(RateLimited, 1, {"retry_after": 3600.0}, within=FAST),
        streamed=X(RateLimited, 1, {"retry_after": 3600.0}, within=FAST),
    ),
    Row(
        "2: a wait beyond the deadline", [], then=Fault.rate_limit(10), options={"timeout": 8},
        plain=X(RateLimited, 1, {"retry_after": 10.0}, within=FAST),
        streamed=X(RateLimited, 1, {"retry_after": 10.0}, within=FAST),
    ),
    Row("3: 500 and 503", [Fault.status(500), Fault.status(503)], OKn(3), OKn(3)),
    Row("3: the model's time-out and error", [Fault.status(408), Fault.status(424)], OKn(3), OKn(3)),
    Row("3: 502 of a gateway", [Fault.status(502, body=b"<html>Bad Gateway</html>")], OKn(2), OKn(2)),
    Row("3: 500 for ever", [], X(ServerError, 3, {"status": 500}), X(ServerError, 3), then=Fault.status(500)),
    *(
        Row(f"4: {status}", [Fault.status(status)], X(kind, 1, {"status": status}), X(kind, 1, {"status": status}))
        for status, kind in [
            (400, InvalidRequest), (401, AuthenticationError), (403, AuthenticationError), (404, NotFoundError),
        ]
    ),
    Row("5: reset before headers", [Fault.reset()], OKn(2), OKn(2)),
    Row("5: closed before headers", [Fault.hang_up()], OKn(2), OKn(2)),
    Row("5: reset before headers, for ever", [], FOREVER, FOREVER, then=Fault.reset()),
    Row("6: slow first byte, under the limit", [Fault.slow(0.1)], OKn(1, 0.1), OKn(1, 0.1), options=FIRST),
    Row("6: slow first byte, over the limit", [Fault.slow(9.0)], OKn(2, 0.4), OKn(2, 0.4), options=FIRST),
    Row("6: slow body", [Fault.slow(9.0, headers_first=True)], OKn(2, 0.4), OKn(2, 0.4), options=FIRST),
    Row(
        "6: silence for ever", [], X(DeadlineExceeded, 3), X(DeadlineExceeded, 3), then=Fault.silence(9.0),
        options={"first_token_timeout": 0.3},
    ),
    Row(
        "6: the whole call's time", [], X(DeadlineExceeded, 1, within=FAST), X(DeadlineExceeded, 1, within=FAST),
        then=Fault.silence(9.0), options={"timeout": 0.3},
    ),
    Row("7: stall in the body", [Fault.cut("stall")], OKn(2), None, options=FIRST),
    Row("7: stall in the stream", [Fault.cut("stall")], None, INT(DeadlineExceeded), options=IDLE),
    Row("7: stall before a delta", [Fault.cut("stall", after_events=1)], None, OKn(2), options=FIRST),
    Row("8: reset in the body", [Fault.cut("reset")], OKn(2), INT(ConnectionFailed)),
    Row("8: reset before a delta", [Fault.cut("reset", after_events=1)], None, OKn(2)),
    Row("8: reset inside an event", [Fault.cut("reset", after_bytes=INSIDE)], None, INT(ConnectionFailed)),
    Row("9: cut, framing incomplete", [Fault.cut("close")], BROKEN, INT(MalformedResponse)),
    Row("9: cut, framed by closing", [Fault.cut("close", framing="close")], BROKEN, INT(MalformedResponse)),
    Row("9: cut, framing complete", [Fault.cut("finish")], BROKEN, INT(MalformedResponse)),
    Row("9: cut inside an event", [Fault.cut("finish", after_bytes=INSIDE)], None, INT(MalformedResponse)),
    Row("9: cut before a delta", [Fault.cut("close", after_events=1)], None, BROKEN),
    Row("10: bad checksum", [Fault.malformed()], BROKEN, INT(MalformedResponse, "The capi")),
    Row("10: bad checksum of a prelude", [Fault.malformed(corrupt=9)], None, INT(MalformedResponse, "The capi")),
    Row("10: bad checksum before a delta", [Fault.malformed(after_events=1)], None, BROKEN),
    Row("10: bad UTF-8", [Fault.bad_utf8()], BROKEN, INT(MalformedResponse, "The capi")),
    *exceptions(
        ("internalServerException", ServerError), ("modelStreamErrorException", ServerError),
        ("serviceUnavailableException", ServerError), ("throttlingException", RateLimited),
        ("validationException", InvalidRequest),
    ),
    Row("11: exception before a delta", [Fault.exception(after_events=1)], None, OKn(2)),
    Row("11: throttled before a delta", [Fault.exception("throttlingException", after_events=0)], None, OKn(2)),
    Row("12: 200 with truncated JSON", [Fault.truncated_json()], BROKEN, None),
    Row("12: 200 without a body", [Fault(content=b"")], BROKEN, None),
    Row("12: 200 that is empty", [Fault(content=b"{}")], BROKEN, None),
    Row("12: 200 that is no object", [Fault(content=b"[1, 2]")], BROKEN, None),
    Row("12: 200 that is another object", [Fault(content=b'{"output": {"message": 7}}')], BROKEN, None),
    Row(
        "13: truncated tool arguments", [Fault.truncated_arguments()],
        X(InvalidToolCall, 1, {"text": '{"city": "Par'}), X(InvalidToolCall, 1, {"text": '{"city": "Par'}),
        options={"tools": [TOOL]},
    ),
    Row(
        "13: and the service says so", [Fault.truncated_arguments(stop_reason="malformed_tool_use")],
        X(InvalidToolCall, 1, {"text": '{"city": "Par'}), X(InvalidToolCall, 1, {"text": '{"city": "Par'}),
        options={"tools": [TOOL]},
    ),
]  # fmt: skip
CELLS = [
    pytest.param(row, way, id=f"{row.name} - {way}")
    for row in ROWS
    for way in WAYS
    if (row.streamed if "streamed" in way else row.plain) is not None
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("row", "way"), CELLS)
def test_fault_matrix(server: BedrockServer, row: Row, way: str) -> None:
    model = model_for(server, **row.settings)
    expected = row.streamed if "streamed" in way else row.plain
    server.script(row.faults, then=row.then if isinstance(row.then, ConverseFault) else None)
    begun = time.monotonic()
    if isinstance(expected, OKn):
        message = ask(model, way, **row.options)
        assert (message.content, message.finish_reason) == (expected.text, "stop")
        assert time.monotonic() - begun >= expected.at_least
        assert len(server.requests) == expected.attempts
    elif isinstance(expected, X):
        with pytest.raises(ModelError) as caught:
            ask(model, way, **row.options)
        assert type(caught.value) is expected.error, repr(caught.value)
        assert {name: getattr(caught.value, name) for name in expected.attributes} == expected.attributes
        assert caught.value.model_id == MODEL
        assert time.monotonic() - begun < expected.within
        assert len(server.requests) == expected.attempts
    else:
        assert isinstance(expected, INT)
        with pytest.raises(StreamInterrupted) as interrupted:
            ask(model, way, **row.options)
        assert interrupted.value.partial.content == expected.partial
        assert type(interrupted.value.__cause__) is expected.cause, repr(interrupted.value.__cause__)
        assert len(server.requests) == 1
    server.wait_for(lambda: server.open_connections == 0)
    assert server.unused == 0
    assert server.requests[-1].stream == ("streamed" in way)


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_connection_is_tried_again(server: BedrockServer, way: str) -> None:
    def listen_again(error: ModelError) -> bool:
        assert type(error) is ConnectionFailed
        server.start_listening()
        return True

    server.stop_listening()
    model = model_for(server, retry=RetryPolicy(attempts=2, base=0.01, retryable=listen_again))
    assert ask(model, way).content == Converse().text
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", WAYS)
def test_connections_refused_for_ever(server: BedrockServer, way: str) -> None:
    seen: list[ModelError] = []

    def note(error: ModelError) -> bool:
        seen.append(error)
        return error.retryable

    server.stop_listening()
    with pytest.raises(ConnectionFailed) as caught:
        ask(model_for(server, retry=RetryPolicy(attempts=3, base=0.01, retryable=note)), way)
    assert len(seen) == 3
    assert caught.value is seen[-1]


def threads_of_calls() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name in ("modelport-call", "modelport-stream")]


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_the_caller_leaves_early(server: BedrockServer, way: str) -> None:
    """Row 14 for streams: of 50 abandoned answers neither a connection nor a thread is left."""
    server.script(then=Fault.cut("stall", stall_s=9.0))
    model = model_for(server)

    def leave_sync() -> None:
        for i in range(50):
            stream = model.generate_stream("hello")
            assert any(delta.content for delta in stream)
            if i % 3 == 0:
                stream.close()
            elif i % 3 == 1:
                with stream:
                    pass
            del stream

    async def leave_async() -> None:
        for i in range(50):
            stream = model.agenerate_stream("hello")
            async for delta in stream:
                if delta.content:
                    break
            if i % 3 == 0:
                await stream.close()
            elif i % 3 == 1:
                async with stream:
                    pass
            del stream

    leave_sync() if way == "sync streamed" else asyncio.run(leave_async())
    server.wait_for(lambda: all(request.client_left for request in server.requests))
    assert len(server.requests) == 50
    server.wait_for(lambda: not threads_of_calls() and server.open_connections == 0)
    server.script()
    assert ask(model, way).content == Converse().text


def test_the_caller_leaves_early_while_waiting_for_an_answer(server: BedrockServer) -> None:
    """Row 14 for answers that are not streamed: a cancelled call wakes its thread and closes its connection."""
    server.script(then=Fault.slow(9.0))
    model = model_for(server)

    async def leave() -> None:
        for i in range(50):
            calls = asyncio.create_task(model.agenerate("hello"))
            while len(server.requests) <= i:  # noqa: ASYNC110  # the server is in a thread of its own
                await asyncio.sleep(0.002)
            calls.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calls

    asyncio.run(leave())
    server.wait_for(lambda: all(request.client_left for request in server.requests))
    server.wait_for(lambda: not threads_of_calls() and server.open_connections == 0)
    server.script()
    assert ask(model, "sync").content == Converse().text


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
    server.script([Fault.ok("Grüße, 世界! 🎉", piece=3).but(split=1)])
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
    assert asked(model, way).content == Converse().text
    assert (len(server.requests), server.stale_hits) == (2, 1)
    server.script([Fault.reset()])
    with pytest.raises(ConnectionFailed):
        ask(model_for(server, retry=False), way)
