"""Time limits of attempts, and cancelled calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from modelport.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidRequest,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.layers.retry import RetryPolicy
from modelport.types.output_types import Regex
from modelport.types.request import Request
from tests.layers.clock import run_with_fake_clock
from tests.layers.replay import (
    HANG,
    OK,
    WITHOUT_WAITS,
    BackedModel,
    Backend,
    Delta,
    deltas_of,
    request,
    result_of,
    start,
)

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
