"""The fault matrix, for every backend that speaks chat completions and each of its transports, sync and async, streamed
and not."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelport import AzureOpenAIServerModel, ChatMessage, InferenceClientModel, Model, OpenAIServerModel
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContentFiltered,
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
from tests.servers.faults import OK, Call, Fault, FaultServer, Reply, sse

ANSWER = Reply().text
#: What a stream has delivered after its third event, the role being the first.
BEGINNING = ANSWER[:16]
QUICK = RetryPolicy(attempts=3, base=0.01)
KEY = "test-key-0123456789"
SDK = {"client_kwargs": {"timeout": 30.0}}
#: A model by what it goes through, for a server and further settings.
MODELS: dict[str, Callable[..., Model]] = {
    "http": lambda server, **settings: OpenAIServerModel("m", server.base_url, KEY, **settings),
    "sdk": lambda server, **settings: OpenAIServerModel("m", server.base_url, KEY, **SDK, **settings),
    "azure": lambda server, **settings: AzureOpenAIServerModel("m", server.url, KEY, "2024-10-21", **settings),
    "azure-sdk": lambda server, **settings: AzureOpenAIServerModel(
        "m", server.url, KEY, "2024-10-21", **SDK, **settings
    ),
    "huggingface": lambda server, **settings: InferenceClientModel(
        "m", token=KEY, base_url=server.base_url, **settings
    ),
}
WAYS = ("sync", "sync streamed", "async", "async streamed")
#: Nothing here waits longer than this, whatever goes wrong; a call that should fail fast takes less than half of it.
DEADLINE = 20.0
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        # What the first call of a process imports takes half a second, which belongs to no time limit below.
        for transport in ("sdk", "huggingface"):
            ask(model_for(server, transport), "async streamed")
        yield server


@pytest.fixture
def server(running: FaultServer) -> Iterator[FaultServer]:
    running.clear()
    yield running
    running.start_listening()


@pytest.fixture(params=MODELS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_for(server: FaultServer, transport: str = "http", **settings: Any) -> Model:
    return MODELS[transport](server, **{"retry": QUICK, "timeout": DEADLINE, **settings})


def ask(model: Model, way: str, **options: Any) -> ChatMessage:
    """The answer, asked for in one of the four ways; connections are closed afterwards."""
    if way == "sync":
        try:
            return model.generate("hello", **options)
        finally:
            model.close()
    if way == "sync streamed":
        try:
            with model.generate_stream("hello", **options) as stream:
                for _ in stream:
                    pass
                return stream.message
        finally:
            model.close()

    async def in_a_loop() -> ChatMessage:
        if way == "async":
            return await model.agenerate("hello", **options)
        async with model.agenerate_stream("hello", **options) as stream:
            async for _ in stream:
                pass
            return stream.message

    return asyncio.run(in_a_loop())


# --- the matrix -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OKn:
    """Succeeds on attempt n."""

    attempts: int
    at_least: float = 0.0
    text: str = ANSWER


@dataclass(frozen=True)
class X:
    """A typed error after so many attempts."""

    error: type[ModelError]
    attempts: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    within: float = DEADLINE


@dataclass(frozen=True)
class INT:
    """`StreamInterrupted` after one attempt, with what had arrived and why."""

    cause: type[ModelError]
    partial: str = BEGINNING


@dataclass(frozen=True)
class Row:
    name: str
    faults: Sequence[Fault]
    plain: OKn | X | None
    streamed: OKn | X | INT | None
    then: Fault = OK
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


FIRST = {"first_token_timeout": 0.4}
IDLE = {"idle_timeout": 0.3}
FOREVER = X(ConnectionFailed, 3)
FAST = 5.0
BROKEN = X(MalformedResponse)
ROWS = [
    Row("1: 429 with Retry-After, once", [Fault.rate_limit(0.2)], OKn(2, 0.2), OKn(2, 0.2)),
    Row("1: 429 without Retry-After, once", [Fault.rate_limit(None)], OKn(2), OKn(2)),
    Row(
        "2: 429 for ever",
        [],
        then=Fault.rate_limit(0.05),
        plain=X(RateLimited, 3, {"retry_after": 0.05, "status": 429}),
        streamed=X(RateLimited, 3, {"retry_after": 0.05, "status": 429}),
    ),
    Row(
        "2: a wait longer than the policy allows",
        [],
        then=Fault.rate_limit(3600),
        plain=X(RateLimited, 1, {"retry_after": 3600.0}, within=FAST),
        streamed=X(RateLimited, 1, {"retry_after": 3600.0}, within=FAST),
    ),
    Row(
        "2: a wait beyond the deadline",
        [],
        then=Fault.rate_limit(10),
        options={"timeout": 8},
        plain=X(RateLimited, 1, {"retry_after": 10.0}, within=FAST),
        streamed=X(RateLimited, 1, {"retry_after": 10.0}, within=FAST),
    ),
    Row("3: 500 and 503", [Fault.status(500), Fault.status(503)], OKn(3), OKn(3)),
    Row("3: 502 for ever", [], X(ServerError, 3, {"status": 502}), X(ServerError, 3), then=Fault.status(502)),
    *(
        Row(f"4: {status}", [Fault.status(status)], X(kind, 1, {"status": status}), X(kind, 1, {"status": status}))
        for status, kind in [
            (400, InvalidRequest),
            (401, AuthenticationError),
            (403, AuthenticationError),
            (404, NotFoundError),
            (422, InvalidRequest),
        ]
    ),
    Row("5: reset before headers", [Fault.reset()], OKn(2), OKn(2)),
    Row("5: closed before headers", [Fault.hang_up()], OKn(2), OKn(2)),
    Row("5: reset before headers, for ever", [], FOREVER, FOREVER, then=Fault.reset()),
    Row("6: slow first byte, under the limit", [Fault.slow(0.1)], OKn(1, 0.1), OKn(1, 0.1), options=FIRST),
    Row("6: slow first byte, over the limit", [Fault.slow(9.0)], OKn(2, 0.4), OKn(2, 0.4), options=FIRST),
    Row("6: slow body", [Fault.slow(9.0, headers_first=True)], OKn(2, 0.4), OKn(2, 0.4), options=FIRST),
    Row(
        "6: silence for ever",
        [],
        X(DeadlineExceeded, 3),
        X(DeadlineExceeded, 3),
        then=Fault.silence(9.0),
        options={"first_token_timeout": 0.3},
    ),
    Row(
        "6: the whole call's time",
        [],
        X(DeadlineExceeded, 1, within=FAST),
        X(DeadlineExceeded, 1, within=FAST),
        then=Fault.silence(9.0),
        options={"timeout": 0.3},
    ),
    Row("7: stall in the body", [Fault.cut("stall")], OKn(2), None, options=FIRST),
    Row("7: stall in the stream", [Fault.cut("stall")], None, INT(DeadlineExceeded), options=IDLE),
    Row("7: stall before a delta", [Fault.cut("stall", after_events=1)], None, OKn(2), options=FIRST),
    Row("8: reset in the body", [Fault.cut("reset")], OKn(2), INT(ConnectionFailed)),
    Row("8: reset before a delta", [Fault.cut("reset", after_events=1)], None, OKn(2)),
    Row("8: reset inside an event", [Fault.cut("reset", after_bytes=700)], None, INT(ConnectionFailed)),
    Row("9: cut, framing incomplete", [Fault.cut("close")], BROKEN, INT(MalformedResponse)),
    Row("9: cut, framed by closing", [Fault.cut("close", framing="close")], BROKEN, INT(MalformedResponse)),
    Row("9: cut, framing complete", [Fault.cut("finish")], BROKEN, INT(MalformedResponse)),
    Row("9: cut before a delta", [Fault.cut("close", after_events=1)], None, BROKEN),
    Row("9: no finish reason", [Fault.ok(finish_reason=None)], OKn(1), INT(MalformedResponse, ANSWER)),
    Row(
        "9: no finish reason, accepted",
        [Fault.ok(finish_reason=None)],
        OKn(1),
        OKn(1),
        settings={"accept_missing_finish": True},
    ),
    Row("10: malformed", [Fault.malformed()], BROKEN, INT(MalformedResponse, ANSWER[:8])),
    Row("10: malformed before a delta", [Fault.malformed(after_events=1)], None, BROKEN),
    Row("10: bad UTF-8", [Fault.bad_utf8()], BROKEN, INT(MalformedResponse, ANSWER[:8])),
    Row("11: error frame", [Fault.error_frame()], None, INT(ServerError)),
    Row("11: error frame without a code", [Fault.error_frame(code=None)], None, INT(ServerError)),
    Row(
        "11: error frame, its own event",
        [Fault(replaced_events={3: b'event: error\ndata: {"message": "overloaded", "code": 503}\n\n'}, last_event=3)],
        None,
        INT(ServerError),
    ),
    Row("11: error frame of a limit", [Fault.error_frame(code="rate_limit_exceeded")], None, INT(RateLimited)),
    Row("11: error frame before a delta", [Fault.error_frame(after_events=1)], None, OKn(2)),
    Row("11: 200 with an error", [Fault.error_frame()], OKn(2), None),
    Row("12: 200 with truncated JSON", [Fault.truncated_json()], BROKEN, None),
    Row("12: 200 without a body", [Fault(content=b"")], BROKEN, None),
    Row("12: 200 without choices", [Fault(content=b'{"object": "chat.completion", "choices": []}')], BROKEN, None),
    Row("12: 200 that is no object", [Fault(content=b"[1, 2]")], BROKEN, None),
    Row(
        "13: truncated tool arguments",
        [Fault.truncated_arguments()],
        X(InvalidToolCall, 1, {"text": '{"city": "Par'}),
        X(InvalidToolCall, 1, {"text": '{"city": "Par'}),
        options={"tools": [TOOL]},
    ),
]
CELLS = [
    pytest.param(row, way, id=f"{row.name} - {way}")
    for row in ROWS
    for way in WAYS
    if (row.streamed if "streamed" in way else row.plain) is not None
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("transport", [name for name in MODELS if name != "azure-sdk"])  # its transport is sdk's
@pytest.mark.parametrize(("row", "way"), CELLS)
def test_fault_matrix(server: FaultServer, transport: str, row: Row, way: str) -> None:
    model = model_for(server, transport, **row.settings)
    expected = row.streamed if "streamed" in way else row.plain
    server.script(row.faults, then=row.then)
    begun = time.monotonic()
    if isinstance(expected, OKn):
        message = ask(model, way, **row.options)
        assert message.content == expected.text
        assert message.finish_reason == "stop"
        assert time.monotonic() - begun >= expected.at_least
        assert len(server.requests) == expected.attempts
    elif isinstance(expected, X):
        with pytest.raises(ModelError) as caught:
            ask(model, way, **row.options)
        assert type(caught.value) is expected.error, repr(caught.value)
        assert {name: getattr(caught.value, name) for name in expected.attributes} == expected.attributes
        assert caught.value.model_id == "m"
        assert time.monotonic() - begun < expected.within
        assert len(server.requests) == expected.attempts
    else:
        with pytest.raises(StreamInterrupted) as interrupted:
            ask(model, way, **row.options)
        assert interrupted.value.partial.content == expected.partial
        assert type(interrupted.value.__cause__) is expected.cause, repr(interrupted.value.__cause__)
        assert len(server.requests) == 1
    server.wait_for(lambda: server.open_connections == 0)
    assert server.unused == 0
    assert server.requests[-1].stream == ("streamed" in way)


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_connection_is_tried_again(server: FaultServer, transport: str, way: str) -> None:
    def listen_again(error: ModelError) -> bool:
        assert type(error) is ConnectionFailed
        server.start_listening()
        return True

    server.stop_listening()
    model = model_for(server, transport, retry=RetryPolicy(attempts=2, base=0.01, retryable=listen_again))
    assert ask(model, way).content == ANSWER
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", WAYS)
def test_connections_refused_for_ever(server: FaultServer, transport: str, way: str) -> None:
    seen: list[ModelError] = []

    def note(error: ModelError) -> bool:
        seen.append(error)
        return error.retryable

    server.stop_listening()
    model = model_for(server, transport, retry=RetryPolicy(attempts=3, base=0.01, retryable=note))
    with pytest.raises(ConnectionFailed) as caught:
        ask(model, way)
    assert len(seen) == 3
    assert caught.value is seen[-1]


def test_retry_after_in_whole_seconds_and_as_a_date(server: FaultServer) -> None:
    model = model_for(server)
    for of_a_date, at_least in ((False, 1.0), (True, 0.9)):
        given = email.utils.formatdate(time.time() + 2, usegmt=True) if of_a_date else 1  # in whole seconds
        server.clear()
        server.script([Fault.rate_limit(given)])
        model.generate("hello")
        first, second = server.requests
        assert second.at - first.at >= at_least


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_the_caller_leaves_early(server: FaultServer, transport: str, way: str) -> None:
    """Row 14 for streams: nothing of 50 abandoned answers is left."""
    server.script(then=Fault.cut("stall", stall_s=9.0))
    model = model_for(server, transport)

    def all_left() -> bool:
        # By request: in a long run of tests a connection was seen on which nobody ever asked anything.
        return all(request.client_left for request in server.requests)

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
        await asyncio.to_thread(server.wait_for, all_left)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    if way == "sync streamed":
        leave_sync()
        server.wait_for(all_left)
    else:
        asyncio.run(leave_async())
    assert len(server.requests) == 50
    assert all(request.client_left for request in server.requests)
    server.script()
    assert ask(model, way).content == ANSWER


def test_the_caller_leaves_early_while_waiting_for_an_answer(server: FaultServer, transport: str) -> None:
    """Row 14 for answers that are not streamed: a cancelled call closes its connection."""
    server.script(then=Fault.slow(9.0))
    model = model_for(server, transport)

    async def leave() -> None:
        for i in range(50):
            task = asyncio.create_task(model.agenerate("hello"))
            while len(server.requests) <= i:  # noqa: ASYNC110  # the server is in a thread of its own
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        server.script()
        assert (await model.agenerate("hello")).content == ANSWER

    asyncio.run(leave())
    assert len(server.requests) == 51


# --- the service's own words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (Fault.status(400, code="context_length_exceeded", message="too long"), ContextWindowExceeded, 400),
        (Fault.status(400, message="This model's maximum context length is 9 tokens."), ContextWindowExceeded, 400),
        (Fault.status(400, code="content_filter", message="no"), ContentFiltered, 400),
        (Fault.status(429, code="insufficient_quota", message="pay"), RateLimited, 429),
        (Fault.status(400, body=b"<html>Bad Request</html>"), InvalidRequest, 400),
        (Fault.status(404, body=b""), NotFoundError, 404),
        (Fault.status(400, body=b'{"error": "no such thing"}'), InvalidRequest, 400),
        (Fault.status(400, body=b'{"detail": "no such thing"}'), InvalidRequest, 400),
        (Fault.status(308, headers={"Location": "https://elsewhere.example/v1"}), InvalidRequest, 308),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_refusal_by_its_code(server: FaultServer, fault: Fault, kind: type[ModelError], status: int) -> None:
    """None of them is sent again: neither a spent account nor a prompt too long gets better by waiting."""
    server.script(then=fault)
    with pytest.raises(kind) as caught:
        model_for(server).generate("hello")
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_a_refusal_says_why_through_both_transports(server: FaultServer, transport: str) -> None:
    server.script(then=Fault.status(400, message="messages: too few", code="bad", param="messages"))
    with pytest.raises(InvalidRequest, match="messages: too few"):
        model_for(server, transport).generate("hello")


# --- traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asked", "chunk", "last", "cumulative", "none"])
def test_usage_however_it_comes(server: FaultServer, transport: str, kind: Any) -> None:
    """In a chunk without choices, in the last one, or growing in every chunk: it comes once, last."""
    server.script([Fault.ok(usage=kind, null_choice_first=True)])
    deltas = list(model_for(server, transport).generate_stream("hello"))
    assert [delta.token_usage is not None for delta in deltas[:-1]] == [False] * (len(deltas) - 1)
    usage = deltas[-1].token_usage
    if kind == "none":
        assert usage is None
    else:
        assert usage is not None
        assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (12, 8, None)
    assert "".join(delta.content or "" for delta in deltas) == ANSWER


@pytest.mark.parametrize("way", ["sync", "sync streamed"])
@pytest.mark.parametrize("whole_calls", [True, False], ids=["whole", "in fragments"])
@pytest.mark.parametrize("tool_index", ["count", "zero", "null", "absent"])
def test_tool_calls_however_they_are_numbered(
    server: FaultServer, transport: str, tool_index: Any, whole_calls: bool, way: str
) -> None:
    server.script([Fault.tools(tool_index=tool_index, whole_calls=whole_calls)])
    message = ask(model_for(server, transport), way, tools=[TOOL])
    assert message.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [
        ("call_1", "get_weather", {"city": "Paris", "unit": "celsius"}),
        ("call_2", "get_weather", {"city": "Oslo", "unit": "celsius"}),
    ]


def test_calls_with_finish_reason_stop(server: FaultServer) -> None:
    server.script([Fault.tools(finish_reason="stop")] * 2)
    model = model_for(server)
    assert model.generate("hello", tools=[TOOL]).finish_reason == "tool_calls"
    assert list(model.generate_stream("hello", tools=[TOOL]))[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_a_server_that_does_not_stream(server: FaultServer, way: str) -> None:
    """The answer of a gateway that passes over `stream` is not lost."""
    server.script([Fault(never_streams=True), Fault.tools().but(never_streams=True)])
    model = model_for(server)
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert len(ask(model, way, tools=[TOOL]).tool_calls or ()) == 2


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_stream_in_pieces_of_a_byte(server: FaultServer, newline: bytes) -> None:
    server.script([Fault.ok("Grüße, 世界! 🎉", piece=3).but(split=1, newline=newline)])
    assert ask(model_for(server), "sync streamed").content == "Grüße, 世界! 🎉"


@pytest.mark.parametrize("end", ["reset", "close", "stall"])
def test_what_happens_after_the_terminator_does_not_matter(server: FaultServer, transport: str, end: Any) -> None:
    """Some servers break the connection, or keep it open, after [DONE]: the answer has come."""
    events = len(Reply().events("m", include_usage=True))
    server.script([Fault.cut(end, after_events=events, stall_s=9.0)])
    begun = time.monotonic()
    message = ask(model_for(server, transport), "sync streamed")
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert time.monotonic() - begun < FAST


def test_a_stream_without_its_terminator(server: FaultServer, transport: str) -> None:
    """The finish reason has come, and so has the answer."""
    server.script([Fault.ok(done=False)])
    assert ask(model_for(server, transport), "sync streamed").content == ANSWER


# --- refusals that teach ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picky:
    """A server that refuses bodies with one field, in its own words."""

    field: str
    message: str
    code: str | None = None
    param: str | None = None
    status: int = 400
    body: bytes | None = None

    def __call__(self, request: Any) -> Fault:
        if self.field not in request.json:
            return OK
        return Fault.status(self.status, message=self.message, code=self.code, param=self.param, body=self.body)


EXTRA_FORBIDDEN = {
    "type": "extra_forbidden",
    "loc": ["body", "stream_options"],
    "msg": "Extra inputs are not permitted",
}
STREAM_OPTIONS = [
    Picky("stream_options", "Unrecognized request argument supplied: stream_options"),
    Picky("stream_options", "Unknown parameter: 'stream_options'.", "unknown_parameter", "stream_options"),
    Picky("stream_options", "property 'stream_options' is unsupported"),
    Picky("stream_options", "Extra inputs are not permitted, field: 'stream_options', value: {}"),
    Picky("stream_options", "", status=422, body=json.dumps({"detail": [EXTRA_FORBIDDEN]}).encode()),
    Picky(
        "stream_options",
        "",
        status=422,
        body=json.dumps({"object": "error", "message": {"detail": [EXTRA_FORBIDDEN]}, "param": None}).encode(),
    ),
]


@pytest.mark.parametrize(
    "picky", STREAM_OPTIONS, ids=["openai", "openai, new", "groq", "fireworks", "pydantic", "mistral"]
)
def test_stream_options_refused(server: FaultServer, transport: str, picky: Picky) -> None:
    """Learnt from the refusal, with one further request and a warning, for the model's lifetime."""
    server.script(then=picky)
    model = model_for(server, transport)
    with pytest.warns(UserWarning, match="stream_options"):
        message = ask(model, "sync streamed")
    assert (message.content, message.token_usage) == (ANSWER, None)
    assert ["stream_options" in request.json for request in server.requests] == [True, False]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(model, "async streamed").content == ANSWER
    assert len(server.requests) == 3


