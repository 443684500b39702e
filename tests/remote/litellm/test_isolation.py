"""HTTP clients and callbacks, which LiteLLM shares within the process, are separate for each model and event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from modelport import LiteLLMModel
from modelport.remote.litellm.package import litellm_package
from tests.remote.litellm.helpers import RecordingCallback, success_callback
from tests.remote.matrix import ANSWER
from tests.remote.matrix_runner import KEY, model_for
from tests.servers.faults import Fault, FaultServer, Recorded

BACKENDS = ("litellm", "litellm-router", "litellm-http", "litellm-anthropic")


def _anthropic_event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


class AnthropicFault(Fault):
    """A response of Anthropic's API. See https://docs.claude.com/en/docs/build-with-claude/streaming"""

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        usage = {"input_tokens": 5, "output_tokens": 1}
        message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": None, "usage": usage}
        if not request.stream:
            text = {"type": "text", "text": ANSWER}
            return False, [json.dumps(message | {"content": [text], "stop_reason": "end_turn"}).encode()]
        pieces = [ANSWER[start : start + 8] for start in range(0, len(ANSWER), 8)]
        return True, [
            _anthropic_event("message_start", message=message | {"content": []}),
            _anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *(
                _anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
                for piece in pieces
            ),
            _anthropic_event("content_block_stop", index=0),
            _anthropic_event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage),
            _anthropic_event("message_stop"),
        ]


class AnthropicServer(FaultServer):
    """A server with the path of Anthropic's API."""

    paths = ("/v1/messages",)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(backend: str) -> Iterator[FaultServer]:
    anthropic = backend == "litellm-anthropic"
    with AnthropicServer() if anthropic else FaultServer() as server:
        server.script(then=(AnthropicFault() if anthropic else Fault()).replace(pace_s=0.05))
        yield server


@pytest.fixture
def make(server: FaultServer, backend: str) -> Callable[[], Any]:
    """Make a model of the backend."""
    litellm_package()  # On a busy machine, the import takes longer than the models' time-out.

    def make() -> Any:
        if backend == "litellm-anthropic":
            return LiteLLMModel("anthropic/claude-sonnet-4-5", server.url, KEY, timeout=20)
        return model_for(server, backend)

    return make


def text_of(model: Any) -> str:
    return str(model.generate("hello").content)


def streamed_text_of(model: Any) -> str:
    return "".join(delta.content or "" for delta in model.generate_stream("hello"))


async def read_text(stream: AsyncIterator[Any]) -> str:
    return "".join([delta.content or "" async for delta in stream])


def test_concurrent_streams_on_several_loops_are_read_completely(server: FaultServer, make: Callable[[], Any]) -> None:
    """LiteLLM itself has one client for Anthropic's streams: a call on one loop closes what another loop reads."""
    model = make()
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(lambda: asyncio.run(read_text(model.agenerate_stream("hello")))) for _ in range(6)]
        futures += [threads.submit(streamed_text_of, model) for _ in range(3)]
        assert [future.result(30) for future in futures] == [ANSWER] * 9
    model.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_close_closes_the_models_connections_and_no_others(server: FaultServer, make: Callable[[], Any]) -> None:
    one, other = make(), make()
    for model in (one, other):
        assert text_of(model) == ANSWER
    one.close()
    server.wait_for(lambda: server.open_connections == 1)
    assert text_of(other) == ANSWER
    assert server.requests[-1].connection == server.requests[1].connection
    other.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_stream_continues_while_another_model_is_closed(server: FaultServer, make: Callable[[], Any]) -> None:
    one, other = make(), make()
    assert streamed_text_of(one) == ANSWER
    stream = other.generate_stream("hello")
    first = next(delta.content for delta in stream if delta.content)
    one.close()
    server.wait_for(lambda: server.open_connections <= 1)
    assert first + "".join(delta.content or "" for delta in stream) == ANSWER
    other.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_clients_that_litellms_cache_has_replaced_are_closed_too(server: FaultServer, make: Callable[[], Any]) -> None:
    """LiteLLM's cache makes new clients after an hour, and closes the old ones a quarter of an hour later."""
    model = make()
    model.generate("hello")
    gc.disable()
    try:
        for isolation, _ in model._isolations._entries.values():
            cache = isolation._cache
            cache.ttl_dict = dict.fromkeys(cache.ttl_dict, 0.0)
            cache.expiration_heap = [(0.0, key) for _, key in cache.expiration_heap]
        model.generate("hello")
        assert server.requests[0].connection != server.requests[1].connection
        model.close()
        server.wait_for(lambda: server.open_connections == 0)
    finally:
        gc.enable()


