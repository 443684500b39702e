"""Layers of callers: `model.with_layers(…)`."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from dataclasses import replace
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageStreamDelta, DeadlineExceeded, FallbackModel, Model, ServerError
from modelport.backend import Deltas, Next, Request
from modelport.testing import ScriptedModel


async def shout(request: Request, next: Next) -> Deltas:
    async for delta in next(request):
        yield replace(delta, content=delta.content and delta.content.upper())


async def add_mark(request: Request, next: Next) -> Deltas:
    async for delta in next(request):
        yield replace(delta, content=delta.content and delta.content + "!a")


def with_temperature(request: Request, next: Next) -> Deltas:
    return next(request.replace(parameters={**request.parameters, "temperature": 0.5}))


def test_layer_changes_the_response_of_every_method() -> None:
    model = ScriptedModel("Paris", repeat=True).with_layers(shout)
    assert model("?").text == model.generate("?").text == "PARIS"
    with model.generate_stream("?") as stream:
        assert "".join(delta.content or "" for delta in stream) == "PARIS"

    async def both() -> tuple[str, str]:
        async with model.agenerate_stream("?") as deltas:
            async for _ in deltas:
                pass
        return (await model.agenerate("?")).text, deltas.message.text

    assert asyncio.run(both()) == ("PARIS", "PARIS")


def test_layer_that_returns_next_changes_the_request() -> None:
    model = ScriptedModel("Paris")
    assert model.with_layers(with_temperature)("?", seed=1).text == "Paris"
    assert model.requests[0].parameters == {"temperature": 0.5, "seed": 1}


def test_layers_run_from_the_outermost_to_the_innermost() -> None:
    assert ScriptedModel("x").with_layers(shout, add_mark)("?").text == "X!A"
    assert ScriptedModel("x").with_layers(add_mark, shout)("?").text == "X!a"
    assert ScriptedModel("x").with_layers(add_mark).with_layers(shout)("?").text == "X!A"


def test_layer_sees_one_call_though_it_is_retried() -> None:
    seen: list[Request] = []

    def count(request: Request, next: Next) -> Deltas:
        seen.append(request)
        return next(request)

    model = ScriptedModel(ServerError("busy", retry_after=0), "Paris").with_layers(count)
    assert model("?").text == "Paris" and len(seen) == 1


def test_original_is_unchanged_and_shares_its_state() -> None:
    model = ScriptedModel("a", "b", "c", requests_per_minute=100, temperature=0.2)
    layered = model.with_layers(shout)
    assert type(layered) is ScriptedModel and layered is not model
    assert (model("?").text, layered("?").text, model("?").text) == ("a", "B", "c")
    assert layered.requests is model.requests and len(model.requests) == 3
    assert layered._chain is model._chain  # So both count their requests in one window.
    assert (layered.model_id, layered.capabilities, repr(layered)) == ("scripted", model.capabilities, repr(model))


def test_model_within_a_fallback_model_runs_its_layers() -> None:
    first = ScriptedModel(ServerError("down", retryable=False)).with_layers(shout)
    second = ScriptedModel("Paris").with_layers(add_mark)
    assert FallbackModel([first, second]).with_layers(shout)("?").text == "PARIS!A"


def test_pickled_model_keeps_its_layers() -> None:
    model = pickle.loads(pickle.dumps(ScriptedModel("Paris", "Rome").with_layers(shout, with_temperature)))
    assert model("?").text == "PARIS"
    assert model.requests[0].parameters == {"temperature": 0.5}
    assert pickle.loads(pickle.dumps(ScriptedModel("Rome")))("?").text == "Rome"


def test_to_dict_refuses_layers() -> None:
    with pytest.raises(TypeError, match=r"has layers from with_layers, which can't be stored: add them after"):
        ScriptedModel("x").with_layers(shout).to_dict()


def test_error_of_a_layer_reaches_the_caller_unchanged() -> None:
    async def broken(request: Request, next: Next) -> Deltas:
        raise ZeroDivisionError("mine")
        yield

    with pytest.raises(ZeroDivisionError, match="mine"):
        ScriptedModel("x").with_layers(broken)("?")


class Recorded(Model):
    """A backend that records when its generator is closed."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("recorded", **settings)
        self.log: list[str] = []

    async def deltas(self, request: Request) -> Deltas:
        try:
            for word in ("one ", "two ", "three"):
                yield ChatMessageStreamDelta(content=word)
            yield ChatMessageStreamDelta(finish_reason="stop")
        finally:
            await asyncio.sleep(0)
            self.log.append("closed")


