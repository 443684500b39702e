"""Retries and time limits: what is sent again, when, and what is left behind."""

from __future__ import annotations

import asyncio
import pickle
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    ModelError,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.layers.retry import Retry, RetryPolicy
from modelport.model import Model
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage, MessageRole
from modelport.types.output_types import Regex
from modelport.types.request import Request, Timeouts

from .clock import in_no_time

Delta = ChatMessageStreamDelta
OK: list[Any] = ["Paris", Delta(finish_reason="stop")]
HANG: list[Any] = [10_000]
AT_ONCE = RetryPolicy(base=0)


class Backend:
    """Plays one list per attempt: texts and deltas to send, seconds to wait, errors to raise."""

    def __init__(self, *attempts: list[Any]) -> None:
        self.attempts = list(attempts)
        self.sent_at: list[float] = []
        self.log: list[str] = []

    async def __call__(self, request: Request) -> AsyncGenerator[Delta, None]:
        self.sent_at.append(asyncio.get_running_loop().time())
        self.log.append("sent")
        try:
            for item in self.attempts[min(len(self.sent_at), len(self.attempts)) - 1]:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, int | float):
                    await asyncio.sleep(item)
                else:
                    yield Delta(content=item) if isinstance(item, str) else item
        finally:
            self.log.append("closed")


class Backed(Model):
    """A model over such a backend."""

    def __init__(self, *attempts: list[Any], **settings: Any) -> None:
        super().__init__("backed", **settings)
        self.backend = Backend(*attempts)

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        async for delta in self.backend(request):
            yield delta


def request(stream: bool = True, **limits: float | None) -> Request:
    return Request((ChatMessage(MessageRole.USER, "?"),), timeouts=Timeouts(**limits), stream=stream)


async def read(backend: Backend, policy: RetryPolicy = AT_ONCE, asked: Request | None = None) -> list[Delta]:
    asked = asked or request()
    asked = asked.replace(timeouts=asked.timeouts.started(asyncio.get_running_loop().time()))
    return [delta async for delta in Retry(policy)(asked, backend)]


def reads(backend: Backend, policy: RetryPolicy = AT_ONCE, **limits: float | None) -> tuple[Any, float]:
    """The answer's text or its error, and when it came."""

    async def work(clock: Callable[[], float]) -> tuple[Any, float]:
        try:
            return accumulate(await read(backend, policy, request(**limits))).content, clock()
        except ModelError as error:
            return error, clock()

    return in_no_time(work)


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_failed_request_is_sent_again(failures: int) -> None:
    backend = Backend(*[[ServerError("503")]] * failures, OK)
    assert reads(backend) == ("Paris", 0)
    assert backend.log == ["sent", "closed"] * (failures + 1)  # Each attempt is closed before the next begins.


def test_the_last_error_is_raised_when_the_attempts_are_spent() -> None:
    backend = Backend([ServerError("one")], [ConnectionFailed("two")], [RateLimited("three")], OK)
    error, _ = reads(backend)
    assert isinstance(error, RateLimited)
    assert len(backend.sent_at) == 3


def test_retry_can_be_switched_off() -> None:
    backend = Backend([ServerError("no")], OK)
    error, _ = reads(backend, RetryPolicy.from_value(False))
    assert isinstance(error, ServerError)
    assert len(backend.sent_at) == 1


@pytest.mark.parametrize("error", [AuthenticationError("401"), InvalidRequest("400"), ModelError("?")])
def test_what_will_not_help_is_not_sent_again(error: ModelError) -> None:
    backend = Backend([error], OK)
    assert reads(backend) == (error, 0)
    assert len(backend.sent_at) == 1


def test_an_error_may_say_itself_that_it_can_be_retried() -> None:
    assert reads(Backend([ModelError("once", retryable=True)], OK))[0] == "Paris"
    assert isinstance(reads(Backend([ServerError("never", retryable=False)], OK))[0], ServerError)


def test_a_policy_of_ones_own_decides() -> None:
    teapot = RetryPolicy(base=0, retryable=lambda error: error.status == 418)
    assert reads(Backend([ModelError("teapot", status=418)], OK), teapot)[0] == "Paris"
    assert isinstance(reads(Backend([ServerError("no", status=500)], OK), teapot)[0], ServerError)


async def test_an_error_that_is_none_of_ours_passes_through() -> None:
    backend = Backend([ZeroDivisionError()], OK)
    with pytest.raises(ZeroDivisionError):
        await read(backend)
    assert backend.log == ["sent", "closed"]


