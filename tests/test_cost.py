"""The cost of the hot paths, measured in function calls of Python and C, which do not depend on the machine's load.

`python benchmarks/remote.py` measures the same paths in time. A change that exceeds a bound must state its reason if it
raises the bound.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelport import Capabilities, Model, OpenAIServerModel
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.http.requests import to_json
from modelport.remote.http.responses import EventReader

STOPS = ["Observation:"]
LIMITS: dict[str, Any] = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "max_concurrency": 10**6}
CHUNK = b"data: " + json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
    "choices": [{"index": 0, "delta": {"content": " token"}, "logprobs": None, "finish_reason": None}],
}).encode() + b"\n\n"  # fmt: skip
LAST = CHUNK.replace(b'{"content": " token"}', b"{}").replace(b'"finish_reason": null', b'"finish_reason": "stop"')
COMPLETE_RESPONSE = {
    "id": "1", "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}],
}  # fmt: skip


class ModelWithoutConnection(Model):
    """Everything that an OpenAI-compatible model does, except for the connection."""

    declared_capabilities = Capabilities(tools=True, usage=True, extra_parameters=frozenset({"chunks"}))

    async def deltas(self, request: Any) -> Any:
        to_json(body_from(request, "m"))
        reader = ChatResponseReader()
        if not request.stream:
            yield reader.read_response(COMPLETE_RESPONSE)
            return
        events = EventReader(reader.read_chunk, ())
        events.feed(CHUNK * self.kwargs["chunks"] + LAST)
        for piece in events.events():
            if piece is not None:
                yield piece
        yield reader.finish()


def count_calls(work: Callable[[], Any]) -> int:
    """Return how many functions `work` calls."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    work()  # This makes what is made once.
    gc.collect()
    gc.disable()  # A collection would call what objects of other tests and libraries have registered for it.
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def run_without_loop(awaitable: Any) -> Any:
    """Run a coroutine that waits for nothing."""
    try:
        while True:
            awaitable.send(None)
    except StopIteration as end:
        return end.value


@pytest.fixture
def run_in_loop() -> Any:
    """Run work as a task does, without the function calls of the loop itself."""

    def run(work: Callable[[], int]) -> int:
        async def main() -> int:
            return work()

        return asyncio.run(main())

    return run


def conversation(count: int) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 else "assistant", "content": "x" * 1000} for i in range(count)]


def call_cost(run_in_loop: Any, messages: Any, **settings: Any) -> int:
    model = ModelWithoutConnection("m", **LIMITS, **settings)
    return run_in_loop(lambda: count_calls(lambda: run_without_loop(model.agenerate(messages, STOPS))))  # type: ignore[no-any-return]


async def _read(stream: Any) -> int:
    return sum([1 async for _ in stream])


def stream_cost(run_in_loop: Any, chunks: int, **settings: Any) -> int:
    model = ModelWithoutConnection("m", chunks=chunks, **LIMITS, **settings)
    return run_in_loop(lambda: count_calls(lambda: run_without_loop(_read(model.agenerate_stream("hello", STOPS)))))  # type: ignore[no-any-return]


def test_call_makes_a_bounded_number_of_function_calls(run_in_loop: Any) -> None:
    assert call_cost(run_in_loop, "hello") <= CALLS_OF_A_CALL


def test_message_of_a_long_conversation_makes_a_bounded_number_of_function_calls(run_in_loop: Any) -> None:
    """Every further message costs the same."""
    few, more, many = (call_cost(run_in_loop, conversation(count)) for count in (10, 110, 1010))
    assert (more - few) / 100 <= CALLS_OF_A_MESSAGE
    assert (many - more) / 900 <= CALLS_OF_A_MESSAGE


def test_chunk_makes_a_bounded_number_of_function_calls(run_in_loop: Any) -> None:
    few, many = stream_cost(run_in_loop, 10), stream_cost(run_in_loop, 1010)
    assert (many - few) / 1000 <= CALLS_OF_A_CHUNK


