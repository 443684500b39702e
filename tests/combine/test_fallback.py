"""Several models behind one: who is asked, when, and what the caller is told of it."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from modelport import (
    Attempt,
    ChatMessage,
    ChatMessageStreamDelta,
    FallbackModel,
    LlamaCppModel,
    Model,
    OpenAIServerModel,
    Regex,
    RetryPolicy,
    accumulate,
)
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
from modelport.testing import ScriptedModel
from modelport.types.request import Request
from tests.layers.clock import run_with_fake_clock
from tests.servers.faults import Fault, FaultServer
from tests.servers.llamacpp import model_file

Delta = ChatMessageStreamDelta
CUT: list[Any] = ["The ", "capi", ServerError("it broke")]
END = Delta(finish_reason="stop")


class Played(Model):
    """Plays one list per call, the last for ever: texts, deltas, seconds to wait, errors; and notes what came of it."""

    def __init__(self, model_id: str, *calls: list[Any], **settings: Any) -> None:
        super().__init__(model_id, **{"retry": False, **settings})
        self.calls = calls or ([model_id, END],)
        self.requests: list[Request] = []
        self.closed = 0

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.requests.append(request)
        try:
            for item in self.calls[min(len(self.requests), len(self.calls)) - 1]:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, int | float):
                    await asyncio.sleep(item)
                else:
                    yield Delta(content=item) if isinstance(item, str) else item
        finally:
            self.closed += 1

    @property
    def asked(self) -> int:
        return len(self.requests)


def down(name: str = "down", error: Exception | None = None) -> Played:
    return Played(name, [error or ServerError("no")])


def whole(model: Model, **options: Any) -> ChatMessage:
    return model.generate("?", **options)


def streamed(model: Model, **options: Any) -> ChatMessage:
    with model.generate_stream("?", **options) as stream:
        for _ in stream:
            pass
    return stream.message


def async_whole(model: Model, **options: Any) -> ChatMessage:
    return asyncio.run(model.agenerate("?", **options))


def async_streamed(model: Model, **options: Any) -> ChatMessage:
    async def read() -> ChatMessage:
        async with model.agenerate_stream("?", **options) as stream:
            async for _ in stream:
                pass
        return stream.message

    return asyncio.run(read())


@pytest.fixture(params=[whole, streamed, async_whole, async_streamed], ids=lambda way: way.__name__)
def way(request: pytest.FixtureRequest) -> Callable[..., ChatMessage]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[None, 30], ids=["alone", "hedged"])
def hedge(request: pytest.FixtureRequest) -> Any:
    """What holds with one model after another holds with two at once."""
    return request.param


def tried(message: ChatMessage | Exception) -> list[tuple[str | None, str | None]]:
    return [(attempt.model_id, attempt.error) for attempt in message.attempts]  # type: ignore[union-attr]


def test_who_was_asked_is_known_where_the_time_is_up(way: Callable[..., ChatMessage], hedge: Any) -> None:
    with pytest.raises(DeadlineExceeded) as raised:
        way(FallbackModel([down("first"), Played("second", [9.0])], timeout=0.2, hedge=hedge))
    assert tried(raised.value) == [("first", "ServerError: no"), ("second", None)]


# --- who is asked -----------------------------------------------------------------------------------------------------


def test_the_first_answers_alone_where_it_can(way: Callable[..., ChatMessage], hedge: Any) -> None:
    first, second = Played("first"), Played("second")
    message = way(FallbackModel([first, second], hedge=hedge))
    assert (message.content, message.model_id, message.finish_reason) == ("first", "first", "stop")
    assert tried(message) == [("first", None)]
    assert (first.asked, second.asked) == (1, 0)


GOES_ON = [
    RateLimited("429"), ServerError("503"), ConnectionFailed("refused"), DeadlineExceeded("its own"),
    MalformedResponse("{"), AuthenticationError("401"), NotFoundError("404"), ContextWindowExceeded("too long"),
    MissingDependency("boto3", "bedrock"), ModelError("?", retryable=True), UnsupportedFeature("no images"),
]  # fmt: skip


@pytest.mark.parametrize("error", GOES_ON, ids=lambda error: type(error).__name__)
def test_the_next_is_asked_where_the_first_can_not(
    way: Callable[..., ChatMessage], hedge: Any, error: ModelError
) -> None:
    model = FallbackModel([down("a", error), Played("b"), Played("c")], hedge=hedge)
    message = way(model)
    assert (message.content, message.model_id) == ("b", "b")
    assert tried(message) == [("a", f"{type(error).__name__}: {error.message}"), ("b", None)]
    assert all(attempt.seconds is not None and attempt.seconds >= 0 for attempt in message.attempts)


STAYS = [
    InvalidRequest("400"), ContentFiltered("refused"), InvalidOutput("no date"), InvalidToolCall("broken"),
    ModelError("?"),
]  # fmt: skip


@pytest.mark.parametrize("error", STAYS, ids=lambda error: type(error).__name__)
def test_what_another_model_would_not_mend_is_told_at_once(
    way: Callable[..., ChatMessage], hedge: Any, error: ModelError
) -> None:
    second = Played("second")
    with pytest.raises(type(error)) as raised:
        way(FallbackModel([down("a", error), second], hedge=hedge))
    assert raised.value is error and error.model_id == "a"
    assert tried(error) == [("a", f"{type(error).__name__}: {error.message}")]
    assert second.asked == 0


@pytest.mark.parametrize(
    ("on", "goes", "stays"),
    [
        ([ServerError], ServerError("500"), RateLimited("429")),
        (["ServerError", RateLimited], RateLimited("429"), AuthenticationError("401")),
        (lambda error: error.status == 418, ModelError("teapot", status=418), ServerError("500", status=500)),
        ([InvalidRequest], InvalidRequest("400"), ServerError("500")),
    ],
)
def test_the_user_says_after_which_errors(on: Any, goes: ModelError, stays: ModelError) -> None:
    assert whole(FallbackModel([down("a", goes), Played("b")], fallback_on=on)).content == "b"
    with pytest.raises(type(stays)):
        whole(FallbackModel([down("a", stays), Played("b")], fallback_on=on))
    # What a model can't do is never the end of it.
    assert whole(FallbackModel([down("a", UnsupportedFeature("?")), Played("b")], fallback_on=on)).content == "b"


BROKEN = [ConnectionResetError("reset"), TimeoutError("late"), OSError("a subclass of it is raised by requests")]


@pytest.mark.parametrize("error", BROKEN, ids=lambda error: type(error).__name__)
def test_what_breaks_on_an_authors_own_way_goes_on_to_the_next(
    way: Callable[..., ChatMessage], hedge: Any, error: Exception
) -> None:
    first = down("a", error)
    model = FallbackModel([first, Played("b")], hedge=hedge)
    message = way(model)
    assert (message.content, tried(message)) == ("b", [("a", f"{type(error).__name__}: {error}"), ("b", None)])
    assert way(model).content == "b" and first.asked == 1  # it rests
    with pytest.raises(type(error)) as raised:
        way(FallbackModel([down("a", error), FallbackModel([down("b", OSError("?"))])], hedge=hedge))
    assert raised.value is error
    assert tried(error) == [("a", f"{type(error).__name__}: {error}"), ("b", "OSError: ?")]


def test_other_exceptions_of_an_author_are_told_at_once_but_where_the_user_names_them(
    way: Callable[..., ChatMessage], hedge: Any
) -> None:
    error = KeyError("a mistake")
    second = Played("b")
    model = FallbackModel([down("a", error), second], hedge=hedge)
    for _ in range(2):
        with pytest.raises(KeyError) as raised:
            way(model)
        assert raised.value is error and tried(error) == [("a", "KeyError: 'a mistake'")] and second.asked == 0
    for on in ([LookupError], ["LookupError"], [Exception], lambda error: type(error) is KeyError):
        assert way(FallbackModel([down("a", error), second], hedge=hedge, fallback_on=on)).content == "b"


def test_a_stream_that_an_authors_own_model_breaks_off_begins_again_too() -> None:
    broken = Played("a", ["The ", "capi", ConnectionResetError("reset")])
    with FallbackModel([broken, Played("b")], on_interrupted="restart").generate_stream("?") as stream:
        assert [delta.restart for delta in stream if delta.content] == [False, False, True]
    assert stream.message.content == "b"
    with pytest.raises(ConnectionResetError) as raised:
        streamed(FallbackModel([broken, Played("b")]))
    assert tried(raised.value) == [("a", "ConnectionResetError: reset")]


def test_where_none_can_answer_the_first_failure_is_told(way: Callable[..., ChatMessage], hedge: Any) -> None:
    models = [
        down("blind", UnsupportedFeature("no images")), down("a", RateLimited("429", retry_after=7)),
        down("b", AuthenticationError("401")),
    ]  # fmt: skip
    with pytest.raises(RateLimited) as raised:
        way(FallbackModel(models, hedge=hedge))
    assert (raised.value.model_id, raised.value.retry_after) == ("a", 7)
    assert tried(raised.value) == [
        ("blind", "UnsupportedFeature: no images"), ("a", "RateLimited: 429"), ("b", "AuthenticationError: 401"),
    ]  # fmt: skip
    assert tried(pickle.loads(pickle.dumps(raised.value))) == tried(raised.value)


def test_an_error_that_ends_the_call_is_told_whatever_failed_before(
    way: Callable[..., ChatMessage], hedge: Any
) -> None:
    third = Played("c")
    with pytest.raises(InvalidRequest, match="400") as raised:
        way(FallbackModel([down("a"), down("b", InvalidRequest("400")), third], hedge=hedge))
    assert [attempt.model_id for attempt in raised.value.attempts] == ["a", "b"] and third.asked == 0


def test_each_model_keeps_its_own_retries() -> None:
    first = Played("first", [ServerError("1")], [ServerError("2")], retry=RetryPolicy(2, base=0))
    second = Played("second", [ServerError("1")], ["second", END], retry=RetryPolicy(2, base=0))
    assert whole(FallbackModel([first, second])).content == "second"
    assert (first.asked, second.asked) == (2, 2)


def test_the_whole_list_can_be_asked_again() -> None:
    first, second = down("a"), Played("b", [ServerError("1")], ["b", END])
    message = whole(FallbackModel([first, second], retry=RetryPolicy(2, base=0)))
    assert message.content == "b"
    assert (first.asked, second.asked) == (2, 2)


class Own(Model):
    """A newcomer's: it writes just `generate`."""

    def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> Any:
        self.thread = threading.current_thread()
        if self.model_id == "down":
            raise ConnectionFailed("refused")
        time.sleep(4 if self.model_id == "slow" else 0)
        return ChatMessage("assistant", f"from {self.model_id}")


