"""Faults beside the matrix, for every backend that speaks chat completions and each of its transports."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from modelport import ChatMessage, Model
from modelport.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    DeadlineExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)
from tests.remote import matrix_runner
from tests.remote.matrix import ANSWER, BEGINNING, FAST, TOOL, WAYS
from tests.remote.matrix_runner import ask
from tests.servers.faults import OK, Call, Fault, FaultServer, Reply, sse

COLUMNS = ("openai", "openai-sdk", "azure", "azure-sdk", "huggingface")


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        # What the first call of a process imports takes half a second, which belongs to no time limit below.
        for transport in ("openai-sdk", "huggingface"):
            ask(model_for(server, transport), "async streamed")
        yield server


@pytest.fixture
def server(running: FaultServer) -> Iterator[FaultServer]:
    running.settle()
    yield running
    running.start_listening()


@pytest.fixture(params=COLUMNS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_for(server: FaultServer, column: str = "openai", **settings: Any) -> Model:
    return matrix_runner.model_for(server, column, **settings)  # type: ignore[no-any-return]


# --- beside the matrix ------------------------------------------------------------------------------------------------


def test_retry_after_in_whole_seconds_and_as_a_date(server: FaultServer) -> None:
    model = model_for(server)
    for of_a_date, at_least in ((False, 1.0), (True, 0.9)):
        given = email.utils.formatdate(time.time() + 2, usegmt=True) if of_a_date else 1  # in whole seconds
        server.clear()
        server.script([Fault.rate_limit(given)])
        model.generate("hello")
        first, second = server.requests
        assert second.at - first.at >= at_least


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


def test_no_redirect_is_followed(server: FaultServer, transport: str) -> None:
    """The prompt would go along, and headers of the user's that hold keys."""
    with FaultServer() as elsewhere:
        server.script(then=Fault.status(307, headers={"Location": f"{elsewhere.base_url}/chat/completions"}))
        with pytest.raises(ModelError) as caught:
            model_for(server, transport).generate("hello")
        assert elsewhere.requests == []
    assert caught.value.status == 307


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
    server.script([Fault(never_streams=True), Fault.tools().replace(never_streams=True)])
    model = model_for(server)
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert len(ask(model, way, tools=[TOOL]).tool_calls or ()) == 2


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_stream_in_pieces_of_a_byte(server: FaultServer, newline: bytes) -> None:
    server.script([Fault.ok("Grüße, 世界! 🎉", piece=3).replace(split=1, newline=newline)])
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


@pytest.mark.parametrize("where", [{"a": {}}, {}, "body", 3, None, []])
def test_a_refusal_that_names_no_place(server: FaultServer, where: Any) -> None:
    problem = json.dumps({"detail": [EXTRA_FORBIDDEN | {"loc": where}]}).encode()
    server.script(then=Fault.status(422, body=problem))
    with pytest.raises(InvalidRequest) as caught:
        ask(model_for(server, "openai"), "sync")
    assert caught.value.parameter is None


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


FORMS = [
    Picky("response_format", "This response_format type is unavailable now", "invalid_request_error"),
    Picky("response_format", "This model does not support response format `json_schema`.", None, "response_format"),
    Picky(
        "response_format",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        None,
        "response_format",
    ),
]
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("picky", FORMS, ids=["deepseek", "groq", "openai"])
def test_a_form_refused(server: FaultServer, transport: str, picky: Picky, way: str) -> None:
    """The answer comes through a tool that the model must call, which the message says."""

    def answer(request: Any) -> Fault:
        if "tools" not in request.json:
            return picky(request)
        name = request.json["tool_choice"]["function"]["name"]
        return Fault.tools(Call(name, '{"name": "Ann"}'))

    server.script(then=answer)
    model = model_for(server, transport)
    with pytest.warns(UserWarning, match="response_format"):
        message = ask(model, way, grammar=PERSON)
    assert (message.parsed, message.enforcement) == ({"name": "Ann"}, "forced_tool")
    assert ["response_format" in request.json for request in server.requests] == [True, False]
    assert ask(model, way, grammar=PERSON).parsed == {"name": "Ann"}
    assert len(server.requests) == 3
    with pytest.raises(UnsupportedFeature, match="strict=True"):
        ask(model, way, grammar=PERSON, strict=True)
    assert len(server.requests) == 3


def test_a_schema_refused_teaches_nothing_about_forms(server: FaultServer) -> None:
    text = "Invalid schema for response_format 'answer': 'name' is not supported."
    server.script(then=Fault.status(400, message=text, param="response_format"))
    with pytest.raises(InvalidRequest, match="Invalid schema"):
        model_for(server).generate("hello", grammar=PERSON)
    assert len(server.requests) == 1


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
    server.script(then=lambda request: STOP[0](request).replace(delay_s=0.05))
    model = model_for(server)

    async def many() -> Sequence[ChatMessage]:
        return await asyncio.gather(*(model.agenerate("hello", stop_sequences=[" is"]) for _ in range(8)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert {message.content for message in asyncio.run(many())} == {"The capital of France"}


@pytest.mark.parametrize("way", ["sync", "async streamed"])
def test_a_request_that_is_sent_again_takes_a_place_of_its_own(server: FaultServer, transport: str, way: str) -> None:
    """Which there is none in this minute."""
    server.script(then=STOP[0])
    with pytest.warns(UserWarning, match="stop"), pytest.raises(DeadlineExceeded):
        ask(model_for(server, transport, requests_per_minute=1, retry=False, timeout=2), way, stop_sequences=[" is"])
    assert len(server.requests) == 1


def test_a_refusal_in_the_middle_of_a_stream_sends_nothing_again(server: FaultServer, transport: str) -> None:
    """What has been delivered can't be taken back."""
    server.script([Fault.error_frame(message=STOP[0].message, code=400)])
    with pytest.raises(StreamInterrupted) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ask(model_for(server, transport), "sync streamed", stop_sequences=[" is"])
    assert isinstance(caught.value.__cause__, InvalidRequest)
    assert len(server.requests) == 1


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
