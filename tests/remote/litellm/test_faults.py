"""Faults beside the matrix on LiteLLM, and on its Router with one deployment."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator
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

COLUMNS = ("litellm", "litellm-router", "litellm-http")


@pytest.fixture(params=COLUMNS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        # What the first calls of a process import takes seconds, which belong to no time limit below.
        for backend in COLUMNS:
            for way in ("sync", "async streamed"):
                ask(model_for(server, backend), way)
        yield server


@pytest.fixture
def server(running: FaultServer) -> Iterator[FaultServer]:
    running.settle()
    yield running
    running.start_listening()


# --- the service's own words ------------------------------------------------------------------------------------------


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
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_refusal_by_its_code(
    server: FaultServer, backend: str, fault: Fault, kind: type[ModelError], status: int, way: str
) -> None:
    """None of them is sent again: neither a spent account nor a prompt too long gets better by waiting."""
    server.script(then=fault)
    with pytest.raises(kind) as caught:
        ask(model_for(server, backend), way)
    assert caught.value.status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["sync", "sync streamed"])
def test_a_key_that_the_service_quotes_is_not_shown(server: FaultServer, backend: str, way: str) -> None:
    server.script(then=Fault.status(401, message=f"Incorrect API key provided: {KEY}."))
    with pytest.raises(ModelError, match=r"Incorrect API key provided: \*\*\*") as caught:
        ask(model_for(server, backend), way)
    error = caught.value
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename in (
        __file__,
        ask.__code__.co_filename,
    ):
        error.__traceback__ = error.__traceback__.tb_next
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert KEY not in shown and error.__context__ is None


@pytest.mark.parametrize(
    "given",
    [{"extra_headers": {"X": None}}, {"extra_headers": {5: "a"}}, {"headers": {"X": "a\nb"}}, {"extra_headers": ["a"]},
     {"extra_headers": {"Content-Length": "3"}}, {"extra_body": ["a"]}, {"extra_body": {"a": object()}}],
    ids=ascii,
)  # fmt: skip
def test_a_request_that_can_not_be_sent_is_not_blamed_on_the_service(
    server: FaultServer, backend: str, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        model_for(server, backend).generate("hello", **given)
    assert server.requests == []


@pytest.mark.parametrize("given", [{"extra_headers": {"X-Plan": "my-subscription"}}, {"api_version": "v-1"}], ids=str)
def test_what_a_user_sends_along_is_not_shown(server: FaultServer, backend: str, given: dict[str, Any]) -> None:
    server.script(then=Fault.status(403, message=rb"my-subscription \/ v-1 is spent.".decode()))
    with pytest.raises(ModelError, match="is spent") as caught:
        model_for(server, backend).generate("hello", **given)
    assert ("my-subscription" in str(caught.value)) is ("extra_headers" not in given)


# --- traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["asked", "chunk", "last", "cumulative", "none"])
def test_usage_however_it_comes(server: FaultServer, backend: str, kind: Any) -> None:
    """It comes once, last, and what LiteLLM counts by itself where a service sends none is nobody's usage."""
    server.script([Fault.ok(usage=kind, null_choice_first=True)] * 2)
    deltas = list(model_for(server, backend).generate_stream("hello"))
    whole = model_for(server, backend).generate("hello")
    assert [delta.token_usage is not None for delta in deltas[:-1]] == [False] * (len(deltas) - 1)
    for usage in (deltas[-1].token_usage, whole.token_usage):
        if kind == "none":
            assert usage is None
        else:
            assert usage is not None
            assert (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens) == (12, 8, None)
            assert usage.reasoning_tokens is None
    assert "".join(delta.content or "" for delta in deltas) == ANSWER


@pytest.mark.parametrize("way", ["sync", "sync streamed"])
@pytest.mark.parametrize("whole_calls", [True, False], ids=["whole", "in fragments"])
@pytest.mark.parametrize("tool_index", ["count", "zero", "null", "absent"])
def test_tool_calls_however_they_are_numbered(
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
def test_a_body_that_is_no_stream_is_no_empty_answer(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault(never_streams=True)])
    with pytest.raises(MalformedResponse):
        ask(model_for(server, backend), way)


def test_a_stream_without_its_terminator(server: FaultServer, backend: str) -> None:
    """The finish reason has come, and so has the answer."""
    server.script([Fault.ok(done=False)])
    assert ask(model_for(server, backend), "sync streamed").content == ANSWER


def test_reasoning_and_what_is_cut_after_it(server: FaultServer, backend: str) -> None:
    server.script([Fault.ok(reasoning="First I think.")] * 2)
    for way in ("sync", "sync streamed"):
        message = ask(model_for(server, backend), way)
        assert (message.reasoning, message.content) == ("First I think.", ANSWER)
    server.script([Fault.cut("reset", after_events=2, reply=Reply(reasoning="First I think.", piece=64))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server, backend), "sync streamed")
    assert caught.value.partial.reasoning == "First I think."


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_a_cut_tool_call_keeps_its_raw_text(server: FaultServer, backend: str, way: str) -> None:
    server.script([Fault.cut("close", after_events=5, reply=Reply("", calls=(Call(),)))])
    with pytest.raises(StreamInterrupted) as caught:
        ask(model_for(server, backend), way, tools=[TOOL])
    (call,) = caught.value.partial.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("get_weather", Call().arguments[:24])


def test_connections_end_with_their_loop(server: FaultServer, backend: str) -> None:
    model = model_for(server, backend)
    for _ in range(20):
        assert asyncio.run(model.agenerate("hello")).content == ANSWER
    server.wait_for(lambda: server.open_connections == 0)
