"""Retries and time limits: which requests are sent again and when, and that nothing is left behind."""

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

from .clock import run_with_fake_clock

Delta = ChatMessageStreamDelta
OK: list[Any] = ["Paris", Delta(finish_reason="stop")]
HANG: list[Any] = [10_000]
WITHOUT_WAITS = RetryPolicy(base=0)


class Backend:
    """Replays one list per attempt: texts and deltas to yield, seconds to wait, errors to raise."""

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


class BackedModel(Model):
    """A model with such a backend."""

    def __init__(self, *attempts: list[Any], **settings: Any) -> None:
        super().__init__("backed", **settings)
        self.backend = Backend(*attempts)

    async def deltas(self, request: Request) -> AsyncGenerator[Delta, None]:
        async for delta in self.backend(request):
            yield delta


def request(**limits: float | None) -> Request:
    return Request((ChatMessage(MessageRole.USER, "?"),), timeouts=Timeouts(**limits), stream=True)


def start(request: Request, backend: Any, policy: RetryPolicy = WITHOUT_WAITS) -> AsyncGenerator[Delta, None]:
    """Start a call through the layer, as `Model` does: with the deadline set."""
    request.timeouts.start(asyncio.get_running_loop().time())
    return Retry(policy)(request, backend)


async def deltas_of(backend: Backend, policy: RetryPolicy = WITHOUT_WAITS, sent: Request | None = None) -> list[Delta]:
    return [delta async for delta in start(sent or request(), backend, policy)]


def result_of(backend: Backend, policy: RetryPolicy = WITHOUT_WAITS, **limits: float | None) -> tuple[Any, float]:
    """Return the text of the response or the error, and the time at which it came."""

    async def work(clock: Callable[[], float]) -> tuple[Any, float]:
        try:
            return accumulate(await deltas_of(backend, policy, request(**limits))).content, clock()
        except ModelError as error:
            return error, clock()

    return run_with_fake_clock(work)


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_failed_request_is_sent_again(failures: int) -> None:
    backend = Backend(*[[ServerError("503")]] * failures, OK)
    assert result_of(backend) == ("Paris", 0)
    assert backend.log == ["sent", "closed"] * (failures + 1)  # Each attempt is closed before the next one starts.


def test_exhausted_attempts_raise_the_last_error() -> None:
    backend = Backend([ServerError("one")], [ConnectionFailed("two")], [RateLimited("three")], OK)
    error, _ = result_of(backend)
    assert isinstance(error, RateLimited)
    assert len(backend.sent_at) == 3


def test_retry_false_sends_one_request() -> None:
    backend = Backend([ServerError("no")], OK)
    error, _ = result_of(backend, RetryPolicy.from_value(False))
    assert isinstance(error, ServerError)
    assert len(backend.sent_at) == 1


@pytest.mark.parametrize("error", [AuthenticationError("401"), InvalidRequest("400"), ModelError("?")])
def test_error_that_is_not_retryable_is_not_retried(error: ModelError) -> None:
    backend = Backend([error], OK)
    assert result_of(backend) == (error, 0)
    assert len(backend.sent_at) == 1


def test_retryable_of_the_error_overrides_its_class() -> None:
    assert result_of(Backend([ModelError("once", retryable=True)], OK))[0] == "Paris"
    assert isinstance(result_of(Backend([ServerError("never", retryable=False)], OK))[0], ServerError)


def test_retryable_of_the_policy_decides() -> None:
    teapot = RetryPolicy(base=0, retryable=lambda error: error.status == 418)
    assert result_of(Backend([ModelError("teapot", status=418)], OK), teapot)[0] == "Paris"
    assert isinstance(result_of(Backend([ServerError("no", status=500)], OK), teapot)[0], ServerError)


async def test_error_of_another_type_is_not_retried() -> None:
    backend = Backend([ZeroDivisionError()], OK)
    with pytest.raises(ZeroDivisionError):
        await deltas_of(backend)
    assert backend.log == ["sent", "closed"]


