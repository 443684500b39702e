"""Retries: which requests are sent again and when, and the budget of retries."""

from __future__ import annotations

import asyncio
import pickle
import random
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
)
from modelport.layers.retry import Retry, RetryPolicy
from tests.layers.replay import (
    OK,
    WITHOUT_WAITS,
    BackedModel,
    Backend,
    Delta,
    deltas_of,
    result_of,
)

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
        delivered = part.has_output
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
