"""What the hot paths cost, counted: calls of functions, Python's and C's, which nothing else on the machine changes.

`python benchmarks/remote.py` says what that is in time. Each bound stands a little above what is counted today; what
pushes a path over it raises the bound only with its reason.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelport import Capabilities, Model
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.http.requests import to_json
from modelport.remote.http.responses import EventReader
from modelport.types.deltas import accumulate

STOPS = ["Observation:"]
LIMITS: dict[str, Any] = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "max_concurrency": 10**6}
CHUNK = b"data: " + json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
    "choices": [{"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}],
}).encode() + b"\n\n"  # fmt: skip
LAST = CHUNK.replace(b'{"content": " token"}', b"{}").replace(b'"finish_reason": null', b'"finish_reason": "stop"')
WHOLE = {
    "id": "1", "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}],
}  # fmt: skip


class Wireless(Model):
    """All that an OpenAI-compatible model does, but for the connection."""

    declared_capabilities = Capabilities(tools=True, usage=True)

    async def deltas(self, request: Any) -> Any:
        to_json(body_from(request, "m", self.capabilities))
        reader = ChatResponseReader()
        if not request.stream:
            yield reader.read_response(WHOLE)
            return
        events = EventReader(())
        events.feed(CHUNK * self.kwargs["chunks"] + LAST)
        for event in events.events():
            if (piece := reader.read_chunk(event)) is not None:
                yield piece
        yield reader.finish()


def counted(work: Callable[[], Any]) -> int:
    """How many functions `work` calls."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()  # what is made once is made by now
    gc.collect()
    gc.disable()  # a collection calls whatever other tests' objects and libraries have registered for it
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def drive(awaitable: Any) -> Any:
    """Runs a coroutine that waits for nothing."""
    try:
        while True:
            awaitable.send(None)
    except StopIteration as end:
        return end.value


@pytest.fixture
def in_a_loop() -> Any:
    """Runs work as a task does, without a loop's own calls being counted."""
    import asyncio

    def run(work: Callable[[], int]) -> int:
        async def main() -> int:
            return work()

        return asyncio.run(main())

    return run


def conversation(count: int) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 else "assistant", "content": "x" * 1000} for i in range(count)]


def call_cost(in_a_loop: Any, messages: Any, **settings: Any) -> int:
    model = Wireless("m", **LIMITS, **settings)
    return in_a_loop(lambda: counted(lambda: drive(model.agenerate(messages, STOPS))))  # type: ignore[no-any-return]


async def _read(stream: Any) -> int:
    return sum([1 async for _ in stream])


def stream_cost(in_a_loop: Any, chunks: int, **settings: Any) -> int:
    model = Wireless("m", chunks=chunks, **LIMITS, **settings)
    return in_a_loop(lambda: counted(lambda: drive(_read(model.agenerate_stream("hello", STOPS)))))  # type: ignore[no-any-return]


def test_a_call(in_a_loop: Any) -> None:
    assert call_cost(in_a_loop, "hello") <= CALL


def test_a_message_of_a_long_conversation(in_a_loop: Any) -> None:
    """Each message more costs the same, and little."""
    few, more, many = (call_cost(in_a_loop, conversation(count)) for count in (10, 110, 1010))
    assert (more - few) / 100 <= MESSAGE
    assert (many - more) / 900 <= MESSAGE


def test_a_chunk(in_a_loop: Any) -> None:
    few, many = stream_cost(in_a_loop, 10), stream_cost(in_a_loop, 1010)
    assert (many - few) / 1000 <= CHUNK_CALLS


def test_limits_cost_the_same_in_a_full_window(in_a_loop: Any) -> None:
    model = Wireless("m", **LIMITS)

    def one() -> None:
        drive(model.agenerate("hello"))

    def both() -> int:
        first = counted(one)
        for _ in range(2000):
            one()
        return counted(one) - first

    assert in_a_loop(both) <= 5


def test_memory_of_a_chunk(in_a_loop: Any) -> None:
    """What a stream keeps of each chunk is its delta; nothing else stays."""

    def kept() -> int:
        model = Wireless("m", chunks=5000)
        stream = model.agenerate_stream("hello", STOPS)
        drive(_read(stream))
        tracemalloc.start()
        other = model.agenerate_stream("hello", STOPS)
        before = tracemalloc.get_traced_memory()[0]
        drive(_read(other))
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert accumulate(other._read).content == " token" * 5000
        return after - before

    assert in_a_loop(kept) / 5000 <= CHUNK_BYTES


def modules(code: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'src')!r})\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_modules_of_the_import() -> None:
    """No third-party module can be imported here at all."""
    loaded = modules("from modelport import Model, ChatMessage") - modules("")
    assert not loaded & {"asyncio", "ssl", "socket", "http", "email", "logging", "urllib.request", "pickle"}
    assert len(loaded) <= 80, sorted(loaded)


def test_no_asyncio_until_a_call_is_made() -> None:
    code = """
from modelport import {0}, RetryPolicy
class Mine(Model):
    async def deltas(self, request):
        yield
{1}
"""
    loaded = modules(code.format("Model", "Mine('m', retry=RetryPolicy(2), max_concurrency=3)"))
    assert "asyncio" not in loaded


# Counted on Python 3.11; later ones call less.
CALL = 325  # 310 until a place of max_concurrency was held by whatever works for the call: a weak set, a lock
MESSAGE = 17
CHUNK_CALLS = 47  # 44 until then: a context variable is set around each read
CHUNK_BYTES = 400