def test_models_that_write_just_generate(way: Callable[..., ChatMessage]) -> None:
    message = way(FallbackModel([Own("down"), Own("up")]))
    assert (message.content, message.model_id) == ("from up", "up")


def test_a_sync_call_runs_them_in_the_callers_thread() -> None:
    model = Own("up")
    whole(FallbackModel([model]))
    assert model.thread is threading.current_thread()


def test_a_hedge_of_such_models_is_a_race_all_the_same(way: Callable[..., ChatMessage]) -> None:
    begin = time.monotonic()
    assert way(FallbackModel([Own("slow"), Own("quick")], hedge=0.05)).content == "from quick"
    assert time.monotonic() - begin < 3.5


# --- what a model is asked --------------------------------------------------------------------------------------------


def test_a_calls_option_goes_before_this_models_and_that_before_the_inner_models() -> None:
    first = down("first", UnsupportedFeature("?"))
    second = ScriptedModel("ok", model_id="second", temperature=0.1, max_tokens=1, seed=1, stop_sequences=["inner"])
    model = FallbackModel([first, second], temperature=0.2, max_tokens=2)
    model.generate("?", temperature=0.3, first_token_timeout=5)
    request = second.requests[0]
    assert request.parameters == {"temperature": 0.3, "max_tokens": 2, "seed": 1}
    assert request.stop_sequences == ("inner",)
    assert (request.timeouts.timeout, request.timeouts.first_token_timeout) == (600, 5)