def test_nothing_is_sent_again_once_a_part_of_the_answer_has_been_delivered() -> None:
    for part in (Delta(content="Pa"), Delta(reasoning="hm"), Delta(tool_calls=[])):
        backend = Backend([part, ConnectionFailed("reset")], OK)
        delivered = part.delivers
        assert isinstance(reads(backend)[0], ConnectionFailed) == delivered
        assert len(backend.sent_at) == (1 if delivered else 2)


def test_a_refusal_that_taught_is_sent_again_and_is_no_attempt() -> None:
    """Also where nothing is retried and no time is limited; never once a part of the answer has been delivered."""

    def taught() -> InvalidRequest:
        error = InvalidRequest("no such parameter")
        error.profile_updated = True
        return error

    once = RetryPolicy(attempts=1)
    unlimited: dict[str, float | None] = {"timeout": None}
    for limits in ({}, unlimited):
        backend = Backend([taught()], [taught()], OK)
        assert reads(backend, once, **limits)[0] == "Paris"
        assert len(backend.sent_at) == 3
    assert isinstance(reads(Backend([taught()], [ServerError("no")], OK), once)[0], ServerError)
    assert isinstance(reads(Backend([Delta(content="Pa"), taught()], OK))[0], InvalidRequest)


def test_sync_and_async_calls_of_a_model_retry_alike() -> None:
    for call in (
        lambda m: m.generate("?").content,
        lambda m: "".join(d.content or "" for d in m.generate_stream("?")),
        lambda m: asyncio.run(m.agenerate("?")).content,
    ):
        model = Backed([ServerError("no")], [ServerError("no")], OK, retry=AT_ONCE)
        assert call(model) == "Paris"
        assert len(model.backend.sent_at) == 3


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_retry_after_is_waited_out() -> None:
    backend = Backend([RateLimited("429", retry_after=7)], [RateLimited("429", retry_after=0.25)], OK)
    assert reads(backend, RetryPolicy(base=1000)) == ("Paris", 7.25)
    assert backend.sent_at == [0, 7, 7.25]


def test_a_retry_after_that_is_too_long_fails_at_once_and_says_how_long() -> None:
    backend = Backend([RateLimited("429", retry_after=61)], OK)
    error, when = reads(backend)
    assert (error.retry_after, when, len(backend.sent_at)) == (61, 0, 1)
    assert reads(Backend([RateLimited("429", retry_after=61)], OK), RetryPolicy(max_retry_after=61)) == ("Paris", 61)


def test_a_wait_beyond_the_deadline_fails_at_once() -> None:
    backend = Backend([RateLimited("429", retry_after=7)], OK)
    error, when = reads(backend, timeout=5)
    assert isinstance(error, RateLimited)
    assert (error.retry_after, when, len(backend.sent_at)) == (7, 0, 1)


def test_waits_are_drawn_evenly_below_a_bound_that_doubles_up_to_a_cap() -> None:
    random.seed(1)
    policy = RetryPolicy(attempts=10, base=0.5, cap=3)
    for attempt, bound in enumerate([0.5, 1, 2, 3, 3, 3], 1):
        waits = [policy.wait_after(ServerError("no"), attempt) or 0.0 for _ in range(400)]
        assert 0 <= min(waits) < 0.1 * bound
        assert 0.9 * bound < max(waits) <= bound
        assert 0.4 * bound < sum(waits) / len(waits) < 0.6 * bound
    assert policy.wait_after(ServerError("no"), 10) is None


@pytest.mark.parametrize(
    ("given", "attempts"), [(True, 3), (None, 3), (False, 1), (1, 1), (5, 5), ({"attempts": 2}, 2), (RetryPolicy(4), 4)]
)
def test_the_forms_of_retry(given: Any, attempts: int) -> None:
    assert RetryPolicy.from_value(given).attempts == attempts


@pytest.mark.parametrize("attempts", [0, -1, 1.5, "3"])
def test_a_policy_without_an_attempt_is_refused(attempts: Any) -> None:
    with pytest.raises(InvalidRequest, match="attempts"):
        RetryPolicy(attempts=attempts)


def test_a_policy_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(RetryPolicy(attempts=7, cap=2))) == RetryPolicy(attempts=7, cap=2)


# --- time limits ------------------------------------------------------------------------------------------------------


def test_the_deadline_is_for_all_attempts_together() -> None:
    backend = Backend([4, ServerError("slow")])
    error, when = reads(backend, RetryPolicy(attempts=9, base=0), timeout=10)
    assert isinstance(error, DeadlineExceeded)
    assert "timeout=10 s" in str(error)
    assert not error.retryable
    assert (when, backend.sent_at) == (10, [0, 4, 8])
    assert backend.log == ["sent", "closed"] * 3


