"""Models that call models: no call waits for a thread that another call holds."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from modelport import ChatMessage, Model, OpenAIServerModel
from tests.runtime.calls import RESPONSE, text_of
from tests.servers.faults import OK, FaultServer

pytestmark = pytest.mark.timeout(120)


class Innermost(Model):
    def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> ChatMessage:
        time.sleep(0.001)
        return ChatMessage("assistant", "inner")


class CallsWithGenerate(Model):
    """A model with its own `generate`, which calls another model by one of the methods."""

    def __init__(self, inner: Model, method: str = "sync") -> None:
        super().__init__("calls")
        self.inner, self.method = inner, method

    def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> ChatMessage:
        if self.method == "streamed":
            return ChatMessage("assistant", text_of(self.inner.generate_stream(messages)))
        if self.method == "async":

            async def many() -> list[ChatMessage]:
                return await asyncio.gather(*(self.inner.agenerate(messages) for _ in range(4)))

            return asyncio.run(many())[-1]
        return self.inner.generate(messages)


class CallsWithDeltas(Model):
    """A backend whose `deltas` read another model."""

    def __init__(self, inner: Model) -> None:
        super().__init__("calls")
        self.inner = inner

    async def deltas(self, request: Any) -> Any:
        async with self.inner.agenerate_stream(list(request.messages)) as stream:
            async for delta in stream:
                yield delta


@pytest.mark.parametrize(
    "model",
    [
        CallsWithGenerate(Innermost()),
        CallsWithGenerate(CallsWithGenerate(CallsWithGenerate(Innermost()), "streamed")),
        CallsWithGenerate(Innermost(), "async"),
        CallsWithDeltas(CallsWithGenerate(CallsWithDeltas(Innermost()))),
        CallsWithGenerate(CallsWithDeltas(CallsWithGenerate(Innermost(), "streamed")), "async"),
    ],
    ids=["sync", "deep", "async", "relayed", "mixed"],
)
def test_nested_models_under_load_wait_for_no_thread(model: Model) -> None:
    """Twelve threads make sync calls, and one event loop 64 calls at once."""
    failures: list[BaseException] = []

    def calls() -> None:
        try:
            for _ in range(5):
                assert model.generate("hello").content == "inner"
                assert text_of(model.generate_stream("hello")) == "inner"
        except BaseException as error:
            failures.append(error)

    async def fan_out() -> set[str | None]:
        messages = await asyncio.gather(*(model.agenerate("hello") for _ in range(64)))
        return {str(message.content) for message in messages}

    threads = [threading.Thread(target=calls, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert asyncio.run(asyncio.wait_for(fan_out(), 30)) == {"inner"}
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


def test_twelve_event_loops_with_fan_outs_complete() -> None:
    model, responses = CallsWithGenerate(CallsWithGenerate(Innermost())), []

    async def fan_out() -> None:
        responses.extend(await asyncio.gather(*(model.agenerate("hello") for _ in range(64))))

    threads = [threading.Thread(target=lambda: asyncio.run(fan_out()), daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(responses) == 12 * 64
    assert {message.content for message in responses} == {"inner"}


def test_nested_remote_model_shares_its_connections_between_threads(server: FaultServer) -> None:
    """Twelve threads use one pool of connections."""
    server.script(then=OK.replace(delay_s=0.01))
    responses: list[str] = []
    with OpenAIServerModel("m", server.base_url, "k") as inner:
        model = CallsWithGenerate(inner, "streamed")

        def calls() -> None:
            responses.extend(str(model.generate("hello").content) for _ in range(5))

        threads = [threading.Thread(target=calls, daemon=True) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert responses == [RESPONSE] * 60
    assert server.connections_opened <= 12
