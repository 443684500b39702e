"""`FallbackModel`: streams that are interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelport import ChatMessage, FallbackModel, ProviderData, accumulate
from modelport.errors import ConnectionFailed, ServerError, StreamInterrupted
from tests.combine.models import (
    END,
    INTERRUPTED,
    Delta,
    ReplayModel,
    agenerate,
    agenerate_stream,
    attempts_of,
    generate,
    generate_stream,
)


@pytest.mark.parametrize("call_method", [generate_stream, agenerate_stream])
def test_interrupted_stream_raises_with_the_partial_response(call_method: Any, hedge: Any) -> None:
    second = ReplayModel("second")
    with pytest.raises(StreamInterrupted) as raised:
        call_method(FallbackModel([ReplayModel("first", INTERRUPTED), second], hedge=hedge))
    assert (raised.value.partial.content, raised.value.partial.model_id) == ("The capi", "first")
    assert raised.value.model_id == "first"
    assert attempts_of(raised.value) == [("first", "ServerError: it broke")]
    assert second.call_count == 0


@pytest.mark.parametrize("stream", [False, True])
def test_restart_starts_the_response_anew_with_the_next_model(stream: bool, hedge: Any) -> None:
    model = FallbackModel(
        [ReplayModel("first", INTERRUPTED), ReplayModel("second", ["Par", "is", END])],
        on_interrupted="restart",
        hedge=hedge,
    )

    async def read() -> list[Delta]:
        return [delta async for delta in model.agenerate_stream("?")]

    deltas = [*model.generate_stream("?")] if stream else asyncio.run(read())
    assert [(delta.content, delta.restart) for delta in deltas] == [
        ("The ", False), ("capi", False), ("Par", True), ("is", False), (None, False),
    ]  # fmt: skip
    message = accumulate(deltas)
    assert (message.content, message.model_id) == ("Paris", "second")
    assert attempts_of(message) == [("first", "ServerError: it broke"), ("second", None)]


def test_restart_discards_everything_of_the_interrupted_response() -> None:
    call = [{"index": 0, "id": "1", "function": {"name": "a", "arguments": "{}"}}]
    interrupted: list[Any] = [
        Delta(reasoning="hm", logprobs=[{"token": "x"}], provider_data=ProviderData("responses", ({"a": 1},))),
        Delta(content="x"),
        tool_call_delta(call), ServerError("cut"),
    ]  # fmt: skip
    model = FallbackModel(
        [ReplayModel("first", interrupted), ReplayModel("second", ["Paris", END])], on_interrupted="restart"
    )
    message = generate_stream(model)
    assert (message.content, message.reasoning, message.tool_calls) == ("Paris", None, None)
    assert (message.logprobs, message.provider_data) == (None, None)


def test_restart_resets_the_partial_object() -> None:
    first, second = ['{"city": "Lon', ServerError("cut")], ['{"city": ', '"Rome"}', END]
    model = FallbackModel([ReplayModel("first", first), ReplayModel("second", second)], on_interrupted="restart")
    with model.generate_stream("?", response_format={"type": "json_object"}) as stream:
        seen = [stream.partial for _ in stream]
    assert seen == [{"city": "Lon"}, {}, {"city": "Rome"}, {"city": "Rome"}]


def tool_call_delta(calls: list[dict[str, Any]]) -> Delta:
    from modelport.types.deltas import as_delta

    return as_delta(ChatMessage("assistant", None, tool_calls=calls))  # type: ignore[arg-type]


def test_restart_that_is_interrupted_too_raises_with_its_own_part(call: Callable[..., ChatMessage]) -> None:
    second = ["Pa", ConnectionFailed("reset")]
    with pytest.raises(StreamInterrupted if "stream" in call.__name__ else ServerError) as raised:
        call(
            FallbackModel([ReplayModel("first", INTERRUPTED), ReplayModel("second", second)], on_interrupted="restart")
        )
    assert raised.value.partial is not None
    # The error of a call that does not stream has the partial response of the model that raised it.
    assert raised.value.partial.content == ("Pa" if "stream" in call.__name__ else "The capi")
    if isinstance(raised.value, StreamInterrupted):
        assert raised.value.model_id == "second" and isinstance(raised.value.__cause__, ConnectionFailed)
    assert len(raised.value.attempts) == 2


@pytest.mark.parametrize("call_method", [generate, agenerate])
@pytest.mark.parametrize("on_interrupted", ["raise", "restart"])
def test_interrupted_call_that_does_not_stream_calls_the_next_model(
    call_method: Any, on_interrupted: Any, hedge: Any
) -> None:
    message = call_method(
        FallbackModel(
            [ReplayModel("first", INTERRUPTED), ReplayModel("second")], on_interrupted=on_interrupted, hedge=hedge
        )
    )
    assert (message.content, message.model_id) == ("second", "second")


def test_closed_stream_ends_the_call() -> None:
    first, second = ReplayModel("first", ["a", "b", 100, "c", END]), ReplayModel("second")
    with FallbackModel([first, second]).generate_stream("?") as stream:
        assert next(stream).content == "a"
    assert (first.closed, second.call_count) == (1, 0)
