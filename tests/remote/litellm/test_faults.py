"""Faults that the fault matrix does not have, on LiteLLM and on its Router with one deployment."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from modelport.errors import (
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    StreamInterrupted,
)
from tests.remote.matrix import ANSWER, TOOL
from tests.remote.matrix_runner import KEY, ask, model_for
from tests.servers.faults import Call, Fault, FaultServer, Reply

# --- error responses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "async streamed"])
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
    ],
    ids=[
        "context length code", "context length text", "content filter code", "quota code", "HTML body", "empty body",
        "error as a string",
    ],
)  # fmt: skip
def test_error_response_is_classified_and_not_retried(
    server: FaultServer, backend: str, fault: Fault, kind: type[ModelError], status: int, way: str
) -> None:
    """A retry would help neither an account without credit nor a prompt that is too long."""
    server.script(then=fault)
    with pytest.raises(kind) as raised:
        ask(model_for(server, backend), way)
    assert raised.value.status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["sync", "sync streamed"])
def test_key_that_the_service_quotes_is_redacted_in_error_and_traceback(
    server: FaultServer, backend: str, way: str
) -> None:
    server.script(then=Fault.status(401, message=f"Incorrect API key provided: {KEY}."))
    with pytest.raises(ModelError, match=r"Incorrect API key provided: \*\*\*") as raised:
        ask(model_for(server, backend), way)
    error = raised.value
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename in (
        __file__,
        ask.__code__.co_filename,
    ):
        error.__traceback__ = error.__traceback__.tb_next
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert KEY not in text and error.__context__ is None


@pytest.mark.parametrize(
    "options",
    [{"extra_headers": {"X": None}}, {"extra_headers": {5: "a"}}, {"headers": {"X": "a\nb"}}, {"extra_headers": ["a"]},
     {"extra_headers": {"Content-Length": "3"}}, {"extra_body": ["a"]}, {"extra_body": {"a": object()}}],
    ids=["header without value", "header name that is a number", "header with a line break", "headers as a list",
         "Content-Length header", "body as a list", "body that is not JSON"],
)  # fmt: skip
def test_request_that_cannot_be_sent_raises_invalid_request_before_sending(
    server: FaultServer, backend: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        model_for(server, backend).generate("hello", **options)
    assert server.requests == []


@pytest.mark.parametrize(
    "options", [{"extra_headers": {"X-Plan": "my-subscription"}}, {"api_version": "v-1"}], ids=["header", "api_version"]
)
def test_header_that_the_service_quotes_is_redacted(server: FaultServer, backend: str, options: dict[str, Any]) -> None:
    server.script(then=Fault.status(403, message=rb"my-subscription \/ v-1 is spent.".decode()))
    with pytest.raises(ModelError, match="is spent") as raised:
        model_for(server, backend).generate("hello", **options)
    assert ("my-subscription" in str(raised.value)) is ("extra_headers" not in options)


# --- usage, tool calls and the end of a stream ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asked", "chunk", "last", "cumulative", "none"])
def test_usage_is_emitted_once_at_the_end_and_only_if_the_service_sends_it(
    server: FaultServer, backend: str, kind: Any
) -> None:
    """LiteLLM counts tokens by itself if the service sends no usage; these counts are not emitted."""
    server.script([Fault.ok(usage=kind, null_choice_first=True)] * 2)
    deltas = list(model_for(server, backend).generate_stream("hello"))
    message = model_for(server, backend).generate("hello")
    assert [delta.token_usage is not None for delta in deltas[:-1]] == [False] * (len(deltas) - 1)
    for usage in (deltas[-1].token_usage, message.token_usage):
        if kind == "none":
            assert usage is None
        else:
            assert usage is not None
            assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (12, 8, None)
            assert usage.reasoning_tokens is None
    assert "".join(delta.content or "" for delta in deltas) == ANSWER


@pytest.mark.parametrize("way", ["sync", "sync streamed"])
@pytest.mark.parametrize("whole_calls", [True, False], ids=["complete", "in fragments"])
@pytest.mark.parametrize("tool_index", ["count", "zero", "null", "absent"])
def test_tool_calls_are_separate_whatever_their_index(
    server: FaultServer, backend: str, tool_index: Any, whole_calls: bool, way: str
) -> None:
    server.script([Fault.tools(tool_index=tool_index, whole_calls=whole_calls)])
    message = ask(model_for(server, backend), way, tools=[TOOL])
    assert message.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()] == [
        ("call_1", "get_weather", {"city": "Paris", "unit": "celsius"}),
        ("call_2", "get_weather", {"city": "Oslo", "unit": "celsius"}),
    ]


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_body_that_is_not_a_stream_raises_malformed_response(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault(never_streams=True)])
    with pytest.raises(MalformedResponse):
        ask(model_for(server, backend), way)


def test_stream_without_terminator_is_complete_after_its_finish_reason(server: FaultServer, backend: str) -> None:
    server.script([Fault.ok(done=False)])
    assert ask(model_for(server, backend), "sync streamed").content == ANSWER


def test_reasoning_is_received_and_kept_when_the_stream_is_interrupted(server: FaultServer, backend: str) -> None:
    server.script([Fault.ok(reasoning="First I think.")] * 2)
    for way in ("sync", "sync streamed"):
        message = ask(model_for(server, backend), way)
        assert (message.reasoning, message.content) == ("First I think.", ANSWER)
    server.script([Fault.cut("reset", after_events=2, reply=Reply(reasoning="First I think.", piece=64))])
    with pytest.raises(StreamInterrupted) as raised:
        ask(model_for(server, backend), "sync streamed")
    assert raised.value.partial.reasoning == "First I think."


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_interrupted_tool_call_keeps_its_arguments_as_text(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault.cut("close", after_events=5, reply=Reply("", calls=(Call(),)))])
    with pytest.raises(StreamInterrupted) as raised:
        ask(model_for(server, backend), way, tools=[TOOL])
    (call,) = raised.value.partial.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", Call().arguments[:24])


def test_connections_are_closed_with_their_event_loop(server: FaultServer, backend: str) -> None:
    model = model_for(server, backend)
    for _ in range(20):
        assert asyncio.run(model.agenerate("hello")).content == ANSWER
    server.wait_for(lambda: server.open_connections == 0)