def test_a_slow_first_token_is_given_another_attempt() -> None:
    backend = Backend(HANG, OK)
    assert reads(backend, first_token_timeout=3) == ("Paris", 3)
    assert backend.log == ["sent", "closed"] * 2


def test_a_first_token_that_never_comes_fails_when_the_attempts_are_spent() -> None:
    backend = Backend(HANG)
    error, when = reads(backend, first_token_timeout=3)
    assert isinstance(error, DeadlineExceeded)
    assert "first_token_timeout=3 s" in str(error)
    assert (when, backend.sent_at) == (9, [0, 3, 6])


def test_first_token_timeout_is_over_with_the_first_part_of_the_answer() -> None:
    assert reads(Backend(["Par", 100, "is"]), first_token_timeout=3) == ("Paris", 100)
    # A delta that says only which model answers is no part of it.
    error, when = reads(Backend([Delta(model_id="m"), 100, "Paris"]), AT_ONCE, first_token_timeout=3)
    assert isinstance(error, DeadlineExceeded)
    assert when == 9


def test_idle_timeout_does_not_count_before_the_first_part() -> None:
    assert reads(Backend([50, "Paris"]), idle_timeout=3) == ("Paris", 50)


def test_a_stall_in_the_answer_interrupts_it_and_keeps_what_came() -> None:
    model = Backed(["The ", 2, "capital", 9999, "never"], retry=AT_ONCE)

    async def work(clock: Callable[[], float]) -> tuple[StreamInterrupted, float]:
        with pytest.raises(StreamInterrupted) as raised:
            async for _ in model.agenerate_stream("?", idle_timeout=3):
                pass
        return raised.value, clock()

    error, when = in_no_time(work)
    assert when == 5
    assert error.partial.content == "The capital"
    assert isinstance(error.__cause__, DeadlineExceeded)
    assert "idle_timeout=3 s" in str(error)
    assert model.backend.log == ["sent", "closed"]


def test_a_caller_who_pauses_is_not_taken_for_a_stall() -> None:
    backend = Backend(["a", "b", "c", 9999])

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        seen = ""
        with pytest.raises(DeadlineExceeded, match="idle_timeout"):
            async for delta in Retry(AT_ONCE)(request(timeout=None, idle_timeout=1), backend):
                seen += delta.content or ""
                await asyncio.sleep(100)
        return seen, clock()

    assert in_no_time(work) == ("abc", 301)  # … but the backend's own stall still is, 1 s after the caller is back.


def test_time_that_runs_out_while_the_caller_is_busy_is_said_at_the_next_read() -> None:
    async def work(clock: Callable[[], float]) -> float:
        stream = Retry(AT_ONCE)(request(timeout=5), Backend(["a", "b"]))
        await anext(stream)
        await asyncio.sleep(60)
        with pytest.raises(DeadlineExceeded, match="timeout=5 s"):
            await anext(stream)
        return clock()

    assert in_no_time(work) == 60


def test_without_limits_nothing_runs_out() -> None:
    assert reads(Backend([100_000, "Paris"]), timeout=None) == ("Paris", 100_000)


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_a_cancelled_caller_is_cancelled_and_nothing_is_sent_again() -> None:
    model = Backed(HANG, OK, retry=AT_ONCE)
    task = asyncio.create_task(model.agenerate("?", first_token_timeout=5))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert model.backend.log == ["sent", "closed"]


def test_a_cancelled_caller_does_not_wait_for_the_next_attempt() -> None:
    async def work(clock: Callable[[], float]) -> float:
        backend = Backend([RateLimited("429", retry_after=50)], OK)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await read(backend)
        assert len(backend.sent_at) == 1
        return clock()

    assert in_no_time(work) == 3


@pytest.mark.parametrize(
    ("own", "callers", "raised"), [(5, 9, DeadlineExceeded), (9, 5, TimeoutError), (5, 5, TimeoutError)]
)
def test_a_callers_timeout_around_a_call_stays_a_timeout(own: float, callers: float, raised: type[Exception]) -> None:
    """Also where both run out at the same moment: then the caller's cancellation is the one that counts."""
    model = Backed(HANG, retry=False)

    async def work(clock: Callable[[], float]) -> tuple[float, int]:
        with pytest.raises(raised):
            async with asyncio.timeout(callers):
                await model.agenerate("?", timeout=own)
        task = asyncio.current_task()
        assert task is not None
        return clock(), task.cancelling()

    assert in_no_time(work) == (5, 0)
    assert model.backend.log == ["sent", "closed"]


