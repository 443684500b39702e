"""Backends of other authors: exceptions that are no `ModelError`, and methods that can't work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport import ChatMessageStreamDelta, FallbackModel, Model, Request
from modelport.errors import ConnectionFailed, MalformedResponse, ModelError, ServerError, StreamInterrupted
from modelport.layers.retry import RetryPolicy
from modelport.testing import ScriptedModel

Delta = ChatMessageStreamDelta


class ClientError(Exception):
    """An exception of an HTTP client that modelport does not know."""


class Backend(Model):
    """Yields some deltas, then raises; and counts its requests."""

    def __init__(self, error: Callable[[], Any], deltas: tuple[Any, ...] = (), **settings: Any) -> None:
        super().__init__("m", **{"retry": RetryPolicy(base=0), **settings})
        self.error, self.before, self.requests = error, deltas, 0

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests += 1
        for delta in self.before:
            yield delta
        self.error()


def raise_(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


CALLS: dict[str, Callable[[Model], Any]] = {
    "sync": lambda model: model.generate("?"),
    "streamed": lambda model: list(model.generate_stream("?")),
    "async": lambda model: asyncio.run(model.agenerate("?")),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("work", "expected", "cause", "attempts"),
    [
        (lambda: json.loads("{broken"), MalformedResponse, json.JSONDecodeError, 1),
        (lambda: json.loads("{}")["choices"], MalformedResponse, KeyError, 1),
        (lambda: json.loads("[]")[0], MalformedResponse, IndexError, 1),
        (lambda: len(5), MalformedResponse, TypeError, 1),  # type: ignore[arg-type]
        (raise_(ConnectionResetError("gone")), ConnectionFailed, ConnectionResetError, 3),
        (raise_(TimeoutError()), ConnectionFailed, TimeoutError, 3),
        (raise_(ClientError("refused")), ServerError, ClientError, 3),
        (lambda: undefined, ModelError, NameError, 1),  # type: ignore[name-defined]  # noqa: F821
    ],
    ids=["JSON", "KeyError", "IndexError", "TypeError", "OSError", "TimeoutError", "of a package", "NameError"],
)
def test_exception_of_a_backend_becomes_a_model_error_with_its_cause(
    call: Callable[[Model], Any], work: Callable[[], Any], expected: type[ModelError], cause: type, attempts: int
) -> None:
    model = Backend(work)
    with pytest.raises(ModelError) as raised:
        call(model)
    assert (type(raised.value), type(raised.value.__cause__)) == (expected, cause)
    assert f"Backend.deltas raised {cause.__name__}" in str(raised.value)
    assert model.requests == attempts


def test_exception_in_mid_stream_interrupts_it_with_what_had_arrived() -> None:
    model = Backend(raise_(ClientError("gone")), (Delta(content="Par"),))
    with pytest.raises(StreamInterrupted) as raised:
        list(model.generate_stream("?"))
    assert raised.value.partial is not None and raised.value.partial.content == "Par"
    assert isinstance(raised.value.__cause__, ServerError) and isinstance(raised.value.__cause__.__cause__, ClientError)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("delta", ["Paris", {"content": "Paris"}, b"Paris"], ids=["str", "dict", "bytes"])
@pytest.mark.parametrize("options", [{}, {"stop_sequences": ["END"]}], ids=["plain", "stop"])
def test_backend_that_yields_text_raises_what_to_yield(
    call: Callable[[Model], Any], delta: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"Backend\.deltas yields \w+: .*yield ChatMessageStreamDelta\(content="):
        call(Backend(lambda: None, (delta,), **options))


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_deltas_that_returns_something_else_raises_what_to_write(call: Callable[[Model], Any]) -> None:
    class ListBackend(Model):
        def deltas(self, request: Request) -> Any:
            return [Delta(content="Paris")]

    with pytest.raises(ModelError, match=r"ListBackend\.deltas returns no asynchronous generator: write `async def"):
        call(ListBackend("m"))


def test_class_whose_deltas_never_yields_or_is_not_async_is_refused() -> None:
    with pytest.raises(TypeError, match=r"NeverYields\.deltas never yields: write `async def deltas"):

        class NeverYields(Model):
            async def deltas(self, request: Request) -> Any:  # type: ignore[override]
                return Delta(content="Paris")

    with pytest.raises(TypeError, match=r"NotAsync\.deltas is not asynchronous: write `async def deltas"):

        class NotAsync(Model):
            def deltas(self, request: Request) -> Any:
                yield Delta(content="Paris")


def test_own_generate_raises_its_own_exceptions() -> None:
    class Own(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            raise ClientError("mine")

    with pytest.raises(ClientError):
        Own("m").generate("?")
    with pytest.raises(ClientError):
        FallbackModel([Own("m")]).generate("?")


@pytest.mark.parametrize(
    ("error", "fallback_on"),
    [(ClientError("gone"), None), (NameError("typo"), (NameError,)), (ClientError("gone"), (ClientError,))],
    ids=["by default", "by the cause's type", "by a package's type"],
)
def test_fallback_after_an_exception_of_a_backend(error: Exception, fallback_on: Any) -> None:
    model = FallbackModel([Backend(raise_(error), retry=False), ScriptedModel("Paris")], fallback_on=fallback_on)
    assert model.generate("?").content == "Paris"
