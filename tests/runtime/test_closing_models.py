"""`close` and `aclose`: they end the calls that run, wherever these run, and with `drain` wait for them first."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport import (
    ChatMessage,
    ChatMessageStreamDelta,
    FallbackModel,
    InvalidRequest,
    Model,
    ModelClosed,
    OpenAIServerModel,
    Request,
    RetryPolicy,
    ServerError,
    StreamInterrupted,
)
from modelport.testing import ScriptedModel
from tests.servers.faults import Fault, FaultServer

from .calls import wait_until

#: Closing a model takes less than this, in seconds, on a busy machine. What is not ended is waited for for ten seconds.
FAST = 5.0


class WaitingModel(Model):
    """Yields one delta, and waits until `finish` is set or the call is cancelled."""

    def __init__(self, model_id: str = "waiting", **settings: Any) -> None:
        super().__init__(model_id, **{"timeout": 60, **settings})
        self.running = self.started = 0
        self.finish = False

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        self.running += 1
        self.started += 1
        try:
            yield ChatMessageStreamDelta(content="so far")
            while not self.finish:  # noqa: ASYNC110 - any thread may set it
                await asyncio.sleep(0.002)
            yield ChatMessageStreamDelta(content=", so good", finish_reason="stop")
        finally:
            self.running -= 1


class Caller(threading.Thread):
    """A call in a thread."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error

    def end(self) -> Any:
        """Wait for the call, and return its error or its result."""
        self.join(FAST)
        assert not self.is_alive()
        return self.error or self.result


async def read(stream: Any) -> list[Any]:
    return [delta async for delta in stream]


def start_in_four_ways(model: Model) -> list[Caller]:
    return [
        Caller(lambda: model.generate("?")),
        Caller(lambda: asyncio.run(model.agenerate("?"))),
        Caller(lambda: list(model.generate_stream("?"))),
        Caller(lambda: asyncio.run(read(model.agenerate_stream("?")))),
    ]


def close(model: Model, method: str, drain: float = 0.0) -> float:
    """Close a model, and return the seconds that it took."""
    begin = time.monotonic()
    if method == "close":
        model.close(drain)
    else:
        asyncio.run(model.aclose(drain))
    return time.monotonic() - begin


both = pytest.mark.parametrize("method", ["close", "aclose"])


async def outer_layer(request: Request, next: Any) -> AsyncGenerator[ChatMessageStreamDelta, None]:
    async for delta in next(request):
        yield delta


# --- calls in progress ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("wrapper", ["none", "layers", "fallback", "hedged", "limits"])
def test_close_ends_calls_in_all_threads_and_loops(method: str, wrapper: str) -> None:
    inner = WaitingModel(max_concurrency=9, requests_per_minute=99) if wrapper == "limits" else WaitingModel()
    model: Model = inner
    if wrapper == "layers":
        model = inner.with_layers(outer_layer)
    elif wrapper in ("fallback", "hedged"):
        model = FallbackModel([inner, inner], hedge=0.01 if wrapper == "hedged" else None, timeout=60)
    calls = start_in_four_ways(model)
    wait_until(lambda: inner.started >= (6 if wrapper == "hedged" else 4))
    assert close(model, method) < FAST
    assert inner.running == 0
    complete, other, *streams = [call.end() for call in calls]
    for error in (complete, other):
        assert isinstance(error, ModelClosed) and not error.retryable and error.model_id == model.model_id
        assert "closed while the call was in progress" in str(error)
    for error in streams:
        assert isinstance(error, StreamInterrupted) and isinstance(error.__cause__, ModelClosed)
        assert error.partial.text == "so far"
    for call in start_in_four_ways(model):
        assert isinstance(call.end(), ModelClosed)
    assert close(model, method) < FAST  # Once more.


@pytest.mark.parametrize("wrapped", [False, True])
def test_close_releases_a_stream_that_nobody_reads(wrapped: bool) -> None:
    inner = WaitingModel()
    model = inner.with_layers(outer_layer) if wrapped else inner

    async def work() -> None:
        stream = model.agenerate_stream("?")
        assert (await anext(stream)).content == "so far"
        await model.aclose()
        assert inner.running == 0
        with pytest.raises(StreamInterrupted) as raised:
            await anext(stream)
        assert isinstance(raised.value.__cause__, ModelClosed) and raised.value.partial.text == "so far"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.close()

    asyncio.run(work())


def test_close_ends_calls_that_wait_for_a_limit_or_for_their_next_attempt() -> None:
    limited = WaitingModel(max_concurrency=1)
    first = Caller(lambda: limited.generate("first"))
    wait_until(lambda: limited.running == 1)
    waiting = Caller(lambda: limited.generate("waiting"))
    failing = ScriptedModel(ServerError("busy"), repeat=True, retry=RetryPolicy(base=1e6, cap=1e6))
    retried = Caller(lambda: failing.generate("?", timeout=1e9))
    wait_until(lambda: len(limited._running_calls._calls) == 2 and len(failing.requests) == 1)  # type: ignore[union-attr]
    for model in (limited, failing):
        assert close(model, "close") < FAST
    assert [type(call.end()) for call in (first, waiting, retried)] == [ModelClosed] * 3
    assert limited.started == 1