def test_a_call_made_while_its_task_is_being_cancelled_still_has_its_deadline() -> None:
    errors = []

    async def cleaning_up() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            try:
                await read(Backend(HANG), AT_ONCE, request(timeout=2))
            except BaseException as error:
                errors.append(type(error))
            raise

    async def work(clock: Callable[[], float]) -> float:
        task = asyncio.create_task(cleaning_up())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return clock()

    assert in_no_time(work) == 3
    assert errors == [DeadlineExceeded]


async def _reports_a_cancellation_as_a_fault(request: Request) -> AsyncGenerator[Delta, None]:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        raise ConnectionFailed("closed") from None
    yield Delta()


async def _answers_all_the_same(request: Request) -> AsyncGenerator[Delta, None]:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        yield Delta(content="late")


@pytest.mark.parametrize("backend", [_reports_a_cancellation_as_a_fault, _answers_all_the_same])
def test_a_backend_that_hides_its_cancellation_changes_nothing_for_the_caller(backend: Any) -> None:
    """The time is up, and the caller's task does not look cancelled for it ever after."""

    async def work(clock: Callable[[], float]) -> tuple[float, int]:
        with pytest.raises(DeadlineExceeded):
            async for _ in Retry(AT_ONCE)(request(timeout=2), backend):
                pass
        task = asyncio.current_task()
        assert task is not None
        return clock(), task.cancelling()

    assert in_no_time(work) == (2, 0)


@pytest.mark.parametrize("how", ["ended", "failed", "closed", "cancelled"])
def test_no_timer_is_left_behind(how: str) -> None:
    limits = {"timeout": 600.0, "first_token_timeout": 60.0, "idle_timeout": 60.0}

    async def work(clock: Callable[[], float]) -> int:
        loop: Any = asyncio.get_running_loop()
        last: list[Any] = {"ended": [], "failed": [InvalidRequest("no")]}.get(how, [1000])
        stream = Retry(AT_ONCE)(request(**limits), Backend(["a", "b", *last]))
        await anext(stream)
        await anext(stream)
        if how == "cancelled":
            reading = asyncio.create_task(anext(stream))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        elif how == "closed":
            await stream.aclose()
        else:
            with pytest.raises((StopAsyncIteration, InvalidRequest)):
                await anext(stream)
        return sum(not timer.cancelled() for timer in loop._scheduled)

    assert in_no_time(work) == 0


def test_a_long_answer_keeps_one_timer() -> None:
    async def work(clock: Callable[[], float]) -> int:
        loop: Any = asyncio.get_running_loop()
        most = 0
        asked = request(first_token_timeout=60, idle_timeout=60)
        async for _ in Retry(AT_ONCE)(asked, Backend([item for _ in range(500) for item in ("a", 0.5)])):
            most = max(most, sum(not timer.cancelled() for timer in loop._scheduled))
        return most

    assert in_no_time(work) == 1


# --- answers that nobody reads yet ------------------------------------------------------------------------------------


def test_a_whole_answer_is_asked_for_again_though_its_engine_streams_inside() -> None:
    """Nothing has reached the caller; and nothing of the lost attempt is in the answer."""
    model = Backed(["The capi", ConnectionFailed("reset")], ["Pa", "ris", Delta(finish_reason="stop")], retry=AT_ONCE)
    assert model.generate("?").content == "Paris"
    assert asyncio.run(model.agenerate("?")).content == "Paris"
    assert len(model.backend.sent_at) == 3


def test_what_the_last_attempt_gave_is_the_partial_of_a_whole_answer() -> None:
    model = Backed(["lost", ServerError("1")], ["The ", "capi", ServerError("2")], retry=RetryPolicy(2, base=0))
    with pytest.raises(ServerError, match="2") as raised:
        model.generate("?")
    assert raised.value.partial is not None and raised.value.partial.content == "The capi"
    assert len(model.backend.sent_at) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_whole_answer_that_its_time_limit_cuts_is_no_interrupted_stream(asynchronous: bool) -> None:
    """Its caller has seen nothing of it, and catches the limit."""
    model = Backed(["The ", "capi", 9.0], retry=AT_ONCE)
    with pytest.raises(DeadlineExceeded, match=r"timeout=0\.1 s") as raised:
        asyncio.run(model.agenerate("?", timeout=0.1)) if asynchronous else model("?", timeout=0.1)
    assert raised.value.partial is not None and raised.value.partial.content == "The capi"


def test_after_any_number_of_attempts_there_is_a_wait() -> None:
    policy = RetryPolicy(attempts=2000, base=1e-9, cap=3, budget=None)
    assert 0 <= policy.wait_after(ServerError("no"), 1999) <= 3  # type: ignore[operator]


