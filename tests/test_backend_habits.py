"""Backends whose deltas come in unusual ways: streamed and not, a call returns the same message and loses no error."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport import Capabilities, ChatMessage, ChatMessageStreamDelta, FallbackModel, Model, Request, TokenUsage
from modelport.errors import DeadlineExceeded, ModelError
from modelport.testing import ScriptedModel
from tests.properties import examples

Delta = ChatMessageStreamDelta


class Backend(Model):
    """Yields prepared deltas; a number is a pause in seconds."""

    def __init__(self, *deltas: Any, **settings: Any) -> None:
        super().__init__("m", **{"retry": False, **settings})
        self.script = deltas

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        for delta in self.script:
            if isinstance(delta, float):
                await asyncio.sleep(delta)
            else:
                yield delta


class SilentBackend(Backend):
    """Ends without an error when it is cancelled."""

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        try:
            async for delta in super().deltas(request):
                yield delta
        except asyncio.CancelledError:
            pass


def streamed(model: Model, **options: Any) -> ChatMessage:
    with model.generate_stream("?", **options) as stream:
        list(stream)
    return stream.message


CALLS: dict[str, Callable[..., ChatMessage]] = {
    "sync": lambda model, **options: model.generate("?", **options),
    "streamed": streamed,
    "async": lambda model, **options: asyncio.run(model.agenerate("?", **options)),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
WRAPPERS: dict[str, Callable[[Backend], Model]] = {
    "alone": lambda model: model,
    "in a FallbackModel": lambda model: FallbackModel([model]),
    "in two": lambda model: FallbackModel([FallbackModel([model])]),
}


def every_delta(*texts: str, **fields: Any) -> list[Delta]:
    return [Delta(content=text, token_usage=TokenUsage(5, n), **fields) for n, text in enumerate(texts, 1)]


@each_call
@pytest.mark.parametrize("limits", [{}, {"max_concurrency": 1}], ids=["no limit", "limit"])
@pytest.mark.parametrize("option", ["timeout", "idle_timeout"])
def test_time_limit_counts_if_the_backend_ends_silently_when_cancelled(
    call: Callable[..., ChatMessage], option: str, limits: dict[str, Any]
) -> None:
    model = SilentBackend(Delta(content="The cap"), 5.0, Delta(content="ital", finish_reason="stop"), **limits)
    with pytest.raises(ModelError) as raised:
        call(model, **{option: 0.1})
    assert isinstance(raised.value, DeadlineExceeded) or isinstance(raised.value.__cause__, DeadlineExceeded)
    assert raised.value.partial is not None and raised.value.partial.content == "The cap"


@each_call
def test_time_limit_of_a_silent_backend_leads_to_the_next_model(call: Callable[..., ChatMessage]) -> None:
    model = FallbackModel([SilentBackend(5.0, Delta(content="late")), ScriptedModel("Paris")])
    assert call(model, first_token_timeout=0.1).content == "Paris"


@each_call
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_model_id_that_the_service_reports_is_kept(
    call: Callable[..., ChatMessage], wrap: Callable[[Backend], Model]
) -> None:
    model = wrap(Backend(Delta(content="Paris", model_id="m-2024"), Delta(finish_reason="stop")))
    assert call(model).model_id == "m-2024"


@each_call
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_finish_reason_on_every_delta_counts_once(
    call: Callable[..., ChatMessage], wrap: Callable[[Backend], Model]
) -> None:
    model = wrap(Backend(*every_delta("a", "b", "c", finish_reason="stop")))
    message = call(model)
    assert (message.content, message.finish_reason, message.token_usage) == ("abc", "stop", TokenUsage(5, 3))
    assert len(message.attempts) == isinstance(model, FallbackModel)


@each_call
def test_stop_sequence_across_deltas_with_finish_reasons_ends_the_text(call: Callable[..., ChatMessage]) -> None:
    model = Backend(*every_delta("abSTO", "Pcd", finish_reason="stop"))
    message = call(model, stop_sequences=["STOP"])
    assert (message.content, message.stop_sequence) == ("ab", "STOP")


@each_call
def test_empty_final_values_do_not_replace_earlier_ones(call: Callable[..., ChatMessage]) -> None:
    first = Delta(content="a", finish_reason="length", stop_sequence="END", raw={"id": 1})
    message = call(Backend(first, Delta(content="b", finish_reason="", stop_sequence="", raw={})))
    assert (message.finish_reason, message.stop_sequence, message.raw) == ("length", "END", {"id": 1})


@each_call
def test_backend_that_yields_none_is_an_error(call: Callable[..., ChatMessage]) -> None:
    with pytest.raises(ModelError, match="yields NoneType"):
        call(Backend(Delta(content="a"), None, Delta(content="b")))


def test_attempt_that_ran_out_of_time_has_an_error() -> None:
    slow = Backend(5.0, Delta(content="late"))
    inner = FallbackModel([slow, Backend(Delta(content="b"))], timeout=0.1)
    attempts = FallbackModel([inner, ScriptedModel("c")]).generate("?").attempts
    assert (attempts[0].model_id, attempts[0].error) == ("m", "cancelled before it responded")
    assert attempts[-1].error is None


def test_model_can_be_pickled_after_its_first_call_as_before() -> None:
    model = ModelWithMapping("m")
    pickle.dumps(model)
    assert model.generate("?").content == "Paris"
    copy = pickle.loads(pickle.dumps(model))
    copy.declared_capabilities = Capabilities(seed=True)
    assert copy.capabilities.seed  # A copy looks its capabilities up anew.


class ModelWithMapping(Model):
    declared_capabilities = Capabilities(renamed=MappingProxyType({"max_tokens": "limit"}))

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        yield Delta(content="Paris", finish_reason="stop")


any_delta = st.builds(
    Delta,
    content=st.sampled_from([None, "", "a", "b", "EN", "D", "ENDx"]),
    reasoning=st.sampled_from([None, None, "r"]),
    finish_reason=st.sampled_from([None, None, "stop", "length"]),
    token_usage=st.sampled_from([None, TokenUsage(1, 2), TokenUsage(1, 3)]),
    stop_sequence=st.sampled_from([None, None, "#"]),
    model_id=st.sampled_from([None, None, "m-2024"]),
    warnings=st.sampled_from([None, None, ["w"]]),
)


@examples(300)
@given(st.lists(any_delta, max_size=6), st.sampled_from([[], ["END"]]), st.sampled_from(list(WRAPPERS.values())))
def test_streamed_and_non_streaming_calls_return_the_same_message(
    deltas: list[Delta], stops: list[str], wrap: Callable[[Backend], Model]
) -> None:
    first, second = (call(wrap(Backend(*deltas)), stop_sequences=stops) for call in (CALLS["sync"], streamed))
    for message in (first, second):
        for attempt in message.attempts:
            attempt.seconds = None
    assert first == second