def test_close_ends_a_call_that_fetches_an_image() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = ScriptedModel("ok", capabilities={"image_urls": False}, allow_private_urls=True)
        image = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"}}
        call = Caller(lambda: model.generate([{"role": "user", "content": [image]}]))
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(4) == b"GET "
            assert close(model, "close") < FAST
            assert isinstance(call.end(), ModelClosed) and model.requests == []


def test_policy_that_retries_everything_does_not_retry_a_closed_call() -> None:
    model = WaitingModel(retry=RetryPolicy(attempts=9, base=0.0, retryable=lambda error: True))
    call = Caller(lambda: model.generate("?"))
    wait_until(lambda: model.running == 1)
    model.close()
    assert isinstance(call.end(), ModelClosed) and model.started == 1


@both
def test_closed_model_closes_its_connections_on_every_loop(method: str) -> None:
    with FaultServer() as server:
        server.script(then=Fault.silence())
        model = OpenAIServerModel("m", server.base_url, "k", timeout=60, retry=False)
        calls = start_in_four_ways(model)
        server.wait_for(lambda: len(server.requests) == 4)
        assert close(model, method) < FAST
        server.wait_for(lambda: server.open_connections == 0)
        assert all(isinstance(call.end(), ModelClosed) for call in calls)
        with pytest.raises(ModelClosed, match="this model has been closed; make a new one"):
            model("?")


class OwnGenerate(Model):
    """Implements only `generate`, which blocks its thread."""

    def __init__(self) -> None:
        super().__init__("own")
        self.go_on, self.running = threading.Event(), 0

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        self.running += 1
        self.go_on.wait(20)
        return ChatMessage("assistant", "done")


def test_close_ends_the_call_of_a_blocking_generate_but_not_its_thread() -> None:
    model = OwnGenerate()
    call = Caller(lambda: asyncio.run(model.agenerate("?")))
    wait_until(lambda: model.running == 1)
    assert close(model, "close") < FAST
    assert isinstance(call.end(), ModelClosed)
    model.go_on.set()


# --- drain ------------------------------------------------------------------------------------------------------------


@both
def test_drain_waits_for_calls_and_refuses_new_ones(method: str) -> None:
    model = WaitingModel()
    calls = start_in_four_ways(model)
    wait_until(lambda: model.started == 4)
    closing = Caller(lambda: close(model, method, drain=60))
    wait_until(lambda: model._running_calls.closed)  # type: ignore[union-attr]
    with pytest.raises(ModelClosed):
        model.generate("?")
    assert closing.is_alive() and model.running == 4
    model.finish = True
    assert closing.end() < 60
    assert [call.end().text for call in calls[:2]] == ["so far, so good"] * 2
    assert [call.end()[-1].finish_reason for call in calls[2:]] == ["stop"] * 2


@both
def test_drain_ends_what_still_runs_afterwards(method: str) -> None:
    model = WaitingModel()
    call = Caller(lambda: model.generate("?"))
    wait_until(lambda: model.running == 1)
    assert 0.3 <= close(model, method, drain=0.3) < FAST
    assert isinstance(call.end(), ModelClosed)


def test_drain_of_a_fallback_model_lets_its_calls_go_to_the_next_model() -> None:
    first, second = WaitingModel("first"), WaitingModel("second")

    class Failing(WaitingModel):
        async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
            async for delta in super().deltas(request):
                if delta.finish_reason:
                    raise ServerError("broken")
                yield delta

    first = Failing("first", retry=False)
    model = FallbackModel([first, second])
    call = Caller(lambda: model.generate("?"))
    wait_until(lambda: first.running == 1)
    closing = Caller(lambda: model.close(drain=60))
    wait_until(lambda: model._running_calls.closed)  # type: ignore[union-attr]
    first.finish = second.finish = True
    assert call.end().model_id == "second"
    closing.end()
    assert isinstance(Caller(lambda: second.generate("?")).end(), ModelClosed)


@pytest.mark.parametrize("method", ["close", "aclose"])
@pytest.mark.parametrize("fallback", [False, True], ids=["model", "fallback"])
@pytest.mark.parametrize(
    "drain",
    [-1, True, False, "10", "", None, {}, [], float("nan"), float("inf"), 2**2000, 86_401, 1j],
    ids=lambda d: str(d)[:9],
)
def test_invalid_drain_is_refused(drain: Any, fallback: bool, method: str) -> None:
    model: Model = FallbackModel([WaitingModel()]) if fallback else WaitingModel()
    with pytest.raises(InvalidRequest, match=r"drain=.*at most 86400 "):
        close(model, method, drain=drain)
    assert model._running_calls is None or not model._running_calls.closed