@pytest.mark.server  # It sends nothing, but needs the openai package.
def test_chunk_through_a_callers_client_makes_a_bounded_number_of_function_calls() -> None:
    """With a key of 128 characters, which once was searched for in every chunk, after the chunk was parsed twice."""
    import httpx
    import openai

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for _ in range(chunks):
                yield CHUNK
            yield LAST + b"data: [DONE]\n\n"

    def respond(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Body())

    async def read() -> None:
        assert await _read(model.agenerate_stream("hello")) > chunks

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    client = openai.AsyncOpenAI(api_key="sk-" + "a1B2c" * 25, base_url="http://localhost/v1", http_client=http_client)
    model = OpenAIServerModel("m", client=client)
    chunks = 10
    few = count_calls(lambda: asyncio.run(read()))
    chunks = 510
    many = count_calls(lambda: asyncio.run(read()))
    assert few <= CALLS_OF_A_STREAM_OF_A_CALLERS_CLIENT
    assert (many - few) / 500 <= CALLS_OF_A_CHUNK_OF_A_CALLERS_CLIENT


def test_full_window_of_a_limit_adds_no_function_calls(run_in_loop: Any) -> None:
    model = ModelWithoutConnection("m", **LIMITS)

    def one() -> None:
        run_without_loop(model.agenerate("hello"))

    def both() -> int:
        first = count_calls(one)
        for _ in range(2000):
            one()
        return count_calls(one) - first

    assert run_in_loop(both) <= 5


def test_chunk_allocates_a_bounded_amount_of_memory(run_in_loop: Any) -> None:
    """A stream stores only the text of a chunk."""

    def allocated() -> int:
        model = ModelWithoutConnection("m", chunks=5000)
        stream = model.agenerate_stream("hello", STOPS)
        run_without_loop(_read(stream))
        tracemalloc.start()
        other = model.agenerate_stream("hello", STOPS)
        before = tracemalloc.get_traced_memory()[0]
        run_without_loop(_read(other))
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert other.message.content == " token" * 5000
        return after - before

    assert run_in_loop(allocated) / 5000 <= BYTES_OF_A_CHUNK


def modules_loaded_by(code: str) -> set[str]:
    """Return the modules that a bare interpreter has loaded after this code. No third-party module can be imported."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1] / 'src')!r})\n{code}\nprint(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


#: Modules of the standard library that take long to import, or that only some programs need.
EXPENSIVE_MODULES = {
    "asyncio", "concurrent.futures", "ctypes", "email", "http", "importlib.metadata", "logging", "multiprocessing",
    "pickle", "socket", "sqlite3", "ssl", "subprocess", "unittest", "urllib.request", "xml",
}  # fmt: skip


def test_import_loads_no_expensive_module() -> None:
    """And no third-party module, because none can be imported here. `benchmarks/import_time.py` measures the time."""
    loaded = modules_loaded_by("from modelport import Model, ChatMessage")
    assert loaded & EXPENSIVE_MODULES == set()
    foreign = {name.partition(".")[0] for name in loaded - modules_loaded_by("")} - sys.stdlib_module_names
    assert foreign == {"modelport"}


def test_constructor_does_not_import_asyncio() -> None:
    code = """
from modelport import Model, RetryPolicy
class Mine(Model):
    async def deltas(self, request):
        yield
Mine("m", retry=RetryPolicy(2), max_concurrency=3)
"""
    assert "asyncio" not in modules_loaded_by(code)


# Counted on Python 3.11; later versions make fewer calls.
# A call registers, so that `close` can end it, and counts in the window from the beginning of its response: 20 calls.
CALLS_OF_A_CALL = 320
CALLS_OF_A_MESSAGE = 17
CALLS_OF_A_CHUNK = 46
CALLS_OF_A_CHUNK_OF_A_CALLERS_CLIENT = 60
CALLS_OF_A_STREAM_OF_A_CALLERS_CLIENT = 4200
BYTES_OF_A_CHUNK = 100