def test_failure_after_a_delivered_part_is_not_retried() -> None:
    for part in (Delta(content="Pa"), Delta(reasoning="hm"), Delta(tool_calls=[])):
        backend = Backend([part, ConnectionFailed("reset")], OK)
        delivered = part.delivers
        assert isinstance(result_of(backend)[0], ConnectionFailed) == delivered
        assert len(backend.sent_at) == (1 if delivered else 2)


def test_rejection_that_updated_the_profile_is_not_retried_here() -> None:
    """`Model` starts the call again, with the new capabilities (see `tests/test_model.py`)."""
    error = InvalidRequest("no such parameter", retryable=True)
    error.profile_updated = True
    backend = Backend([error], OK)
    assert result_of(backend) == (error, 0)
    assert len(backend.sent_at) == 1


def test_sync_stream_and_async_calls_are_retried() -> None:
    for call in (
        lambda m: m.generate("?").content,
        lambda m: "".join(d.content or "" for d in m.generate_stream("?")),
        lambda m: asyncio.run(m.agenerate("?")).content,
    ):
        model = BackedModel([ServerError("no")], [ServerError("no")], OK, retry=WITHOUT_WAITS)
        assert call(model) == "Paris"
        assert len(model.backend.sent_at) == 3


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_retry_after_sets_the_wait() -> None:
    backend = Backend([RateLimited("429", retry_after=7)], [RateLimited("429", retry_after=0.25)], OK)
    assert result_of(backend, RetryPolicy(base=1000)) == ("Paris", 7.25)
    assert backend.sent_at == [0, 7, 7.25]


def test_retry_after_above_the_maximum_fails_at_once() -> None:
    backend = Backend([RateLimited("429", retry_after=61)], OK)
    error, when = result_of(backend)
    assert (error.retry_after, when, len(backend.sent_at)) == (61, 0, 1)
    assert result_of(Backend([RateLimited("429", retry_after=61)], OK), RetryPolicy(max_retry_after=61)) == (
        "Paris",
        61,
    )


def test_wait_beyond_the_deadline_fails_at_once() -> None:
    backend = Backend([RateLimited("429", retry_after=7)], OK)
    error, when = result_of(backend, timeout=5)
    assert isinstance(error, RateLimited)
    assert (error.retry_after, when, len(backend.sent_at)) == (7, 0, 1)


def test_waits_are_uniform_below_a_bound_that_doubles_up_to_a_cap() -> None:
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
def test_retry_argument_becomes_a_policy(given: Any, attempts: int) -> None:
    assert RetryPolicy.from_value(given).attempts == attempts


@pytest.mark.parametrize("attempts", [0, -1, 1.5, "3"])
def test_policy_with_wrong_attempts_is_refused(attempts: Any) -> None:
    with pytest.raises(InvalidRequest, match="attempts"):
        RetryPolicy(attempts=attempts)


def test_policy_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(RetryPolicy(attempts=7, cap=2))) == RetryPolicy(attempts=7, cap=2)


# --- time limits ------------------------------------------------------------------------------------------------------


def test_timeout_covers_all_attempts() -> None:
    backend = Backend([4, ServerError("slow")])
    error, when = result_of(backend, RetryPolicy(attempts=9, base=0), timeout=10)
    assert isinstance(error, DeadlineExceeded)
    assert "timeout=10 s" in str(error)
    assert not error.retryable
    assert (when, backend.sent_at) == (10, [0, 4, 8])
    assert backend.log == ["sent", "closed"] * 3


def test_first_token_timeout_starts_another_attempt() -> None:
    backend = Backend(HANG, OK)
    assert result_of(backend, first_token_timeout=3) == ("Paris", 3)
    assert backend.log == ["sent", "closed"] * 2


def test_first_token_timeout_of_every_attempt_raises() -> None:
    backend = Backend(HANG)
    error, when = result_of(backend, first_token_timeout=3)
    assert isinstance(error, DeadlineExceeded)
    assert "first_token_timeout=3 s" in str(error)
    assert (when, backend.sent_at) == (9, [0, 3, 6])


def test_first_token_timeout_ends_with_the_first_part_of_the_response() -> None:
    assert result_of(Backend(["Par", 100, "is"]), first_token_timeout=3) == ("Paris", 100)
    # A delta with only the name of the model is no part of the response.
    error, when = result_of(Backend([Delta(model_id="m"), 100, "Paris"]), WITHOUT_WAITS, first_token_timeout=3)
    assert isinstance(error, DeadlineExceeded)
    assert when == 9