def test_longest_drain_is_accepted() -> None:
    FallbackModel([WaitingModel()]).close(drain=86_400)


# --- who closes -------------------------------------------------------------------------------------------------------


def test_second_close_ends_what_the_first_one_waits_for() -> None:
    model = WaitingModel()
    call = Caller(lambda: model.generate("?"))
    wait_until(lambda: model.running == 1)
    draining = [Caller(lambda: close(model, "close", drain=60)), Caller(lambda: close(model, "aclose", drain=60))]
    wait_until(lambda: model._running_calls.closed)  # type: ignore[union-attr]
    closing = [Caller(lambda: close(model, "close")) for _ in range(4)]
    assert all(closer.end() < FAST for closer in closing + draining)
    assert isinstance(call.end(), ModelClosed)


async def test_blocking_close_on_the_loop_of_a_call_does_not_wait_for_it() -> None:
    model = WaitingModel()
    call = asyncio.create_task(model.agenerate("?"))
    while not model.running:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert close(model, "close") < FAST
    with pytest.raises(ModelClosed):
        await call
    assert model.running == 0


@pytest.mark.parametrize("where", ["layer", "layer of the inner model", "hedge", "retry policy", "generate"])
@pytest.mark.parametrize("is_sync", [False, True])
def test_close_from_within_a_call_returns_and_ends_the_call(where: str, is_sync: bool) -> None:
    took: list[float] = []

    def close_now() -> bool:
        took.append(close(model, "close"))
        return True

    async def closing_layer(request: Request, next: Any) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        async for delta in next(request):
            yield delta
            if not took:
                begin = time.monotonic()
                await model.aclose()
                took.append(time.monotonic() - begin)

    class ClosingGenerate(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
            close_now()
            return ChatMessage("assistant", "done")

    class Failing(WaitingModel):
        async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
            raise ServerError("busy")
            yield

    model: Model
    if where == "layer":
        model = WaitingModel().with_layers(closing_layer)
    elif where == "retry policy":
        model = Failing(retry=RetryPolicy(retryable=lambda error: close_now()))
    elif where == "generate":
        model = ClosingGenerate("closing")
    else:
        hedge = 60.0 if where == "hedge" else None
        model = FallbackModel([WaitingModel().with_layers(closing_layer), WaitingModel()], hedge=hedge)

    def call() -> Any:
        if not is_sync:
            return asyncio.run(read(model.agenerate_stream("?")))
        return list(model.generate_stream("?"))

    error = Caller(call).end()
    assert isinstance(error, StreamInterrupted | ModelClosed), error
    wait_until(lambda: where == "hedge" or len(took) == 1)
    assert not took or took[0] < FAST
    assert isinstance(Caller(call).end(), ModelClosed)


def test_inner_model_that_is_closed_hands_over_to_the_next() -> None:
    first = WaitingModel("first")
    model = FallbackModel([first, ScriptedModel("second", repeat=True)])
    call = Caller(lambda: model.generate("?"))
    wait_until(lambda: first.running == 1)
    first.close()
    assert call.end().text == "second"
    assert model.generate("?").text == "second"


# --- loops and processes that are gone --------------------------------------------------------------------------------


def test_close_does_not_wait_for_a_loop_that_stands_still() -> None:
    model = WaitingModel()
    loop = asyncio.new_event_loop()
    stream = model.agenerate_stream("?")
    loop.run_until_complete(anext(stream))
    assert close(model, "close") < FAST
    with pytest.raises(StreamInterrupted):
        loop.run_until_complete(anext(stream))
    assert model.running == 0
    loop.close()


def test_call_whose_loop_was_closed_is_forgotten() -> None:
    model = WaitingModel()
    loop = asyncio.new_event_loop()
    stream: Any = model.agenerate_stream("?")
    loop.run_until_complete(anext(stream))
    loop.close()
    assert close(model, "close") < FAST
    del stream
    gc.collect()
    assert model._running_calls is not None and not model._running_calls._calls


def test_forked_child_closes_without_waiting_for_calls_of_its_parent() -> None:
    model = WaitingModel()
    call = Caller(lambda: model.generate("?"))
    wait_until(lambda: model.running == 1)
    child = os.fork()
    if child == 0:
        os._exit(0 if close(model, "close") < FAST else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert call.is_alive() and model.running == 1
    model.close()
    assert isinstance(call.end(), ModelClosed)


def test_copies_of_a_closed_model_and_of_a_request_are_of_their_own() -> None:
    model = ScriptedModel("ok", repeat=True)
    model.generate("?")
    model.close()
    for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.generate("?").text == "ok"
    with pytest.raises(ModelClosed):
        model.generate("?")
    assert pickle.loads(pickle.dumps(model.requests[0].timeouts)).call is None