async def pass_on(request: Request, next: Next) -> Deltas:
    async for delta in next(request):
        yield delta


@pytest.mark.parametrize("layers", [(pass_on,), (pass_on, pass_on), (pass_on, shout, pass_on)], ids=len)
def test_backend_is_closed_when_the_caller_stops_reading(layers: tuple[Any, ...]) -> None:
    model = Recorded()

    async def read_one() -> None:
        async with model.with_layers(*layers).agenerate_stream("?") as stream:
            async for _ in stream:
                break
        assert model.log == ["closed"]

    asyncio.run(read_one())
    with model.with_layers(*layers).generate_stream("?") as stream:
        next(stream)
    assert model.log == ["closed"] * 2


def test_layer_that_raises_leaves_no_slot_taken() -> None:
    async def budget(request: Request, next: Next) -> Deltas:
        deltas = next(request)  # The traceback of the error keeps this variable alive.
        async for delta in deltas:
            yield delta
            raise ZeroDivisionError("too much")

    model = Recorded(max_concurrency=1)
    with pytest.raises(ZeroDivisionError) as raised, model.with_layers(budget).generate_stream("?") as stream:
        list(stream)
    assert model.log == ["closed"]
    assert model("?", timeout=5).text == "one two three"
    assert raised.value


@pytest.mark.parametrize("when", ["before", "after"])
def test_time_limit_of_the_call_includes_layers(when: str) -> None:
    async def slow(request: Request, next: Next) -> Deltas:
        if when == "before":
            await asyncio.sleep(60)
        async for delta in next(request):
            yield delta
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceeded, match=r"timeout=0\.2 s ran out"):
        Recorded().with_layers(slow)("?", timeout=0.2)


def test_backend_sees_itself_without_layers_whichever_object_calls_first() -> None:
    class Nested(Recorded):
        async def deltas(self, request: Request) -> Deltas:
            if request.messages[0].text == "outer":
                yield ChatMessageStreamDelta(content=(await self.agenerate("inner")).text, finish_reason="stop")
            else:
                yield ChatMessageStreamDelta(content="deep", finish_reason="stop")

    model = Nested()
    assert model.with_layers(add_mark)("outer").text == "deep!a"
    assert model("outer").text == "deep"


def test_collected_copy_does_not_close_the_original() -> None:
    class Closing(Recorded):
        is_open = True

        def __del__(self) -> None:
            self.is_open = False

    model = Closing()
    model.with_layers(pass_on)("?")
    gc.collect()
    assert model.is_open


def test_copied_model_has_a_state_of_its_own() -> None:
    layered = Recorded().with_layers(shout)
    twin = copy.copy(layered)
    twin.model_id = "other"
    assert (layered.model_id, twin("?").text, copy.copy(Recorded())("?").text) == (
        "recorded", "ONE TWO THREE", "one two three",
    )  # fmt: skip


def test_slots_of_a_subclass_are_shared() -> None:
    class Slotted(Recorded):
        __slots__ = ("extra",)

        async def deltas(self, request: Request) -> Deltas:
            yield ChatMessageStreamDelta(content=self.extra, finish_reason="stop")  # type: ignore[attr-defined]

    model = Slotted()
    model.extra = "x"  # type: ignore[attr-defined]
    assert model.with_layers(shout)("?").text == "X"


def test_class_that_makes_its_objects_itself_has_no_layers() -> None:
    class Own(Recorded):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return object.__new__(cls)

    assert Own()("?").text == "one two three" and Own().to_dict()["class"] == "Own"
    assert Own().with_layers(shout)("?").text == "ONE TWO THREE"


async def no_generator(request: Any, next: Any) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("layer", "error"),
    [(5, "takes callables"), (no_generator, "contains `yield`, or returns")],
    ids=["no callable", "no generator"],
)
def test_with_layers_refuses_what_is_no_layer(layer: Any, error: str) -> None:
    with pytest.raises(TypeError, match=error):
        ScriptedModel("x").with_layers(layer)


def test_with_layers_refuses_a_model_with_its_own_generate() -> None:
    class Own(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
            return ChatMessage("assistant", "x")

    with pytest.raises(TypeError, match=r"Own implements `generate`, around which layers have no effect"):
        Own().with_layers(shout)