def test_tools_grammar_and_stop_sequences_reach_each_model() -> None:
    def weather(city: str) -> str:
        """Tells the weather of a city."""
        return city

    asked = ScriptedModel(ServerError("no"), "x", model_id="a", retry=False)
    other = ScriptedModel("2024 END", model_id="b")
    model = FallbackModel([asked, other], tool_choice="required", cooldown=0)
    assert model.generate("?", grammar=Regex(r"\d{4}"), stop_sequences=[" END"]).parsed == "2024"
    for request in (*asked.requests, *other.requests):
        assert request.grammar is not None and request.stop_sequences == (" END",) and request.tool_choice == "auto"
    with pytest.raises(InvalidToolCall):
        model.generate("?", tools=[weather])
    assert asked.requests[-1].tools[0].name == "weather" and asked.requests[-1].tool_choice == "required"


@pytest.mark.parametrize(
    "options", [{"temperature": "hot"}, {"tools": [len], "tool_choice": "nonesuch"}, {"timeout": "soon"}]
)
def test_bad_input_is_found_when_the_call_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        FallbackModel([Played("a")]).generate_stream("?", **options)


def test_messages_are_taken_as_they_are_when_the_call_is_made() -> None:
    model = Played("a")
    messages = [{"role": "user", "content": "first"}]
    stream = FallbackModel([model]).generate_stream(messages)
    messages[0]["content"] = "changed"
    list(stream)
    assert model.requests[0].messages[0].content == "first"


