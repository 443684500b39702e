"""Calls in event loops: loops come and go, and calls see the context of their caller."""

from __future__ import annotations

import asyncio
import contextvars
import time
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageStreamDelta, Model, OpenAIServerModel
from modelport.errors import ModelError
from tests.runtime.calls import RESPONSE, SOON, text_of
from tests.runtime.scripts import Script
from tests.servers.faults import OK, Fault, FaultServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    ("ending", "transport"),
    [
        ("read-all", "http"),
        ("break", "http"),
        ("break-and-keep", "http"),
        ("abandon-call", "http"),
        ("read-all", "sdk"),
        ("break", "sdk"),
        ("abandon-call", "sdk"),
        # asyncio complains about a stream that outlives its loop also if the SDK is used without modelport.
    ],
)
def test_fifty_event_loops_leave_no_socket_and_no_thread(
    server: FaultServer, tmp_path: Path, transport: str, ending: str
) -> None:
    """All loops use one model, and none of them prints a warning."""
    source = f"""
    import gc

    model, kept, ending = remote(), [], {ending!r}

    async def main():
        if ending == "abandon-call":
            kept.append(asyncio.create_task(model.agenerate(QUESTION)))
            # If the call were abandoned while it connects, anyio would leave a coroutine that is never awaited.
            await asyncio.sleep(0.06)
            return
        assert "Paris" in (await model.agenerate(QUESTION)).content
        stream = model.agenerate_stream(QUESTION)
        if ending == "break-and-keep":
            kept.append(stream)
        async for delta in stream:
            if delta.content and ending != "read-all":
                break

    def sockets():
        links = []
        for number in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{{number}}"))
            except FileNotFoundError:
                pass  # This was the file of the listing itself.
        return [link for link in links if "socket" in link or "eventpoll" in link]

    asyncio.run(asyncio.sleep(0))
    for i in range(50):
        asyncio.run(main())
    gc.collect()
    say(sockets(), threading.active_count())
    """
    server.script(then=OK.replace(pace_s=0.002))
    if ending == "abandon-call":  # The call waits for the headers, or in the middle of the body.
        server.script([Fault.slow(5.0)] * 25, then=Fault.cut("stall"))
    with Script(tmp_path, source, URL=server.base_url, TRANSPORT=transport) as script:
        assert script.finish() == "[] 1"
    server.wait_for(lambda: server.open_connections == 0)
    assert len(server.requests) == 100 or ending == "abandon-call"


@pytest.mark.engine
def test_event_loops_with_open_streams_share_one_engine(tmp_path: Path) -> None:
    """The streams are not read to their end, and outlive their loops. Nothing is printed."""
    source = """
    model, kept = local(), []

    async def main():
        kept.append(model.agenerate_stream(QUESTION, **LONG))
        await anext(kept[-1])

    for i in range(8):
        asyncio.run(main())
    say("Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).content)
    """
    with Script(tmp_path, source, BACKEND="local") as script:
        assert script.finish() == "True"


def test_sync_call_inside_a_running_loop_works(server: FaultServer) -> None:
    """Such as in a notebook, whose cells run in a loop."""
    with OpenAIServerModel("m", server.base_url, "k") as model:

        async def cell() -> None:
            assert model.generate("hello").content == RESPONSE
            assert text_of(model.generate_stream("hello")) == RESPONSE
            assert (await model.agenerate("hello")).content == RESPONSE
            assert model("hello").content == RESPONSE

        asyncio.run(cell())
    assert server.connections_opened == 2


def test_sync_call_on_the_loop_thread_raises(server: FaultServer) -> None:
    """The call would wait for itself."""

    class Nested(Model):
        def __init__(self, inner: Model) -> None:
            super().__init__("nested")
            self.inner = inner

        async def deltas(self, request: Any) -> Any:
            with self.inner.generate_stream("hello") as stream:
                for _ in range(2):  # A second try does not wait either.
                    with pytest.raises(RuntimeError, match="agenerate"):
                        next(stream)
            yield self.inner.generate("hello")

    with OpenAIServerModel("m", server.base_url, "k") as inner:
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"modelport's own loop thread.*agenerate") as raised:
            Nested(inner).generate("hello")
        assert isinstance(raised.value.__cause__, RuntimeError)
        assert time.monotonic() - start < SOON
    assert server.requests == []


def test_call_runs_in_the_callers_context(server: FaultServer) -> None:
    """With `deltas` and with an own `generate`, in all four methods."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="default")
    seen: list[str] = []

    class Backend(Model):
        async def deltas(self, request: Any) -> Any:
            seen.append(variable.get())
            yield ChatMessageStreamDelta(content="x")

    class OwnGenerate(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            seen.append(variable.get())
            return ChatMessage("assistant", "x")

    variable.set("caller's")
    for model in (Backend(), OwnGenerate()):
        model.generate("hello")
        list(model.generate_stream("hello"))

        async def calls(model: Model = model) -> None:
            await model.agenerate("hello")
            async for _ in model.agenerate_stream("hello"):
                pass

        asyncio.run(calls())
    assert seen == ["caller's"] * 8


def test_error_of_a_sync_call_keeps_its_cause(server: FaultServer) -> None:
    """The call raises the error itself in the caller's thread."""
    server.script([Fault.cut("reset")])
    with OpenAIServerModel("m", server.base_url, "k") as model, pytest.raises(ModelError) as caught:
        list(model.generate_stream("hello"))
    assert caught.value.__cause__ is not None
