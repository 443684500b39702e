"""The fault matrix on LiteLLM and on its Router with one deployment: the rows of the OpenAI backend's."""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from modelport import LiteLLMModel, LiteLLMRouterModel, Model
from modelport.errors import (
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.layers.retry import RetryPolicy
from tests.remote.test_openai_faults import (
    ANSWER,
    DEADLINE,
    INT,
    QUICK,
    ROWS,
    TOOL,
    WAYS,
    OKn,
    Row,
    X,
    ask,
)
from tests.servers.faults import Call, Fault, FaultServer, Reply

KEY = "test-key-0123456789"


def litellm(url: str, provider: str = "openai", **settings: Any) -> Model:
    return LiteLLMModel(f"{provider}/m", url, KEY, **settings)


def router(url: str, provider: str = "openai", **settings: Any) -> Model:
    parameters = {"model": f"{provider}/m", "api_base": url, "api_key": KEY}
    return LiteLLMRouterModel("group", [{"model_name": "group", "litellm_params": parameters}], **settings)


def own_http(url: str, **settings: Any) -> Model:
    """A provider that LiteLLM serves through its own HTTP client, not through the openai package."""
    return litellm(url, "hosted_vllm", **settings)


MAKERS = {"litellm": litellm, "router": router, "own-http": own_http}


@pytest.fixture(params=MAKERS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        # What the first calls of a process import takes seconds, which belong to no time limit below.
        for backend in MAKERS:
            for way in ("sync", "async streamed"):
                ask(model_for(server, backend), way)
        yield server


@pytest.fixture
def server(running: FaultServer) -> Iterator[FaultServer]:
    running.clear()
    yield running
    running.start_listening()


def model_for(server: FaultServer, backend: str, **settings: Any) -> Any:
    return MAKERS[backend](server.base_url, **{"retry": QUICK, "timeout": DEADLINE, **settings})


#: Where LiteLLM does not let this row be told as it should be, what it is instead.
OTHERWISE: dict[str, OKn | INT] = {
    "11: error frame, its own event": INT(MalformedResponse),  # its data is no chunk, and is passed over
}
#: Its own HTTP client passes over a broken event, and takes [DONE] for a finish reason.
OTHERWISE_BY_OWN_HTTP: dict[str, OKn | INT] = {
    "9: no finish reason": OKn(1),
    "10: malformed": OKn(1, text=ANSWER[:8] + ANSWER[16:]),
    "10: malformed before a delta": OKn(1, text=ANSWER[8:]),
    "10: bad UTF-8": OKn(1, text=ANSWER[:8] + "caf\ufffd" + ANSWER[16:]),
    "11: error frame of a limit": INT(ServerError),
}


def patient(row: Row) -> Row:
    """LiteLLM makes a client for each new loop, which takes a tenth of a second, and more on a busy machine."""
    limits = {name: max(row.options[name], 1.0) for name in ("first_token_timeout", "timeout") if name in row.options}
    return replace(row, options={**row.options, **limits})


CELLS = [
    pytest.param(patient(row), way, id=f"{row.name} - {way}")
    for row in ROWS
    for way in WAYS
    if (row.streamed if "streamed" in way else row.plain) is not None
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("row", "way"), CELLS)
def test_fault_matrix(server: FaultServer, backend: str, row: Row, way: str) -> None:
    model = model_for(server, backend, **row.settings)
    expected = row.streamed if "streamed" in way else row.plain
    if "streamed" in way:
        expected = {**OTHERWISE, **(OTHERWISE_BY_OWN_HTTP if backend == "own-http" else {})}.get(row.name, expected)
    server.script(row.faults, then=row.then)
    begun = time.monotonic()
    if isinstance(expected, OKn):
        message = ask(model, way, **row.options)
        assert message.content == expected.text
        assert message.finish_reason == "stop"
        assert time.monotonic() - begun >= expected.at_least
        assert len(server.requests) in attempts(backend, row, expected.attempts)
    elif isinstance(expected, X):
        with pytest.raises(ModelError) as caught:
            ask(model, way, **row.options)
        assert type(caught.value) is expected.error, repr(caught.value)
        assert {name: getattr(caught.value, name) for name in expected.attributes} == expected.attributes
        assert caught.value.model_id in (model.model_id, "m")  # as the caller named it, or as the answer does
        assert time.monotonic() - begun < expected.within
        assert len(server.requests) in attempts(backend, row, expected.attempts)
    else:
        with pytest.raises(StreamInterrupted) as interrupted:
            ask(model, way, **row.options)
        assert interrupted.value.partial.content == expected.partial
        assert type(interrupted.value.__cause__) is expected.cause, repr(interrupted.value.__cause__)
        assert len(server.requests) == 1
    server.wait_for(lambda: server.open_connections == 0)
    assert server.unused == 0
    assert server.requests[-1].stream == ("streamed" in way)


def attempts(backend: str, row: Row, asked: int) -> range:
    """LiteLLM's own HTTP client asks once more, by itself, where a connection was reset before the answer began."""
    again = backend == "own-http" and row.name.startswith("5: reset")
    return range(asked, (2 * asked if again else asked) + 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_connection_is_tried_again(server: FaultServer, backend: str, way: str) -> None:
    def listen_again(error: ModelError) -> bool:
        assert type(error) is ConnectionFailed
        server.start_listening()
        return True

    server.stop_listening()
    model = model_for(server, backend, retry=RetryPolicy(attempts=2, base=0.01, retryable=listen_again))
    assert ask(model, way).content == ANSWER
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_the_caller_leaves_early(server: FaultServer, backend: str, way: str) -> None:
    """Row 14 for streams: nothing of 50 abandoned answers is left."""
    server.script(then=Fault.cut("stall", stall_s=9.0))
    model = model_for(server, backend)

    def all_left() -> bool:
        return all(request.client_left for request in server.requests)

    def leave_sync() -> None:
        for i in range(50):
            stream = model.generate_stream("hello")
            assert any(delta.content for delta in stream)
            if i % 2:
                stream.close()
            del stream
        server.wait_for(all_left)

    async def leave_async() -> None:
        for i in range(50):
            stream = model.agenerate_stream("hello")
            async for delta in stream:
                if delta.content:
                    break
            if i % 2:
                await stream.close()
            del stream
            if i == 9:
                await asyncio.to_thread(server.wait_for, all_left)
                settled = len(asyncio.all_tasks())  # LiteLLM keeps a task of its own on each loop
        await asyncio.to_thread(server.wait_for, all_left)
        assert len(asyncio.all_tasks()) <= settled

    leave_sync() if way == "sync streamed" else asyncio.run(leave_async())
    assert len(server.requests) == 50
    server.script()
    assert ask(model, way).content == ANSWER


def test_the_caller_leaves_early_while_waiting_for_an_answer(server: FaultServer, backend: str) -> None:
    """Row 14 for answers that are not streamed: a cancelled call closes its connection."""
    server.script(then=Fault.slow(9.0))
    model = model_for(server, backend)

    async def leave() -> None:
        for i in range(50):
            task = asyncio.create_task(model.agenerate("hello"))
            while len(server.requests) <= i:  # noqa: ASYNC110  # the server is in a thread of its own
                await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(server.wait_for, lambda: server.open_connections == 0)
        server.script()
        assert (await model.agenerate("hello")).content == ANSWER
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) <= 3  # this one, and those that LiteLLM keeps

    asyncio.run(leave())
    assert len(server.requests) == 51


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


def test_one_model_that_closes_leaves_the_others_their_connections(server: FaultServer, backend: str) -> None:
    gc.collect()
    server.wait_for(lambda: server.open_connections == 0)
    one, other = model_for(server, backend), model_for(server, backend)
    one.generate("hello")
    other.generate("hello")
    one.close()
    assert other.generate("hello").content == ANSWER
    assert server.open_connections > 0
    other.close()
    server.wait_for(lambda: server.open_connections == 0)