def test_roles_are_converted_and_text_flattened_by_this_model_and_by_its_own() -> None:
    inner = Played("a", flatten_messages_as_text=True)
    model = FallbackModel([inner], custom_role_conversions={"system": "user"})
    model.generate([{"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])
    (message,) = inner.requests[0].messages
    assert (message.role, message.content) == ("user", "a\nb")


def test_a_request_goes_to_those_that_can() -> None:
    plain = ScriptedModel("plain", model_id="plain", capabilities={"seed": False, "inputs": ["text"]})
    seeded = ScriptedModel("seeded", model_id="seeded", capabilities={"logprobs": False}, repeat=True)
    model = FallbackModel([plain, seeded], cooldown=1000)
    assert (
        model.capabilities.seed and "image" in model.capabilities.inputs and not ScriptedModel().capabilities.stop < 1
    )
    assert model.generate("?", seed=1).content == "seeded"
    assert model.generate("?").content == "plain"  # It does not rest for what it can't do.
    assert plain.requests and plain.requests[0].parameters == {}


def test_what_none_can_do_is_refused_before_anything_is_sent(way: Callable[..., ChatMessage]) -> None:
    models = [ScriptedModel("no", model_id=name, capabilities={"seed": False}) for name in "ab"]
    with pytest.raises(UnsupportedFeature, match="seed") as raised:
        way(FallbackModel(models), seed=1)
    assert [attempt.model_id for attempt in raised.value.attempts] == ["a", "b"]
    assert not models[0].requests and not models[1].requests


# --- an answer that breaks off ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [streamed, async_streamed])
def test_a_stream_that_breaks_off_is_raised_with_what_had_come(ask: Any, hedge: Any) -> None:
    second = Played("second")
    with pytest.raises(StreamInterrupted) as raised:
        ask(FallbackModel([Played("first", CUT), second], hedge=hedge))
    assert (raised.value.partial.content, raised.value.partial.model_id) == ("The capi", "first")
    assert raised.value.model_id == "first"
    assert tried(raised.value) == [("first", "ServerError: it broke")]
    assert second.asked == 0


@pytest.mark.parametrize("stream", [False, True])
def test_by_choice_the_next_model_begins_again(stream: bool, hedge: Any) -> None:
    model = FallbackModel(
        [Played("first", CUT), Played("second", ["Par", "is", END])], on_interrupted="restart", hedge=hedge
    )

    async def read() -> list[Delta]:
        return [delta async for delta in model.agenerate_stream("?")]

    deltas = [*model.generate_stream("?")] if stream else asyncio.run(read())
    assert [(delta.content, delta.restart) for delta in deltas] == [
        ("The ", False), ("capi", False), ("Par", True), ("is", False), (None, False),
    ]  # fmt: skip
    message = accumulate(deltas)
    assert (message.content, message.model_id) == ("Paris", "second")
    assert tried(message) == [("first", "ServerError: it broke"), ("second", None)]


def test_nothing_of_the_lost_answer_is_left() -> None:
    call = [{"index": 0, "id": "1", "function": {"name": "a", "arguments": "{}"}}]
    lost: list[Any] = [
        Delta(reasoning="hm", logprobs=[{"token": "x"}], reasoning_details=[{"a": 1}]), Delta(content="x"),
        fold_call(call), ServerError("cut"),
    ]  # fmt: skip
    model = FallbackModel([Played("first", lost), Played("second", ["Paris", END])], on_interrupted="restart")
    message = streamed(model)
    assert (message.content, message.reasoning, message.tool_calls) == ("Paris", None, None)
    assert (message.logprobs, message.reasoning_details) == (None, None)


def test_a_partial_object_begins_again_too() -> None:
    first, second = ['{"city": "Lon', ServerError("cut")], ['{"city": ', '"Rome"}', END]
    model = FallbackModel([Played("first", first), Played("second", second)], on_interrupted="restart")
    with model.generate_stream("?", response_format={"type": "json_object"}) as stream:
        seen = [stream.partial for _ in stream]
    assert seen == [{"city": "Lon"}, {}, {"city": "Rome"}, {"city": "Rome"}]


def fold_call(calls: list[dict[str, Any]]) -> Delta:
    from modelport.types.deltas import as_delta

    return as_delta(ChatMessage("assistant", None, tool_calls=calls))  # type: ignore[arg-type]


def test_where_the_restart_breaks_off_too_what_it_gave_is_the_partial(way: Callable[..., ChatMessage]) -> None:
    second = ["Pa", ConnectionFailed("reset")]
    with pytest.raises(StreamInterrupted if "streamed" in way.__name__ else ServerError) as raised:
        way(FallbackModel([Played("first", CUT), Played("second", second)], on_interrupted="restart"))
    assert raised.value.partial is not None
    # That of a whole answer is what the error which is told came with.
    assert raised.value.partial.content == ("Pa" if "streamed" in way.__name__ else "The capi")
    if isinstance(raised.value, StreamInterrupted):
        assert raised.value.model_id == "second" and isinstance(raised.value.__cause__, ConnectionFailed)
    assert len(raised.value.attempts) == 2


@pytest.mark.parametrize("ask", [whole, async_whole])
@pytest.mark.parametrize("on_interrupted", ["raise", "restart"])
def test_an_answer_that_nobody_has_seen_goes_on(ask: Any, on_interrupted: Any, hedge: Any) -> None:
    message = ask(FallbackModel([Played("first", CUT), Played("second")], on_interrupted=on_interrupted, hedge=hedge))
    assert (message.content, message.model_id) == ("second", "second")


def test_a_caller_who_leaves_ends_the_call() -> None:
    first, second = Played("first", ["a", "b", 100, "c", END]), Played("second")
    with FallbackModel([first, second]).generate_stream("?") as stream:
        assert next(stream).content == "a"
    assert (first.closed, second.asked) == (1, 0)


# --- health -----------------------------------------------------------------------------------------------------------


class Clocked(FallbackModel):
    """On the clock of a loop whose time is made up."""

    def __init__(self, clock: Callable[[], float], models: list[Any], **settings: Any) -> None:
        super().__init__(models, **settings)
        self._clock = clock


def test_a_model_that_failed_is_asked_last_until_its_cool_down_is_over() -> None:
    first, second = Played("first", [ServerError("no")], ["first", END]), Played("second")

    async def work(clock: Callable[[], float]) -> list[tuple[str | None, int]]:
        model = Clocked(clock, [first, second], cooldown=30)
        answers = []
        for wait in (0, 10, 19.9, 0.2, 0):
            await asyncio.sleep(wait)
            answers.append(((await model.agenerate("?")).content, first.asked))
        return answers

    assert run_with_fake_clock(work) == [("second", 1), ("second", 1), ("second", 1), ("first", 2), ("first", 3)]


def test_a_longer_retry_after_counts() -> None:
    first = Played("first", [RateLimited("429", retry_after=100)], ["first", END])

    async def work(clock: Callable[[], float]) -> list[str]:
        model = Clocked(clock, [first, Played("second")], cooldown=30)
        answers = []
        for wait in (0, 99, 2):
            await asyncio.sleep(wait)
            answers.append(str(await model.agenerate("?")))
        return answers

    assert run_with_fake_clock(work) == ["second", "second", "first"]


def test_one_call_alone_tries_a_model_whose_rest_is_over() -> None:
    first = Played("first", [ServerError("no")], [5, "first", END])

    async def work(clock: Callable[[], float]) -> list[str]:
        model = Clocked(clock, [first, Played("second")], cooldown=30)
        await model.agenerate("?")
        await asyncio.sleep(31)
        answers = await asyncio.gather(*(model.agenerate("?") for _ in range(5)))
        return [str(answer) for answer in (*answers, await model.agenerate("?"))]

    assert run_with_fake_clock(work) == ["first", "second", "second", "second", "second", "first"]
    assert first.asked == 3


def test_the_others_come_back_with_the_first_part_of_an_answer() -> None:
    first = Played("first", [ServerError("no")], ["first", 100, END], ["first", END])

    async def work(clock: Callable[[], float]) -> str:
        model = Clocked(clock, [first, Played("second")], cooldown=30)
        await model.agenerate("?")
        await asyncio.sleep(31)
        async with model.agenerate_stream("?") as stream:
            assert (await anext(stream)).content == "first"
            return str(await model.agenerate("?"))

    assert run_with_fake_clock(work) == "first"


def test_one_who_tried_it_and_left_keeps_nobody_away_for_long() -> None:
    first = Played("first", [ServerError("no")], [1000], ["first", END])

    async def work(clock: Callable[[], float]) -> list[str]:
        model = Clocked(clock, [first, Played("second")], cooldown=30)
        await model.agenerate("?")
        await asyncio.sleep(31)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await model.agenerate("?")
        answers = [await model.agenerate("?")]
        await asyncio.sleep(28)
        return [str(answer) for answer in (*answers, await model.agenerate("?"))]

    assert run_with_fake_clock(work) == ["second", "first"]


def test_where_all_rest_all_are_asked_those_first_whose_rest_ends_first() -> None:
    a, b = Played("a", [RateLimited("429", retry_after=100)]), Played("b", [ServerError("no")], ["b", END])

    async def work(clock: Callable[[], float]) -> str:
        model = Clocked(clock, [a, b], cooldown=30)
        with pytest.raises(RateLimited):
            await model.agenerate("?")
        return str(await model.agenerate("?"))

    assert run_with_fake_clock(work) == "b"
    assert (a.asked, b.asked) == (1, 2)


@pytest.mark.parametrize("error", [ContextWindowExceeded("long"), UnsupportedFeature("?"), InvalidRequest("400")])
def test_what_says_nothing_of_the_models_health_gives_it_no_rest(error: ModelError) -> None:
    first = Played("first", [error], ["first", END])
    model = FallbackModel([first, Played("second")], fallback_on=lambda error: True, cooldown=1000)
    assert [str(whole(model)), str(whole(model))] == ["second", "first"]


def test_a_stream_that_broke_off_gives_its_model_a_rest() -> None:
    model = FallbackModel([Played("first", CUT), Played("second")])
    with pytest.raises(StreamInterrupted):
        streamed(model)
    assert str(streamed(model)) == "second"


# --- time -------------------------------------------------------------------------------------------------------------


def test_one_deadline_for_all_models(hedge: Any) -> None:
    models = [Played("a", [4, ServerError("no")]), Played("b", [4, ServerError("no")]), Played("c", [4, "late", END])]
    models += [Played("d")]

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        with pytest.raises(DeadlineExceeded) as raised:
            await Clocked(clock, models, hedge=hedge).agenerate("?", timeout=10)
        return raised.value.message, clock()

    assert run_with_fake_clock(work) == ("timeout=10 s ran out.", 10)
    assert [model.asked for model in models] == [model.closed for model in models] == [1, 1, 1, 0]


def test_a_models_own_time_out_is_for_its_turn() -> None:
    first = Played("first", [1000], timeout=3)

    async def work(clock: Callable[[], float]) -> tuple[ChatMessage, float]:
        return await Clocked(clock, [first, Played("second")]).agenerate("?", timeout=60), clock()

    message, when = run_with_fake_clock(work)
    assert (message.content, when) == ("second", 3)
    assert message.attempts[0] == Attempt("first", "DeadlineExceeded: timeout=3 s ran out.", 3.0)


def test_a_wait_beyond_the_deadline_is_not_waited_for() -> None:
    first = Played("first", [RateLimited("429", retry_after=50)], retry=3)

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        return str(await Clocked(clock, [first, Played("second")]).agenerate("?", timeout=20)), clock()

    assert run_with_fake_clock(work) == ("second", 0)


def test_each_model_has_only_the_time_that_is_left() -> None:
    models = [
        Played("a", [15, ServerError("no")]),
        Played("b", [RateLimited("429", retry_after=10)], retry=3),
        Played("c"),
    ]

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        return str(await Clocked(clock, models).agenerate("?", timeout=20)), clock()

    assert run_with_fake_clock(work) == ("c", 15)


def test_limits_of_the_whole_are_kept() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        models = [Played("a", [1, "a", END])]
        model = Clocked(clock, models, max_concurrency=1)
        await asyncio.gather(*(model.agenerate("?") for _ in range(3)))
        return [clock()]

    assert run_with_fake_clock(work) == [3]


# --- hedging ----------------------------------------------------------------------------------------------------------


def race(
    first: list[Any], second: list[Any], stream: bool, hedge: Any = 2, **options: Any
) -> tuple[Any, float, list[Played]]:
    models = [Played("first", first), Played("second", second), Played("third")]

    async def work(clock: Callable[[], float]) -> tuple[Any, float]:
        model = Clocked(clock, models, hedge=hedge)
        try:
            if not stream:
                return await model.agenerate("?", **options), clock()
            async with model.agenerate_stream("?", **options) as answer:
                async for _ in answer:
                    pass
            return answer.message, clock()
        except ModelError as error:
            return error, clock()
        finally:  # now, and not only when the loop ends
            assert all(model.closed == model.asked for model in models)

    return *run_with_fake_clock(work), models


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_the_next_model_is_asked_beside_a_slow_one_and_the_first_answer_wins(stream: bool) -> None:
    message, when, models = race([50, "late", END], [3, "second", END], stream)
    assert (message.content, message.model_id, when) == ("second", "second", 5)
    assert tried(message) == [("first", "cancelled: another model was faster"), ("second", None)]
    assert [model.asked for model in models] == [1, 1, 0]
    assert [model.closed for model in models] == [1, 1, 0]  # the slow one is cancelled


def test_the_slow_one_may_still_be_first(stream: bool) -> None:
    message, when, models = race([3, "first", END], [3, "late", END], stream)
    assert (message.content, message.model_id, when) == ("first", "first", 3)
    assert tried(message) == [("first", None), ("second", "cancelled: another model was faster")]
    assert [model.closed for model in models] == [1, 1, 0]


def test_a_quick_answer_is_not_hedged(stream: bool) -> None:
    message, when, models = race([1, "first", END], ["second", END], stream)
    assert (message.content, when) == ("first", 1)
    assert [model.asked for model in models] == [1, 0, 0]


def test_a_stream_that_has_begun_is_not_hedged_and_a_whole_answer_is(stream: bool) -> None:
    message, when, _ = race([1, "fi", 9, "rst", END], [1, "second", END], stream)
    assert (message.content, when) == (("first", 10) if stream else ("second", 3))
    if not stream:
        assert message.attempts[0] == Attempt("first", "cancelled: another model was faster", 3)


def test_of_two_that_answer_at_the_same_moment_one_does(stream: bool) -> None:
    message, when, models = race([3, "first", 1, END], [1, "second", 1, END], stream)
    assert message.content == message.model_id and when == 4
    assert sorted(attempt.error or "" for attempt in message.attempts) == ["", "cancelled: another model was faster"]
    assert [model.closed for model in models] == [1, 1, 0]


@pytest.mark.parametrize("first", [InvalidRequest("no"), ServerError("no")], ids=lambda error: type(error).__name__)
def test_of_two_at_the_same_moment_an_answer_goes_before_an_error(first: ModelError, stream: bool) -> None:
    """Also before one after which no other model would have been asked; whichever of them the loop names first."""
    for _ in range(10):
        message, when, _ = race([3, first], [1, "second", END], stream)
        assert (message.content, when) == ("second", 3)


def test_callers_who_leave_say_nothing_of_how_fast_a_model_is() -> None:
    first, second = Played("first", [1, "first", END]), Played("second")

    async def work(clock: Callable[[], float]) -> ChatMessage:
        model = Clocked(clock, [first, second], hedge="p95")
        for _ in range(25):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await model.agenerate("?")
        return await model.agenerate("?")

    message = run_with_fake_clock(work)
    assert (message.content, second.asked) == ("first", 0)


def test_where_the_slow_one_fails_the_other_goes_on(stream: bool) -> None:
    message, when, _ = race([3, ServerError("no")], [4, "second", END], stream)
    assert (message.content, when) == ("second", 6)
    assert tried(message) == [("first", "ServerError: no"), ("second", None)]


def test_where_both_fail_the_next_is_asked(stream: bool) -> None:
    message, when, models = race([3, ServerError("no")], [4, ServerError("no")], stream)
    assert (message.content, when) == ("third", 6)
    assert [model.asked for model in models] == [1, 1, 1]


def test_an_error_that_ends_the_call_ends_both(stream: bool) -> None:
    error, when, models = race([3, InvalidRequest("400")], [40, "late", END], stream)
    assert isinstance(error, InvalidRequest) and when == 3
    assert [model.closed for model in models] == [1, 1, 0]


def test_the_deadline_ends_both(stream: bool) -> None:
    error, when, models = race([30, "late", END], [40, "late", END], stream, timeout=9)
    assert isinstance(error, DeadlineExceeded) and when == 9
    assert [model.closed for model in models] == [1, 1, 0]


def test_a_cancelled_caller_ends_both() -> None:
    models = [Played("first", [50]), Played("second", [50])]

    async def work(clock: Callable[[], float]) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await Clocked(clock, models, hedge=2).agenerate("?")
        assert len(asyncio.all_tasks()) == 1

    run_with_fake_clock(work)
    assert [model.closed for model in models] == [1, 1]


def test_the_one_that_lost_is_there_when_the_winner_breaks_off() -> None:
    models = [Played("first", [5, "late", END], ["first", END]), Played("second", [1, "Pa", ServerError("cut")])]

    async def work(clock: Callable[[], float]) -> list[Delta]:
        model = Clocked(clock, models, hedge=2, on_interrupted="restart")
        return [delta async for delta in model.agenerate_stream("?")]

    message = accumulate(run_with_fake_clock(work))
    assert (message.content, message.model_id) == ("first", "first")


def test_p95_is_learnt_from_what_was_seen(stream: bool) -> None:
    """19 answers in 1 s and one in 4 s, then one that hangs: 4 s is what 95 of 100 took at most."""
    calls = [[1, "ok", END]] * 19 + [[4, "ok", END]] + [[1000]]
    models = [Played("first", *calls), Played("second")]

    async def work(clock: Callable[[], float]) -> tuple[str | None, float]:
        model = Clocked(clock, models, hedge="p95")
        ask = model.agenerate_stream if stream else model.agenerate
        for _ in range(20):
            if stream:
                assert [delta async for delta in ask("?")]
            else:
                await ask("?")  # type: ignore[misc]
        assert models[1].asked == 0
        begin = clock()
        if stream:
            message = accumulate([delta async for delta in ask("?")])
        else:
            message = await ask("?")  # type: ignore[misc]
        return message.model_id, clock() - begin

    assert run_with_fake_clock(work) == ("second", 4)


def test_what_lost_is_remembered_as_slow() -> None:
    models = [Played("first", *[[1, "ok", END]] * 20, [1000]), Played("second", [6, "second", END])]

    async def work(clock: Callable[[], float]) -> tuple[float | None, float | None]:
        model = Clocked(clock, models, hedge="p95")
        for _ in range(20):
            await model.agenerate("?")
        before = model._candidates[0].p95(False)
        for _ in range(5):
            await model.agenerate("?")
        return before, model._candidates[0].p95(False)

    before, after = run_with_fake_clock(work)
    assert before == 1 and after is not None and after > 6


# --- the object -------------------------------------------------------------------------------------------------------


def test_models_of_models(way: Callable[..., ChatMessage], hedge: Any) -> None:
    inner = FallbackModel([down("a"), Played("b")], hedge=hedge)
    message = way(FallbackModel([down("z"), inner], hedge=hedge))
    assert (message.content, message.model_id) == ("b", "b")
    assert tried(message) == [("z", "ServerError: no"), ("a", "ServerError: no"), ("b", None)]


def test_a_nested_list_that_fails_goes_on_and_tells_all() -> None:
    inner = FallbackModel([down("a"), down("b")])
    message = whole(FallbackModel([inner, Played("c")]))
    assert tried(message) == [("a", "ServerError: no"), ("b", "ServerError: no"), ("c", None)]


def remote(name: str, key: str = "sk-secret-0123456789", **settings: Any) -> Model:
    return OpenAIServerModel(name, api_base="http://127.0.0.1:1/v1", api_key=key, **settings)


def test_it_is_saved_with_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    nested = FallbackModel(
        [remote("b", temperature=0, retry=False), remote("c", retry=False)], on_interrupted="restart", hedge="p95"
    )
    model = FallbackModel(
        [remote("a", retry=False), nested],
        fallback_on=[ServerError, "RateLimited", OSError, "ModelError"],
        cooldown=5,
        max_tokens=9,
        timeout=3,
    )
    data = json.loads(json.dumps(model.to_dict()))
    assert "sk-secret" not in str(data) and data["fallback_on"] == [
        "ServerError",
        "RateLimited",
        "OSError",
        "ModelError",
    ]
    for twin in (Model.from_dict(data), FallbackModel.from_dict(data), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin, FallbackModel) and twin.to_dict() == data
        assert isinstance(twin.models[1], FallbackModel) and twin.models[1].hedge == "p95"
        assert twin.kwargs == {"max_tokens": 9, "timeout": 3}
        with pytest.raises(ConnectionFailed):
            twin.generate("?", timeout=20)


@pytest.mark.parametrize("on", [lambda error: True, [type("Mine", (ModelError,), {})]])
def test_what_cannot_be_saved_is_named(on: Any) -> None:
    with pytest.raises(TypeError, match="fallback_on"):
        FallbackModel([remote("a")], fallback_on=on).to_dict()


def test_its_health_is_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    model = FallbackModel([remote("a", retry=False), remote("b", retry=False)])
    with pytest.raises(ConnectionFailed):
        model.generate("?")
    assert all(candidate.cooling_until for candidate in model._candidates)
    assert not any(candidate.cooling_until for candidate in pickle.loads(pickle.dumps(model))._candidates)


def test_no_secret_shows() -> None:
    model = FallbackModel([remote("a", retry=False), remote("b", retry=False)])
    with pytest.raises(ConnectionFailed) as raised:
        model.generate("?")
    shown = [repr(model), repr(vars(model)), repr(pickle.dumps(model)), repr(raised.value.attempts), str(raised.value)]
    assert not any("sk-secret" in text for text in shown)
    assert repr(model) == "FallbackModel('a or b')"


class Closing(Played):
    def close(self) -> None:
        self.calls = ()
        if self.model_id == "a":
            raise OSError("it does not close")


@pytest.mark.parametrize("way", ["close", "aclose"])
def test_all_models_are_closed_with_it(way: str) -> None:
    models = [Closing("a"), Closing("b"), Closing("c")]
    model = FallbackModel(models)
    with pytest.raises(OSError, match="does not close"):
        model.close() if way == "close" else asyncio.run(model.aclose())
    assert [m.calls for m in models] == [(), (), ()]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"models": []}, "at least one"),
        ({"models": "gpt-4o"}, "at least one"),
        ({"models": ["gpt-4o"]}, "str is no modelport model"),
        ({"fallback_on": ["NoSuchError"]}, "NoSuchError"),
        ({"fallback_on": ["print"]}, "print"),
        ({"fallback_on": [KeyboardInterrupt]}, "KeyboardInterrupt"),
        ({"fallback_on": [3]}, "3 is no error"),
        ({"on_interrupted": "ignore"}, "on_interrupted"),
        ({"cooldown": -1}, "cooldown"),
        ({"cooldown": "p95"}, "cooldown"),
        ({"hedge": "p99"}, "hedge.*or p95"),
        ({"hedge": True}, "hedge"),
        ({"capabilities": {"tools": False}}, "capabilities"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        FallbackModel(**{"models": [Played("a")], **settings})


def test_a_message_comes_back_with_its_attempts() -> None:
    message = whole(FallbackModel([down("a"), Played("b")]))
    twin = ChatMessage.from_dict(json.loads(message.model_dump_json()))
    assert twin.attempts == message.attempts and len(twin.attempts) == 2
    # And is taken in a conversation, as a dict too.
    model = Played("c")
    for turn in (message, message.to_dict()):
        model.generate([{"role": "user", "content": "?"}, turn])
        assert model.requests[-1].messages[1].content == "b"


# --- on real services and engines -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Iterator[Model]:
    with LlamaCppModel(model_file(), context_length=8192, threads=1, temperature=0) as model:
        yield model


QUESTION = "What is the capital of France? Answer in one sentence."


def test_a_service_that_fails_and_an_engine_in_this_process(embedded: Model, way: Callable[..., ChatMessage]) -> None:
    with FaultServer() as server:
        server.script(then=Fault.status(503))
        service = OpenAIServerModel("gpt", api_base=server.base_url, api_key="k", retry=RetryPolicy(3, base=0.01))
        model = FallbackModel([service, embedded], cooldown=0)
        message = way(model, max_tokens=8)
        assert len(server.requests) == 3
        server.script(then=Fault.ok("From the service."))
        assert way(model).content == "From the service."
    assert message.content and message.model_id == embedded.model_id
    assert message.token_usage is not None and message.token_usage.output_tokens
    assert message.attempts[0].error is not None and message.attempts[0].error.startswith("ServerError")


def test_a_stream_that_is_reset_begins_again_on_the_engine(embedded: Model) -> None:
    with FaultServer() as server:
        server.script(then=Fault.cut("reset"))
        service = OpenAIServerModel("gpt", api_base=server.base_url, api_key="k")
        model = FallbackModel([service, embedded], on_interrupted="restart")
        deltas = [*model.generate_stream(QUESTION, max_tokens=20)]
        assert len(server.requests) == 1
    lost = [delta.content for delta in deltas[: [delta.restart for delta in deltas].index(True)]]
    assert "".join(text or "" for text in lost) == "The capital of F"
    assert accumulate(deltas).content == "The capital of France is Paris."


def test_a_hedge_leaves_no_connection_behind(way: Callable[..., ChatMessage]) -> None:
    with FaultServer() as slow, FaultServer() as quick:
        slow.script(then=Fault.slow(9.0))
        services = [
            OpenAIServerModel(name, api_base=server.base_url, api_key="k")
            for name, server in (("slow", slow), ("quick", quick))
        ]
        with FallbackModel(services, hedge=0.2) as model:
            begin = time.monotonic()
            assert way(model).model_id == "quick"
            assert time.monotonic() - begin < 5
            slow.wait_for(lambda: slow.open_connections == 0)
            assert (len(slow.requests), len(quick.requests)) == (1, 1)