def test_users_own_litellm_call_continues_when_a_model_is_closed() -> None:
    with FaultServer() as server:
        server.script(then=Fault().replace(pace_s=0.05))

        async def run() -> str:
            arguments = {"api_base": server.base_url, "api_key": KEY, "stream": True}
            stream = await litellm_package().acompletion("openai/m", [{"role": "user", "content": "hi"}], **arguments)
            model = LiteLLMModel("openai/m", server.base_url, KEY)
            await model.agenerate("hello")
            await model.aclose()
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert asyncio.run(run()) == ANSWER


def test_cancelled_call_leaves_no_coroutine_that_was_never_awaited(make: Callable[[], Any]) -> None:
    """LiteLLM makes the request's coroutine in a thread, and nobody awaits it if the call has been cancelled."""
    model = make()

    async def cancel_after(seconds: float) -> None:
        task = asyncio.create_task(model.agenerate("hello"))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])

    async def run() -> None:
        await model.agenerate("hello")
        for milliseconds in range(20):
            await asyncio.gather(*(cancel_after(milliseconds / 1000) for _ in range(4)))
        await model.aclose()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(one.message) for one in caught if "never awaited" in str(one.message)] == []


def test_users_client_session_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(url: str) -> bool:
        async with httpx.AsyncClient() as session:
            monkeypatch.setattr(litellm_package(), "aclient_session", session)
            model = LiteLLMModel("openai/m", url, KEY)
            await model.agenerate("hello")
            await model.aclose()
            return not session.is_closed

    with FaultServer() as server:
        assert asyncio.run(run(server.base_url))


# --- callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["litellm"])
def test_callback_is_called_although_its_loop_ends_with_the_call(make: Callable[[], Any]) -> None:
    callback = RecordingCallback()
    with success_callback(callback):
        asyncio.run(make().agenerate("hello"))
        assert callback.models == ["m"]


@pytest.mark.parametrize("backend", ["litellm"])
def test_close_waits_for_callbacks(make: Callable[[], Any]) -> None:
    callback = RecordingCallback(seconds=0.3)
    with success_callback(callback):
        model = make()
        model.generate("hello")
        model.close()
        assert callback.models == ["m"]


@pytest.mark.parametrize("backend", ["litellm", "litellm-router"])
def test_callbacks_on_several_loops_at_once_are_called_and_leave_no_task(
    make: Callable[[], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """LiteLLM's own task for callbacks fails, or is left behind, when the loop changes, and asyncio reports it."""
    model, callback = make(), RecordingCallback()

    barrier = threading.Barrier(2)

    async def call_five_times(closes: bool) -> int:
        for _ in range(5):
            await model.agenerate("hello")
        await asyncio.to_thread(barrier.wait, 30)
        if closes:
            await model.aclose()  # Also what the other loop has.
        await asyncio.to_thread(barrier.wait, 30)
        return len(asyncio.all_tasks())

    with success_callback(callback), ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(asyncio.run, call_five_times(closes)) for closes in (True, False)]
        assert [future.result(60) for future in futures] == [1, 1]
    assert callback.models == ["m"] * 10
    assert capfd.readouterr().err == ""
