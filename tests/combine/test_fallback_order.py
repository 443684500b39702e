"""`FallbackModel`: which models are called, in which order, and after which errors."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from modelport import ChatMessage, FallbackModel, Model, RetryPolicy
from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    ContentFiltered,
    ContextWindowExceeded,
    DeadlineExceeded,
    InvalidOutput,
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    MissingDependency,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
    StreamInterrupted,
    UnsupportedFeature,
)
from tests.combine.models import END, ReplayModel, attempts_of, failing, generate, generate_stream


def test_first_model_that_responds_is_the_only_one_called(call: Callable[..., ChatMessage], hedge: Any) -> None:
    first, second = ReplayModel("first"), ReplayModel("second")
    message = call(FallbackModel([first, second], hedge=hedge))
    assert (message.content, message.model_id, message.finish_reason) == ("first", "first", "stop")
    assert attempts_of(message) == [("first", None)]
    assert (first.call_count, second.call_count) == (1, 0)


ERRORS_THAT_FALL_BACK = [
    RateLimited("429"), ServerError("503"), ConnectionFailed("refused"), DeadlineExceeded("its own"),
    MalformedResponse("{"), AuthenticationError("401"), NotFoundError("404"), ContextWindowExceeded("too long"),
    MissingDependency("boto3", "bedrock"), ModelError("?", retryable=True), UnsupportedFeature("no images"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS_THAT_FALL_BACK, ids=lambda error: type(error).__name__)
def test_error_of_the_first_model_calls_the_next_one(
    call: Callable[..., ChatMessage], hedge: Any, error: ModelError
) -> None:
    model = FallbackModel([failing("a", error), ReplayModel("b"), ReplayModel("c")], hedge=hedge)
    message = call(model)
    assert (message.content, message.model_id) == ("b", "b")
    assert attempts_of(message) == [("a", f"{type(error).__name__}: {error.message}"), ("b", None)]
    assert all(attempt.seconds is not None and attempt.seconds >= 0 for attempt in message.attempts)


ERRORS_THAT_END_THE_CALL = [
    InvalidRequest("400"), ContentFiltered("refused"), InvalidOutput("no date"), InvalidToolCall("broken"),
    ModelError("?"),
]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS_THAT_END_THE_CALL, ids=lambda error: type(error).__name__)
def test_error_of_the_request_is_raised_at_once(
    call: Callable[..., ChatMessage], hedge: Any, error: ModelError
) -> None:
    second = ReplayModel("second")
    with pytest.raises(type(error)) as raised:
        call(FallbackModel([failing("a", error), second], hedge=hedge))
    assert raised.value is error and error.model_id == "a"
    assert attempts_of(error) == [("a", f"{type(error).__name__}: {error.message}")]
    assert second.call_count == 0


@pytest.mark.parametrize(
    ("fallback_on", "falling_back", "ending"),
    [
        ([ServerError], ServerError("500"), RateLimited("429")),
        (["ServerError", RateLimited], RateLimited("429"), AuthenticationError("401")),
        (lambda error: error.status == 418, ModelError("teapot", status=418), ServerError("500", status=500)),
        ([InvalidRequest], InvalidRequest("400"), ServerError("500")),
    ],
)
def test_fallback_on_decides_which_errors_call_the_next_model(
    fallback_on: Any, falling_back: ModelError, ending: ModelError
) -> None:
    assert (
        generate(FallbackModel([failing("a", falling_back), ReplayModel("b")], fallback_on=fallback_on)).content == "b"
    )
    with pytest.raises(type(ending)):
        generate(FallbackModel([failing("a", ending), ReplayModel("b")], fallback_on=fallback_on))
    # After `UnsupportedFeature` the next model is always called.
    model = FallbackModel([failing("a", UnsupportedFeature("?")), ReplayModel("b")], fallback_on=fallback_on)
    assert generate(model).content == "b"


BROKEN_CONNECTIONS = [ConnectionResetError("reset"), TimeoutError("late"), OSError("requests raises a subclass of it")]


@pytest.mark.parametrize("error", BROKEN_CONNECTIONS, ids=lambda error: type(error).__name__)
def test_connection_error_of_an_authors_model_calls_the_next_one(
    call: Callable[..., ChatMessage], hedge: Any, error: Exception
) -> None:
    first = failing("a", error)
    model = FallbackModel([first, ReplayModel("b")], hedge=hedge)
    message = call(model)
    text = f"ConnectionFailed: ReplayModel.deltas raised {type(error).__name__}: {error}"
    assert (message.content, attempts_of(message)) == ("b", [("a", text), ("b", None)])
    assert call(model).content == "b" and first.call_count == 1  # The first model cools down.
    with pytest.raises(ConnectionFailed) as raised:
        call(FallbackModel([failing("a", error), FallbackModel([failing("b", OSError("?"))])], hedge=hedge))
    assert raised.value.__cause__ is error
    assert attempts_of(raised.value) == [
        ("a", text), ("b", "ConnectionFailed: ReplayModel.deltas raised OSError: ?"),
    ]  # fmt: skip


def test_mistake_of_an_authors_model_is_raised_unless_fallback_on_names_it(
    call: Callable[..., ChatMessage], hedge: Any
) -> None:
    error = NameError("a mistake")
    second = ReplayModel("b")
    model = FallbackModel([failing("a", error), second], hedge=hedge)
    for _ in range(2):
        with pytest.raises(ModelError) as raised:
            call(model)
        assert raised.value.__cause__ is error
        assert attempts_of(raised.value) == [("a", "ModelError: ReplayModel.deltas raised NameError: a mistake")]
        assert second.call_count == 0
    for fallback_on in ([NameError], ["NameError"], [Exception], lambda error: type(error.__cause__) is NameError):
        assert call(FallbackModel([failing("a", error), second], hedge=hedge, fallback_on=fallback_on)).content == "b"


def test_stream_of_an_authors_model_is_restarted_after_a_connection_error() -> None:
    broken = ReplayModel("a", ["The ", "capi", ConnectionResetError("reset")])
    with FallbackModel([broken, ReplayModel("b")], on_interrupted="restart").generate_stream("?") as stream:
        assert [delta.restart for delta in stream if delta.content] == [False, False, True]
    assert stream.message.content == "b"
    with pytest.raises(StreamInterrupted) as raised:
        generate_stream(FallbackModel([broken, ReplayModel("b")]))
    assert isinstance(raised.value.__cause__, ConnectionFailed)
    assert isinstance(raised.value.__cause__.__cause__, ConnectionResetError)
    assert attempts_of(raised.value) == [
        ("a", "ConnectionFailed: ReplayModel.deltas raised ConnectionResetError: reset")
    ]


def test_failure_of_every_model_raises_the_first_error(call: Callable[..., ChatMessage], hedge: Any) -> None:
    models = [
        failing("blind", UnsupportedFeature("no images")), failing("a", RateLimited("429", retry_after=7)),
        failing("b", AuthenticationError("401")),
    ]  # fmt: skip
    with pytest.raises(RateLimited) as raised:
        call(FallbackModel(models, hedge=hedge))
    assert (raised.value.model_id, raised.value.retry_after) == ("a", 7)
    assert attempts_of(raised.value) == [
        ("blind", "UnsupportedFeature: no images"), ("a", "RateLimited: 429"), ("b", "AuthenticationError: 401"),
    ]  # fmt: skip
    assert attempts_of(pickle.loads(pickle.dumps(raised.value))) == attempts_of(raised.value)


def test_error_that_ends_the_call_is_raised_whatever_failed_before(
    call: Callable[..., ChatMessage], hedge: Any
) -> None:
    third = ReplayModel("c")
    with pytest.raises(InvalidRequest, match="400") as raised:
        call(FallbackModel([failing("a"), failing("b", InvalidRequest("400")), third], hedge=hedge))
    assert [attempt.model_id for attempt in raised.value.attempts] == ["a", "b"] and third.call_count == 0


def test_each_model_uses_its_own_retries() -> None:
    first = ReplayModel("first", [ServerError("1")], [ServerError("2")], retry=RetryPolicy(2, base=0))
    second = ReplayModel("second", [ServerError("1")], ["second", END], retry=RetryPolicy(2, base=0))
    assert generate(FallbackModel([first, second])).content == "second"
    assert (first.call_count, second.call_count) == (2, 2)


def test_retry_calls_the_whole_list_again() -> None:
    first, second = failing("a"), ReplayModel("b", [ServerError("1")], ["b", END])
    message = generate(FallbackModel([first, second], retry=RetryPolicy(2, base=0)))
    assert message.content == "b"
    assert (first.call_count, second.call_count) == (2, 2)


class OwnGenerateModel(Model):
    """A model with its own `generate`."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        self.thread = threading.current_thread()
        if self.model_id == "down":
            raise ConnectionFailed("refused")
        time.sleep(4 if self.model_id == "slow" else 0)
        return ChatMessage("assistant", f"from {self.model_id}")


def test_models_with_own_generate_fall_back(call: Callable[..., ChatMessage]) -> None:
    message = call(FallbackModel([OwnGenerateModel("down"), OwnGenerateModel("up")]))
    assert (message.content, message.model_id) == ("from up", "up")


def test_own_generate_of_a_sync_call_runs_in_the_callers_thread() -> None:
    model = OwnGenerateModel("up")
    generate(FallbackModel([model]))
    assert model.thread is threading.current_thread()


def test_hedge_of_models_with_own_generate_runs_both(call: Callable[..., ChatMessage]) -> None:
    start = time.monotonic()
    assert (
        call(FallbackModel([OwnGenerateModel("slow"), OwnGenerateModel("quick")], hedge=0.05)).content == "from quick"
    )
    assert time.monotonic() - start < 3.5