def test_idle_timeout_starts_after_the_first_part() -> None:
    assert result_of(Backend([50, "Paris"]), idle_timeout=3) == ("Paris", 50)


def test_idle_timeout_interrupts_the_stream_with_the_partial_response() -> None:
    model = BackedModel(["The ", 2, "capital", 9999, "never"], retry=WITHOUT_WAITS)

    async def work(clock: Callable[[], float]) -> tuple[StreamInterrupted, float]:
        with pytest.raises(StreamInterrupted) as raised:
            async for _ in model.agenerate_stream("?", idle_timeout=3):
                pass
        return raised.value, clock()

    error, when = run_with_fake_clock(work)
    assert when == 5
    assert error.partial.content == "The capital"
    assert isinstance(error.__cause__, DeadlineExceeded)
    assert "idle_timeout=3 s" in str(error)
    assert model.backend.log == ["sent", "closed"]


def test_idle_timeout_does_not_count_pauses_of_the_caller() -> None:
    backend = Backend(["a", "b", "c", 9999])

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        seen = ""
        with pytest.raises(DeadlineExceeded, match="idle_timeout"):
            async for delta in start(request(timeout=None, idle_timeout=1), backend):
                seen += delta.content or ""
                await asyncio.sleep(100)
        return seen, clock()

    assert run_with_fake_clock(work) == (
        "abc",
        301,
    )  # The pause of the backend counts: 1 s after the caller reads again.


def test_timeout_during_a_pause_of_the_caller_raises_at_the_next_read() -> None:
    async def work(clock: Callable[[], float]) -> float:
        stream = start(request(timeout=5), Backend(["a", "b"]))
        await anext(stream)
        await asyncio.sleep(60)
        with pytest.raises(DeadlineExceeded, match="timeout=5 s"):
            await anext(stream)
        return clock()

    assert run_with_fake_clock(work) == 60


def test_no_limits_wait_forever() -> None:
    assert result_of(Backend([100_000, "Paris"]), timeout=None) == ("Paris", 100_000)


# --- cancellation -----------------------------------------------------------------------------------------------------


async def test_cancelled_call_is_not_retried() -> None:
    model = BackedModel(HANG, OK, retry=WITHOUT_WAITS)
    task = asyncio.create_task(model.agenerate("?", first_token_timeout=5))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert model.backend.log == ["sent", "closed"]


def test_cancelled_call_ends_during_the_wait_for_a_retry() -> None:
    async def work(clock: Callable[[], float]) -> float:
        backend = Backend([RateLimited("429", retry_after=50)], OK)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await deltas_of(backend)
        assert len(backend.sent_at) == 1
        return clock()

    assert run_with_fake_clock(work) == 3


@pytest.mark.parametrize(
    ("own", "callers", "raised"), [(5, 9, DeadlineExceeded), (9, 5, TimeoutError), (5, 5, TimeoutError)]
)
def test_callers_own_timeout_raises_timeout_error(own: float, callers: float, raised: type[Exception]) -> None:
    """Also if both run out at the same moment: then the caller's cancellation counts."""
    model = BackedModel(HANG, retry=False)

    async def work(clock: Callable[[], float]) -> tuple[float, int]:
        with pytest.raises(raised):
            async with asyncio.timeout(callers):
                await model.agenerate("?", timeout=own)
        task = asyncio.current_task()
        assert task is not None
        return clock(), task.cancelling()

    assert run_with_fake_clock(work) == (5, 0)
    assert model.backend.log == ["sent", "closed"]


def test_timeout_holds_in_a_task_that_is_being_cancelled() -> None:
    errors = []

    async def cleaning_up() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            try:
                await deltas_of(Backend(HANG), WITHOUT_WAITS, request(timeout=2))
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

    assert run_with_fake_clock(work) == 3
    assert errors == [DeadlineExceeded]


async def _raises_connection_failed(request: Request) -> AsyncGenerator[Delta, None]:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        raise ConnectionFailed("closed") from None
    yield Delta()