# --- the budget -------------------------------------------------------------------------------------------------------


def outage(policy: RetryPolicy, calls: int) -> int:
    """How many requests so many calls make of a service that is down."""
    model = Backed([ServerError("down")], retry=policy)

    async def work() -> None:
        answers = await asyncio.gather(*(model.agenerate("?") for _ in range(calls)), return_exceptions=True)
        assert all(type(answer) is ServerError for answer in answers)

    asyncio.run(work())
    return len(model.backend.sent_at)


def test_an_outage_is_not_multiplied() -> None:
    assert outage(RetryPolicy(base=0, budget=None), 300) == 900
    assert outage(RetryPolicy(base=0), 300) == 400
    assert outage(RetryPolicy(base=0, budget=0), 300) == 300


def test_an_error_that_the_quota_kept_from_a_retry_says_so() -> None:
    error, _ = reads(Backed([ServerError("down")]).backend, RetryPolicy(base=0, budget=1))
    assert "It was not sent again: the 1 retries" in error.__notes__[0]
    error, _ = reads(Backed([ServerError("down")]).backend, RetryPolicy(attempts=2, base=0, budget=1))
    assert not hasattr(error, "__notes__")  # its attempts were spent, not the budget


def test_a_retry_that_helped_is_given_back() -> None:
    model = Backed(*[[ServerError("once")], OK] * 20, retry=RetryPolicy(base=0, budget=1))
    for _ in range(10):
        assert model.generate("?").content == "Paris"
        assert "".join(d.content or "" for d in model.generate_stream("?")) == "Paris"


def test_a_stream_that_is_left_after_its_retry_helped_has_given_it_back() -> None:
    model = Backed(*[[ServerError("once")], OK] * 5, retry=RetryPolicy(base=0, budget=1))
    for _ in range(5):
        with model.generate_stream("?") as stream:
            assert next(stream).content == "Paris"


def test_calls_that_need_no_retry_fill_the_quota_up_again() -> None:
    down, up = [ServerError("down")], OK
    model = Backed(down, down, *[up] * 5, down, up, retry=RetryPolicy(base=0, attempts=2, budget=1))
    with pytest.raises(ServerError):
        model.generate("?")
    for _ in range(5):
        model.generate("?")
    assert model.generate("?").content == "Paris"  # by a retry
    assert len(model.backend.sent_at) == 9


def test_the_quota_is_never_more_than_its_size() -> None:
    model = Backed(*[OK] * 50, [ServerError("down")], retry=RetryPolicy(base=0, attempts=9, budget=2))
    for _ in range(50):
        model.generate("?")
    with pytest.raises(ServerError):
        model.generate("?")
    assert len(model.backend.sent_at) == 53


def test_each_model_has_a_quota_of_its_own_which_a_pickle_starts_afresh() -> None:
    policy = RetryPolicy(base=0, budget=1)
    for layer in (Retry(policy), Retry(policy)):
        reads_with = pickle.loads(pickle.dumps(layer))
        assert reads_with.policy == policy
        assert [reads_with._quota.take() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("budget", [-1, 1.5, True, "3"])
def test_a_quota_that_is_none_is_refused(budget: Any) -> None:
    with pytest.raises(InvalidRequest, match="budget"):
        RetryPolicy(budget=budget)


@pytest.mark.parametrize("name", ["base", "cap", "max_retry_after"])
@pytest.mark.parametrize("value", [-1, float("nan"), "1", True])
def test_waits_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        RetryPolicy(**{name: value})


def test_an_unknown_setting_of_retry_is_named() -> None:
    with pytest.raises(InvalidRequest, match="'attemps' is unknown"):
        Backed(OK, retry={"attemps": 3})
    with pytest.raises(InvalidRequest, match="retryable must be a function"):
        RetryPolicy(retryable="429")  # type: ignore[arg-type]


# --- one deadline -----------------------------------------------------------------------------------------------------


def test_re_asks_have_the_calls_deadline_and_no_new_ones() -> None:
    """The answer never has its form: it is asked for again, which takes 4 s each time."""
    model = Backed([4, "no date", Delta(finish_reason="stop")], retry=AT_ONCE, capabilities={"grammars": set()})

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        with pytest.raises(DeadlineExceeded) as raised:
            await model.agenerate("?", grammar=Regex(r"\d{4}"), timeout=6)
        return str(raised.value), clock()

    message, when = in_no_time(work)
    assert "timeout=6 s ran out" in message
    assert (when, model.backend.sent_at) == (6, [0, 4])
