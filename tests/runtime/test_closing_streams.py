"""Streams that are closed, forgotten or not read: the engine stops, and nothing of the call is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import Any

import pytest

from modelport import LlamaCppModel, Model, OpenAIServerModel
from modelport.testing import ScriptedModel
from tests.runtime.calls import LONG, QUESTION, SOON, assert_free, text_of, wait_until
from tests.servers.faults import Fault, FaultServer
from tests.servers.llamacpp import LlamaServer

pytestmark = pytest.mark.timeout(120)


@pytest.mark.engine
@pytest.mark.parametrize("ending", ["close", "with", "delete", "error"])
def test_stream_that_is_left_stops_the_engine(model: Model, llama: LlamaServer, ending: str) -> None:
    """The engine's slot is free, and neither a task nor a thread is left."""
    for _ in range(2):
        stream = model.generate_stream(QUESTION, **LONG)
        for delta in stream:
            if delta.content:
                break
        start = time.monotonic()
        if ending == "close":
            stream.close()
            assert list(stream) == []
        elif ending == "with":
            with stream:
                pass
        elif ending == "error":
            with pytest.raises(ZeroDivisionError), stream:
                raise ZeroDivisionError
        assert stream.message.text
        del stream
        assert time.monotonic() - start < SOON
        assert_free(model, llama)


@pytest.mark.engine
@pytest.mark.parametrize("ending", ["close", "with", "delete", "keep", "cancel"])
def test_async_stream_that_is_left_stops_the_engine(model: Model, llama: LlamaServer, ending: str) -> None:
    kept_streams = []

    async def leave() -> None:
        stream = model.agenerate_stream(QUESTION, **LONG)
        async for delta in stream:
            if delta.content:
                break
        if ending == "close":
            await stream.close()
        elif ending == "with":
            async with stream:
                pass
        elif ending == "keep":
            kept_streams.append(stream)  # The loop ends.
            return
        elif ending == "cancel":
            task = asyncio.ensure_future(_read_all(stream))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del stream
        async with asyncio.timeout(SOON):
            while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110  There is no event to wait for.
                await asyncio.sleep(0.01)
        assert "Paris" in (await model.agenerate(QUESTION, max_tokens=12, temperature=0)).text

    for _ in range(2):
        asyncio.run(leave())
        assert_free(model, llama)


async def _read_all(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.engine
def test_close_returns_when_the_engine_has_stopped(engine: LlamaCppModel) -> None:
    """When `close` returns, the thread of the engine is about to end."""

    def has_ended() -> bool:
        return not [t for t in threading.enumerate() if t.name == "modelport-stream"]

    with engine.generate_stream(QUESTION, **LONG) as stream:
        next(stream)
    wait_until(has_ended, 0.1)

    async def close_async_stream() -> None:
        async with engine.agenerate_stream(QUESTION, **LONG) as stream:
            await anext(stream)
        wait_until(has_ended, 0.1)  # This blocks the loop, so that the loop can't stop the engine now.

    asyncio.run(close_async_stream())


def test_close_closes_the_connection(server: FaultServer) -> None:
    """The connection is closed when `close` returns, and not later."""
    server.script(then=Fault.cut("stall", stall_s=9.0))
    with OpenAIServerModel("m", server.base_url, "k") as model:

        def open_sockets() -> int:
            links = []
            for fd in _fds():
                with contextlib.suppress(FileNotFoundError):  # Another thread has closed it meanwhile.
                    links.append(os.readlink(f"/proc/self/fd/{fd}"))
            return sum(link.startswith("socket") for link in links)

        model.generate_stream("hello").close()  # It had not started, so nothing was sent.
        assert server.requests == []
        ScriptedModel("ok").generate("?")  # The event loop of synchronous calls runs now, and has sockets too.
        before = open_sockets()
        with model.generate_stream("hello") as stream:
            next(stream)
            assert open_sockets() == before + 2  # the client's end and the server's
        server.wait_for(lambda: open_sockets() == before, 1.0)
    server.script()


def _fds() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{fd}")
            found.append(fd)
        except FileNotFoundError:
            pass
    return found


@pytest.mark.engine
def test_stream_that_is_not_read_blocks_no_other_call(model: Model, llama: LlamaServer) -> None:
    """Other calls go on, and the response waits for its reader."""
    options = {**LONG, "max_tokens": 40}
    stream = model.generate_stream(QUESTION, **options)
    next(stream)
    assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).text
    assert_free(model, llama)
    assert len(text_of(stream)) > 40
    assert stream.message.finish_reason == "length"