async def _responds_anyway(request: Request) -> AsyncGenerator[Delta, None]:
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        yield Delta(content="late")


@pytest.mark.parametrize("backend", [_raises_connection_failed, _responds_anyway])
def test_timeout_raises_if_the_backend_hides_its_cancellation(backend: Any) -> None:
    """The task of the caller does not count as cancelled afterwards."""

    async def work(clock: Callable[[], float]) -> tuple[float, int]:
        with pytest.raises(DeadlineExceeded):
            async for _ in start(request(timeout=2), backend):
                pass
        task = asyncio.current_task()
        assert task is not None
        return clock(), task.cancelling()

    assert run_with_fake_clock(work) == (2, 0)


@pytest.mark.parametrize("how", ["ended", "failed", "closed", "cancelled"])
def test_ended_call_leaves_no_timer(how: str) -> None:
    limits = {"timeout": 600.0, "first_token_timeout": 60.0, "idle_timeout": 60.0}

    async def work(clock: Callable[[], float]) -> int:
        loop: Any = asyncio.get_running_loop()
        last: list[Any] = {"ended": [], "failed": [InvalidRequest("no")]}.get(how, [1000])
        stream = start(request(**limits), Backend(["a", "b", *last]))
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

    assert run_with_fake_clock(work) == 0


def test_long_stream_uses_one_timer() -> None:
    async def work(clock: Callable[[], float]) -> int:
        loop: Any = asyncio.get_running_loop()
        most = 0
        backend = Backend([item for _ in range(500) for item in ("a", 0.5)])
        async for _ in start(request(first_token_timeout=60, idle_timeout=60), backend):
            most = max(most, sum(not timer.cancelled() for timer in loop._scheduled))
        return most

    assert run_with_fake_clock(work) == 1


# --- calls that do not stream -----------------------------------------------------------------------------------------


def test_non_streaming_call_is_retried_after_a_failure_halfway() -> None:
    """The caller has received nothing, and nothing of the failed attempt is in the response."""
    model = BackedModel(
        ["The capi", ConnectionFailed("reset")], ["Pa", "ris", Delta(finish_reason="stop")], retry=WITHOUT_WAITS
    )
    assert model.generate("?").content == "Paris"
    assert asyncio.run(model.agenerate("?")).content == "Paris"
    assert len(model.backend.sent_at) == 3


def test_error_of_a_non_streaming_call_has_the_partial_response_of_the_last_attempt() -> None:
    model = BackedModel(["lost", ServerError("1")], ["The ", "capi", ServerError("2")], retry=RetryPolicy(2, base=0))
    with pytest.raises(ServerError, match="2") as raised:
        model.generate("?")
    assert raised.value.partial is not None and raised.value.partial.content == "The capi"
    assert len(model.backend.sent_at) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_timeout_of_a_non_streaming_call_raises_deadline_exceeded(asynchronous: bool) -> None:
    """It is no interrupted stream, because the caller has received nothing."""
    model = BackedModel(["The ", "capi", 9.0], retry=WITHOUT_WAITS)
    with pytest.raises(DeadlineExceeded, match=r"timeout=0\.1 s") as raised:
        asyncio.run(model.agenerate("?", timeout=0.1)) if asynchronous else model("?", timeout=0.1)
    assert raised.value.partial is not None and raised.value.partial.content == "The capi"


def test_wait_after_thousands_of_attempts_stays_below_the_cap() -> None:
    policy = RetryPolicy(attempts=2000, base=1e-9, cap=3, budget=None)
    assert 0 <= policy.wait_after(ServerError("no"), 1999) <= 3  # type: ignore[operator]


# --- the budget -------------------------------------------------------------------------------------------------------


def outage(policy: RetryPolicy, calls: int) -> int:
    """Return the number of requests that so many calls send to a service that is down."""
    model = BackedModel([ServerError("down")], retry=policy)

    async def work() -> None:
        answers = await asyncio.gather(*(model.agenerate("?") for _ in range(calls)), return_exceptions=True)
        assert all(type(answer) is ServerError for answer in answers)

    asyncio.run(work())
    return len(model.backend.sent_at)


