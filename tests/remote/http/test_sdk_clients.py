"""Clients of the openai package: those of the caller, and those made from `client_kwargs`."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from modelport import OpenAIServerModel
from modelport.errors import DeadlineExceeded, InvalidRequest, ModelError
from modelport.runtime.portal import run
from tests.remote.http.models import ANSWER, KEY
from tests.servers.faults import OK, Fault, FaultServer
from tests.servers.hostile import Attack, HostileServer

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_client_of_caller_keeps_settings_and_stays_open(server: FaultServer, is_async: bool) -> None:
    """The client's retries are switched off."""
    kind: Any = openai.AsyncOpenAI if is_async else openai.OpenAI
    client = kind(base_url=server.base_url, api_key=KEY, default_headers={"X-Mine": "1"}, max_retries=5)
    with OpenAIServerModel("m", client=client, retry=False) as model:
        assert model.generate("hello").content == ANSWER
        assert "".join(delta.content or "" for delta in model.generate_stream("hello")) == ANSWER
        server.script([Fault.status(500)])
        with pytest.raises(ModelError):
            model.generate("hello")
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(model)
    assert [request.headers["x-mine"] for request in server.requests] == ["1"] * 3
    assert not client.is_closed()
    assert OpenAIServerModel("m", client=client).generate("hello").content == ANSWER
    if is_async:
        run(client.close())
    else:
        client.close()


def test_sync_client_of_caller_runs_async_calls_in_parallel(server: FaultServer) -> None:
    """Each call runs in a thread of its own, so that the event loop is never blocked."""
    running_at_once: list[int] = []

    def answer_late(request: Any) -> Fault:
        running_at_once.append(sum(not earlier.done for earlier in server.requests))
        return OK.replace(delay_s=0.3)

    server.script(then=answer_late)
    with openai.OpenAI(base_url=server.base_url, api_key=KEY) as client:
        model = OpenAIServerModel("m", client=client)

        async def main() -> None:
            streams = [model.agenerate_stream("hello") for _ in range(8)]
            texts = await asyncio.gather(*(model.agenerate("hello") for _ in range(8)), *(map(text_of, streams)))
            assert {str(getattr(text, "content", text)) for text in texts} == {ANSWER}

        asyncio.run(main())
    assert len(running_at_once) == 16
    assert max(running_at_once) > 4


async def text_of(stream: Any) -> str:
    return "".join([delta.content or "" async for delta in stream])


def test_abandoned_stream_of_sync_client_ends_its_thread(server: FaultServer) -> None:
    server.script(then=OK.replace(pace_s=0.05))
    with openai.OpenAI(base_url=server.base_url, api_key=KEY) as client:
        model = OpenAIServerModel("m", client=client)
        with model.generate_stream("hello") as stream:
            next(stream)
        server.wait_for(lambda: server.open_connections == 0)
        wait_for_no_thread("modelport-stream")


def wait_for_no_thread(name: str) -> None:
    for _ in range(100):
        if not any(thread.name == name for thread in threading.enumerate()):
            return
        threading.Event().wait(0.02)
    raise AssertionError(threading.enumerate())


class SlowBody:
    """A body that sends a piece now and then, and shows whether its client has left."""

    def __init__(self, piece: bytes) -> None:
        self.piece, self.left = piece, threading.Event()

    def __call__(self) -> Iterator[bytes]:
        try:
            yield self.piece
            for _ in range(400):
                threading.Event().wait(0.05)
                yield self.piece
        finally:
            self.left.set()


@pytest.mark.parametrize("pace", ["drip", "silence"])
def test_slow_error_body_through_sync_client_has_time_limit(pace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the service's, and not that the deadline of the call has passed."""
    monkeypatch.setattr("modelport.remote.http.bodies.ERROR_BODY_TIMEOUT", 0.2)
    end = threading.Event()

    def silence() -> Iterator[bytes]:
        yield b" "
        end.wait(30)

    body = SlowBody(b" ") if pace == "drip" else silence
    with HostileServer() as server, openai.OpenAI(base_url=server.url, api_key=KEY) as client:
        server.attack = Attack(body, status=400)
        with pytest.raises(InvalidRequest):
            OpenAIServerModel("m", client=client, retry=False).generate("hello", timeout=10)
        end.set()


@pytest.mark.parametrize("piece", [b" ", gzip.compress(b"")], ids=["spaces", "empty gzip"])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_sync_client_leaves_slow_body_at_deadline(streamed: bool, piece: bytes) -> None:
    """Its thread and its connection end, although the service goes on sending."""
    body = SlowBody(piece)
    with HostileServer() as server, openai.OpenAI(base_url=server.url, api_key=KEY) as client:
        server.attack = Attack(body, streamed=streamed, encoding=None if piece == b" " else "gzip")
        model = OpenAIServerModel("m", client=client, retry=False)
        with pytest.raises(DeadlineExceeded):
            list(model.generate_stream("hello", timeout=0.5)) if streamed else model.generate("hello", timeout=0.5)
        wait_for_no_thread("modelport-stream" if streamed else "modelport-call")
        assert body.left.wait(5)


def test_async_client_of_caller_works_on_its_own_loop(server: FaultServer) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY) as client:
            model = OpenAIServerModel("m", client=client)
            assert (await model.agenerate("hello")).content == ANSWER
            assert await text_of(model.agenerate_stream("hello")) == ANSWER

    asyncio.run(main())
    assert server.connections_opened == 1


def test_client_kwargs_override_settings_and_max_retries_becomes_retry(server: FaultServer) -> None:
    """The client itself does not retry."""
    settings = {"default_headers": {"X-Mine": "1"}, "max_retries": 1, "api_key": "sk-other-0123456789"}
    server.script(then=Fault.status(500))
    model = OpenAIServerModel("m", server.base_url, client_kwargs=settings)
    with model, pytest.raises(ModelError):
        model.generate("hello")
    assert len(server.requests) == 2
    assert server.requests[0].headers["x-mine"] == "1"
    assert server.requests[0].headers["authorization"] == "Bearer sk-other-0123456789"


def test_timeout_of_client_is_retried(server: FaultServer) -> None:
    server.script([Fault.slow(9.0)])
    model = OpenAIServerModel("m", server.base_url, client_kwargs={"timeout": 0.3}, retry=2)
    with model:
        assert model.generate("hello").content == ANSWER
    assert len(server.requests) == 2


def test_wrong_client_kwargs_are_named(server: FaultServer) -> None:
    model = OpenAIServerModel("m", server.base_url, client_kwargs={"no_such_setting": 1})
    with pytest.raises(InvalidRequest, match="no_such_setting"):
        model.generate("hello")
    with pytest.raises(InvalidRequest, match="client_kwargs"):
        OpenAIServerModel("m", client=openai.OpenAI(), client_kwargs={"timeout": 1})
