"""What LiteLLM keeps for the process is kept here for each model and loop: clients, and callbacks that still run."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from modelport import LiteLLMModel
from modelport.remote.litellm.package import litellm_package
from tests.remote.matrix import ANSWER
from tests.remote.matrix_runner import KEY, model_for
from tests.servers.faults import Fault, FaultServer, Recorded

BACKENDS = ("litellm", "litellm-router", "litellm-http", "litellm-anthropic")


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


class Messages(Fault):
    """An answer in the form of Anthropic's API. See https://docs.claude.com/en/docs/build-with-claude/streaming"""

    def payload(self, request: Recorded) -> tuple[bool, list[bytes]]:
        usage = {"input_tokens": 5, "output_tokens": 1}
        message = {"id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": None, "usage": usage}
        if not request.stream:
            text = {"type": "text", "text": ANSWER}
            return False, [json.dumps(message | {"content": [text], "stop_reason": "end_turn"}).encode()]
        pieces = [ANSWER[start : start + 8] for start in range(0, len(ANSWER), 8)]
        return True, [
            _event("message_start", message=message | {"content": []}),
            _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
            *(_event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}) for piece in pieces),
            _event("content_block_stop", index=0),
            _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage),
            _event("message_stop"),
        ]


class Anthropic(FaultServer):
    """Anthropic's API."""

    paths = ("/v1/messages",)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(backend: str) -> Iterator[FaultServer]:
    anthropic = backend == "litellm-anthropic"
    with Anthropic() if anthropic else FaultServer() as server:
        server.script(then=(Messages() if anthropic else Fault()).replace(pace_s=0.05))
        yield server


@pytest.fixture
def make(server: FaultServer, backend: str) -> Callable[[], Any]:
    def make() -> Any:
        if backend == "litellm-anthropic":
            return LiteLLMModel("anthropic/claude-sonnet-4-5", server.url, KEY, timeout=20)
        return model_for(server, backend)

    return make


def _ask(model: Any, way: str) -> str:
    if way == "generate":
        return str(model.generate("hello").content)
    return "".join(delta.content or "" for delta in model.generate_stream("hello"))


async def _read(stream: AsyncIterator[Any]) -> str:
    return "".join([delta.content or "" async for delta in stream])


def test_streams_on_several_loops_at_once(server: FaultServer, make: Callable[[], Any]) -> None:
    """LiteLLM has one client for Anthropic's streams: a call on one loop closed what another loop was reading."""
    model = make()
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(lambda: asyncio.run(_read(model.agenerate_stream("hello")))) for _ in range(6)]
        jobs += [threads.submit(_ask, model, "generate_stream") for _ in range(3)]
        assert [job.result(30) for job in jobs] == [ANSWER] * 9
    model.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_a_model_that_closes_closes_its_connections_and_no_others(server: FaultServer, make: Callable[[], Any]) -> None:
    one, other = make(), make()
    for model in (one, other):
        assert _ask(model, "generate") == ANSWER
    one.close()
    server.wait_for(lambda: server.open_connections == 1)
    assert _ask(other, "generate") == ANSWER
    assert server.requests[-1].connection == server.requests[1].connection
    other.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_a_stream_goes_on_while_another_model_is_closed(server: FaultServer, make: Callable[[], Any]) -> None:
    one, other = make(), make()
    assert _ask(one, "generate_stream") == ANSWER
    stream = other.generate_stream("hello")
    first = next(delta.content for delta in stream if delta.content)
    one.close()
    server.wait_for(lambda: server.open_connections <= 1)
    assert first + "".join(delta.content or "" for delta in stream) == ANSWER
    other.close()
    server.wait_for(lambda: server.open_connections == 0)


def test_clients_that_litellm_replaces_by_itself_are_closed_too(server: FaultServer, make: Callable[[], Any]) -> None:
    """After an hour it makes new ones, and closes the old a quarter of an hour after that."""
    model = make()
    model.generate("hello")
    gc.disable()
    try:
        for kept, _ in model._kept._entries.values():
            kept._cache.ttl_dict = dict.fromkeys(kept._cache.ttl_dict, 0.0)
            kept._cache.expiration_heap = [(0.0, key) for _, key in kept._cache.expiration_heap]
        model.generate("hello")
        assert server.requests[0].connection != server.requests[1].connection
        model.close()
        server.wait_for(lambda: server.open_connections == 0)
    finally:
        gc.enable()


def test_a_users_own_calls_of_litellm_keep_theirs() -> None:
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


def test_a_call_left_at_once_leaves_nothing_that_was_never_awaited(make: Callable[[], Any]) -> None:
    """LiteLLM makes the request's coroutine in a thread, whose result nobody takes when the caller has left."""
    model = make()

    async def leave(seconds: float) -> None:
        task = asyncio.create_task(model.agenerate("hello"))
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.wait([task])

    async def run() -> None:
        await model.agenerate("hello")
        for milliseconds in range(20):
            await asyncio.gather(*(leave(milliseconds / 1000) for _ in range(4)))
        await model.aclose()

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(one.message) for one in said if "never awaited" in str(one.message)] == []


def test_a_session_of_the_users_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
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


@contextmanager
def called_back(seconds: float = 0.0) -> Iterator[list[str]]:
    """A callback of the user's, and whom it was called for."""
    litellm, told = litellm_package(), list[str]()

    async def note(kwargs: Any, response: Any, begin: Any, end: Any) -> None:
        await asyncio.sleep(seconds)
        told.append(kwargs["model"])

    litellm.success_callback.append(note)
    try:
        yield told
    finally:
        litellm.logging_callback_manager.remove_callback_from_list_by_object(
            litellm._async_success_callback, note, require_self=False
        )


@pytest.mark.parametrize("backend", ["litellm"])
def test_a_callback_is_called_though_its_loop_ends_with_the_call(make: Callable[[], Any]) -> None:
    with called_back() as told:
        asyncio.run(make().agenerate("hello"))
        assert told == ["m"]


@pytest.mark.parametrize("backend", ["litellm"])
def test_a_model_that_closes_waits_for_its_callbacks(make: Callable[[], Any]) -> None:
    with called_back(0.3) as told:
        model = make()
        model.generate("hello")
        model.close()
        assert told == ["m"]


@pytest.mark.parametrize("backend", ["litellm", "litellm-router"])
def test_callbacks_on_several_loops_at_once(make: Callable[[], Any], capfd: pytest.CaptureFixture[str]) -> None:
    """LiteLLM's one task for them failed at each change of loops, or was left behind, and asyncio said so."""
    model = make()

    async def calls() -> int:
        for _ in range(5):
            await model.agenerate("hello")
        await model.aclose()
        return len(asyncio.all_tasks())

    with called_back() as told, ThreadPoolExecutor(2) as threads:
        jobs = [threads.submit(asyncio.run, calls()) for _ in range(2)]
        assert [job.result(30) for job in jobs] == [1, 1]
    assert told == ["m"] * 10
    assert capfd.readouterr().err == ""