def test_budget_limits_the_requests_of_an_outage() -> None:
    assert outage(RetryPolicy(base=0, budget=None), 300) == 900
    assert outage(RetryPolicy(base=0), 300) == 400
    assert outage(RetryPolicy(base=0, budget=0), 300) == 300


def test_exhausted_budget_adds_a_note_to_the_error() -> None:
    error, _ = result_of(BackedModel([ServerError("down")]).backend, RetryPolicy(base=0, budget=1))
    assert "The request was not sent again: the 1 retries" in error.__notes__[0]
    error, _ = result_of(BackedModel([ServerError("down")]).backend, RetryPolicy(attempts=2, base=0, budget=1))
    assert not hasattr(error, "__notes__")  # The attempts were exhausted, not the budget.


def test_response_after_a_retry_refills_the_budget() -> None:
    model = BackedModel(*[[ServerError("once")], OK] * 20, retry=RetryPolicy(base=0, budget=1))
    for _ in range(10):
        assert model.generate("?").content == "Paris"
        assert "".join(d.content or "" for d in model.generate_stream("?")) == "Paris"


def test_stream_that_is_closed_early_has_refilled_the_budget() -> None:
    model = BackedModel(*[[ServerError("once")], OK] * 5, retry=RetryPolicy(base=0, budget=1))
    for _ in range(5):
        with model.generate_stream("?") as stream:
            assert next(stream).content == "Paris"


def test_responses_without_retries_refill_the_budget() -> None:
    down, up = [ServerError("down")], OK
    model = BackedModel(down, down, *[up] * 5, down, up, retry=RetryPolicy(base=0, attempts=2, budget=1))
    with pytest.raises(ServerError):
        model.generate("?")
    for _ in range(5):
        model.generate("?")
    assert model.generate("?").content == "Paris"  # after a retry
    assert len(model.backend.sent_at) == 9


def test_budget_never_exceeds_its_size() -> None:
    model = BackedModel(*[OK] * 50, [ServerError("down")], retry=RetryPolicy(base=0, attempts=9, budget=2))
    for _ in range(50):
        model.generate("?")
    with pytest.raises(ServerError):
        model.generate("?")
    assert len(model.backend.sent_at) == 53


def test_unpickled_layer_has_a_full_budget_of_its_own() -> None:
    policy = RetryPolicy(base=0, budget=1)
    for layer in (Retry(policy), Retry(policy)):
        copy = pickle.loads(pickle.dumps(layer))
        assert copy.policy == policy
        assert [copy._budget.take() for _ in range(2)] == [True, False]


@pytest.mark.parametrize("budget", [-1, 1.5, True, "3"])
def test_policy_with_wrong_budget_is_refused(budget: Any) -> None:
    with pytest.raises(InvalidRequest, match="budget"):
        RetryPolicy(budget=budget)


@pytest.mark.parametrize("name", ["base", "cap", "max_retry_after"])
@pytest.mark.parametrize("value", [-1, float("nan"), "1", True])
def test_policy_with_wrong_wait_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=name):
        RetryPolicy(**{name: value})


def test_unknown_setting_of_the_policy_is_named() -> None:
    with pytest.raises(InvalidRequest, match="'attemps' is unknown"):
        BackedModel(OK, retry={"attemps": 3})
    with pytest.raises(InvalidRequest, match="retryable must be a function"):
        RetryPolicy(retryable="429")  # type: ignore[arg-type]


# --- one deadline -----------------------------------------------------------------------------------------------------


def test_timeout_covers_retries_with_feedback() -> None:
    """The output never matches its pattern: the model is called again with feedback, which takes 4 s each time."""
    model = BackedModel(
        [4, "no date", Delta(finish_reason="stop")], retry=WITHOUT_WAITS, capabilities={"grammars": set()}
    )

    async def work(clock: Callable[[], float]) -> tuple[str, float]:
        with pytest.raises(DeadlineExceeded) as raised:
            await model.agenerate("?", grammar=Regex(r"\d{4}"), timeout=6)
        return str(raised.value), clock()

    message, when = run_with_fake_clock(work)
    assert "timeout=6 s ran out" in message
    assert (when, model.backend.sent_at) == (6, [0, 4])