STOP = [
    Picky("stop", "Unsupported parameter: 'stop' is not supported with this model.", "unsupported_parameter", "stop"),
    Picky("stop", "Argument not supported on this model: stop"),
    Picky("stop", "Model grok-4 does not support parameter stop."),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picky", STOP, ids=["openai", "xai, old", "xai"])
def test_stop_refused(server: FaultServer, picky: Picky, way: str) -> None:
    """The port cuts instead: the caller sees no difference but the usage."""
    server.script(then=picky)
    model = model_for(server)
    with pytest.warns(UserWarning, match="stop"):
        message = ask(model, way, stop_sequences=[" France"])
    assert (message.content, message.finish_reason) == ("The capital of", "stop")
    assert message.stop_sequence == " France"
    assert ["stop" in request.json for request in server.requests] == [True, False]
    assert not model.capabilities.stop
    assert ask(model, way, stop_sequences=[" is"]).content == "The capital of France"
    assert len(server.requests) == 3


@pytest.mark.parametrize("way", WAYS)
def test_max_tokens_becomes_max_completion_tokens(server: FaultServer, transport: str, way: str) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    server.script(then=Picky("max_tokens", text, "unsupported_parameter", "max_tokens"))
    model = model_for(server, transport)
    with pytest.warns(UserWarning, match="max_tokens"):
        ask(model, way, max_tokens=7)
    ask(model, way, max_tokens=9)
    first, second, third = (request.json for request in server.requests)
    assert first["max_tokens"] == 7
    assert (second["max_completion_tokens"], "max_tokens" in second) == (7, False)
    assert (third["max_completion_tokens"], "max_tokens" in third) == (9, False)


@pytest.mark.parametrize("way", WAYS)
def test_temperature_refused(server: FaultServer, way: str) -> None:
    text = "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) is supported."
    server.script(then=Picky("temperature", text, "unsupported_value", "temperature"))
    model = model_for(server)
    with pytest.warns(UserWarning, match="temperature"):
        message = ask(model, way, temperature=0.2)
    assert any("temperature" in warning for warning in message.warnings)
    assert ["temperature" in request.json for request in server.requests] == [True, False]


def test_a_refusal_that_is_about_something_else_teaches_nothing(server: FaultServer) -> None:
    """A bad value is the caller's to mend: what was asked for is not dropped."""
    text = "max_tokens is too large: 99999. This model supports at most 4096 completion tokens."
    server.script(then=Fault.status(400, message=text, param="max_tokens", code="invalid_value"))
    model = model_for(server)
    with pytest.raises(InvalidRequest, match="too large"):
        model.generate("hello", max_tokens=99999)
    server.script(then=Fault.status(400, message="'messages[0].content' is not supported", param="messages"))
    with pytest.raises(InvalidRequest):
        model.generate("hello", temperature=0.1)
    assert len(server.requests) == 2


def test_a_model_learns_everything_that_a_call_needs(server: FaultServer) -> None:
    """A reasoning model refuses its parameters one by one; each is learnt once, in one call."""

    def refuse(request: Any) -> Fault:
        for name in ("max_tokens", "stop", "temperature"):
            if name in request.json:
                text = f"Unsupported parameter: '{name}' is not supported with this model."
                return Fault.status(400, message=text, code="unsupported_parameter", param=name)
        return OK

    server.script(then=refuse)
    with pytest.warns(UserWarning):
        message = model_for(server).generate("hello", max_tokens=5, stop_sequences=["zzz"], temperature=0)
    assert message.content == ANSWER
    assert len(server.requests) == 4


def test_a_refusal_is_learnt_once_by_many_at_once(server: FaultServer) -> None:
    """Calls that were already under way when another one learnt it succeed as well."""
    server.script(then=lambda request: STOP[0](request).but(delay_s=0.05))
    model = model_for(server)

    async def many() -> Sequence[ChatMessage]:
        return await asyncio.gather(*(model.agenerate("hello", stop_sequences=[" is"]) for _ in range(8)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert {message.content for message in asyncio.run(many())} == {"The capital of France"}


# --- what a broken answer keeps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_a_cut_tool_call_keeps_its_raw_text(server: FaultServer, transport: str, way: str) -> None:
    server.script([Fault.cut("close", after_events=5, reply=Reply("", calls=(Call(),)))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server, transport), way, tools=[TOOL])
    (call,) = caught.value.partial.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", Call().arguments[:24])


def test_nothing_is_retried_once_reasoning_has_been_delivered(server: FaultServer) -> None:
    server.script([Fault.cut("reset", after_events=2, reply=Reply(reasoning="First I think.", piece=64))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server), "sync streamed")
    assert caught.value.partial.reasoning == "First I think."
    assert len(server.requests) == 1


def test_a_stream_has_the_error_at_its_end_and_the_message_so_far(server: FaultServer) -> None:
    server.script([Fault.cut("reset")])
    stream = model_for(server).generate_stream("hello")
    seen: list[str] = []
    with pytest.raises(StreamInterrupted):
        for delta in stream:
            seen.append(delta.content or "")
    assert "".join(seen) == stream.message.content == BEGINNING
    assert list(stream) == []  # it has ended


def test_an_error_event_whatever_it_holds(server: FaultServer) -> None:
    for data in ({"detail": "overloaded"}, {"error": {"detail": "overloaded"}}, {"error": "overloaded"}):
        server.script([Fault(replaced_events={3: b"event: error\n" + sse(data)}, last_event=3)])
        with pytest.raises(StreamInterrupted, match="overloaded") as caught:
            ask(model_for(server), "sync streamed")
        assert type(caught.value.__cause__) is ServerError


def test_every_error_chunk_counts(server: FaultServer) -> None:
    """A chunk that is JSON and no chat completion is no answer."""
    shapes: list[Callable[[], bytes]] = [
        lambda: sse({"choices": "none"}),
        lambda: sse({"choices": [{"delta": {"content": 7}}]}),
        lambda: sse({"choices": [{"delta": {"tool_calls": [3]}}]}),
        lambda: sse("null"),
        lambda: sse("17"),
    ]
    for shape in shapes:
        server.script([Fault(replaced_events={3: shape()})])
        with pytest.raises(StreamInterrupted) as caught:
            ask(model_for(server), "sync streamed")
        assert type(caught.value.__cause__) is MalformedResponse
