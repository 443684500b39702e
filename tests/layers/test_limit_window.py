"""Requests and tokens per minute: never above the limit in any 60 seconds, and no request waits longer than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelport.layers.limit.layer import Limit
from modelport.layers.limit.window import WINDOW_SECONDS, RateWindow, WindowEntry
from modelport.types.request import Request
from modelport.types.usage import TokenUsage
from tests.properties import examples

from .clock import run_with_fake_clock
from .limit_backend import Backend, BackendModel, call_from_threads_and_loops, most_in_a_window, request, send

# --- RateWindow -------------------------------------------------------------------------------------------------------


def add(window: RateWindow, at: float, tokens: int) -> WindowEntry:
    """Count a request that reaches the service as soon as it is admitted."""
    entry = window.add(at, tokens)
    window.sent(entry, at)
    return entry


@pytest.mark.parametrize(
    ("requests", "tokens", "admitted", "now", "wanted", "delay"),
    [
        pytest.param(None, None, [(0, 10**9)] * 9, 0, 10**9, 0, id="no limits"),
        pytest.param(1, None, [], 0, 0, 0, id="an empty window"),
        pytest.param(2, None, [(0, 0)], 0, 0, 0, id="one below the limit"),
        pytest.param(2, None, [(0, 0), (10, 0)], 30, 0, 30, id="at the limit: until the oldest leaves"),
        pytest.param(2, None, [(0, 0), (10, 0)], 59.5, 0, 0.5, id="just before the oldest leaves"),
        pytest.param(2, None, [(0, 0), (10, 0)], 60, 0, 0, id="a request leaves after exactly 60 s"),
        pytest.param(1, None, [(0, 0)], 59.9999999, 0, 0.001, id="a wait is never shorter than 1 ms"),
        pytest.param(1.5, None, [(0, 0)], 10, 0, 50, id="a fraction of a request is none"),
        pytest.param(None, 100, [(0, 40)], 0, 60, 0, id="the tokens fit exactly"),
        pytest.param(None, 100, [(0, 40)], 0, 61, 60, id="one token too many"),
        pytest.param(None, 100, [(0, 50), (20, 40)], 30, 50, 30, id="the first departure makes enough room"),
        pytest.param(None, 100, [(0, 10), (20, 40)], 30, 90, 50, id="two departures are needed"),
        pytest.param(None, 100, [(0, 50), (20, 50)], 30, 100, 50, id="a request as large as the limit goes alone"),
        pytest.param(None, 100, [], 0, 101, 0, id="above the limit: into an empty window at once"),
        pytest.param(None, 100, [(0, 5), (20, 5)], 30, 101, 50, id="above the limit: when the window is empty"),
        pytest.param(2, 100, [(0, 5), (10, 5)], 30, 5, 30, id="both limits: no request is free"),
        pytest.param(9, 100, [(0, 60), (10, 30)], 30, 50, 30, id="both limits: the tokens don't fit"),
        pytest.param(2, 100, [(0, 10), (10, 90)], 30, 50, 40, id="both limits: the later of both"),
    ],
)
def test_rate_window_delay(
    requests: float | None,
    tokens: float | None,
    admitted: list[tuple[float, int]],
    now: float,
    wanted: int,
    delay: float,
) -> None:
    window = RateWindow(requests, tokens)
    for at, cost in admitted:
        add(window, at, cost)
    assert window.delay(now, wanted) == pytest.approx(delay)


def test_rate_window_correct_makes_room_for_the_next_request() -> None:
    window = RateWindow(None, 100)
    entry = add(window, 0, 90)
    assert window.delay(1, 20) == 59
    window.correct(entry, 80)
    assert window.delay(1, 20) == 0
    window.correct(entry, 95)
    assert window.delay(1, 20) == 59


def test_rate_window_correct_ignores_a_request_that_has_left() -> None:
    window = RateWindow(None, 100)
    entry = add(window, 0, 50)
    assert window.delay(60, 100) == 0 and not entry.in_window
    window.correct(entry, 100)
    assert window.delay(60, 100) == 0


def test_rate_window_drops_requests_that_have_left() -> None:
    window = RateWindow(10, 1000)
    for n in range(200):
        add(window, n * 30.0, 1)
    assert len(window) == 2


def test_rate_window_length_can_be_set() -> None:
    window = RateWindow(1, None, seconds=2)
    add(window, 0, 0)
    assert (window.delay(1.5, 0), window.delay(2, 0)) == (0.5, 0)


_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("request"), st.integers(0, 40), st.integers(0, 60)),  # seconds since the last one, tokens
        st.tuples(st.just("correct"), st.integers(0, 10), st.integers(0, 90)),  # which entry from the end, tokens
    ),
    max_size=40,
)


@examples(300)
@given(st.none() | st.integers(1, 4), st.none() | st.integers(60, 120), _OPERATIONS)
@example(1, 60, [("request", 0, 60), ("correct", 0, 90), ("request", 1, 60), ("request", 40, 1)])
def test_rate_window_agrees_with_a_model_that_keeps_every_request(
    requests: int | None, tokens: int | None, operations: list[tuple[str, int, int]]
) -> None:
    window, entries = RateWindow(requests, tokens), list[tuple[WindowEntry, list[float]]]()
    now = 0.0

    def fits(at: float, wanted: int) -> bool:
        counted = [cost for _, (admitted, cost) in entries if admitted > at - WINDOW_SECONDS]
        few_enough = requests is None or len(counted) < requests
        return not counted or (few_enough and (tokens is None or sum(counted) + wanted <= tokens))

    for operation, number, cost in operations:
        if operation == "correct":
            if number < len(entries):
                entry, modelled = entries[-1 - number]
                window.correct(entry, cost)
                modelled[1] = cost
            continue
        now += number
        departures = [admitted + WINDOW_SECONDS for _, (admitted, _) in entries if admitted + WINDOW_SECONDS > now]
        expected = next(at for at in [now, *departures] if fits(at, cost)) - now
        assert window.delay(now, cost) == expected
        now += expected
        assert window.delay(now, cost) == 0
        entries.append((add(window, now, cost), [now, cost]))
        assert len(window) == sum(admitted > now - WINDOW_SECONDS for _, (admitted, _) in entries)


# --- requests per minute ----------------------------------------------------------------------------------------------


@examples(50)
@given(st.integers(1, 5), st.lists(st.floats(0, 200, allow_nan=False), min_size=1, max_size=25))
@example(3, [0.0] * 12)
@example(2, [0.0, 30.0, 59.999, 60.0, 60.001, 119.0])  # A counter that is reset each minute admits 4 of these.
def test_limit_never_sends_more_requests_in_60_seconds_than_allowed(rate: int, arrivals: list[float]) -> None:
    async def work(clock: Callable[[], float]) -> Backend:
        limit, backend = Limit(requests_per_minute=rate, clock=clock), Backend(clock=clock)

        async def arrive(at: float) -> None:
            await asyncio.sleep(at)
            await send(limit, backend)

        await asyncio.gather(*map(arrive, arrivals))
        return backend

    sent = run_with_fake_clock(work).times
    assert len(sent) == len(arrivals)
    assert most_in_a_window(sent, WINDOW_SECONDS) <= rate
    # No request waits longer than needed: each is sent when it arrives, or when an earlier one leaves the window.
    for n, (at, arrived) in enumerate(zip(sent, sorted(arrivals), strict=True)):
        assert at <= max(arrived, sent[n - rate] + WINDOW_SECONDS if n >= rate else 0) + 0.01


def test_limit_sends_a_burst_at_once_and_the_rest_when_the_window_has_passed() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(requests_per_minute=5, clock=clock), Backend(clock=clock)
        await asyncio.gather(*(send(limit, backend) for _ in range(12)))
        return backend.times

    assert [round(at) for at in run_with_fake_clock(work)] == [0] * 5 + [60] * 5 + [120] * 2


def test_limit_counts_threads_and_event_loops_in_one_window(
    monkeypatch: pytest.MonkeyPatch, without_polls: None
) -> None:
    monkeypatch.setattr("modelport.layers.limit.layer.WINDOW_SECONDS", 0.3)
    admitted: list[float] = []
    add_to_window = RateWindow.add

    def recording_add(window: RateWindow, now: float, tokens: int) -> Any:
        admitted.append(now)
        return add_to_window(window, now, tokens)

    monkeypatch.setattr(RateWindow, "add", recording_add)
    backend = Backend()
    call_from_threads_and_loops(BackendModel(backend, requests_per_minute=8), calls=8)
    assert len(backend.times) == len(admitted) == 33
    assert most_in_a_window(sorted(admitted), 0.3) <= 8


# --- tokens per minute ------------------------------------------------------------------------------------------------


def send_times(
    make_limit: Callable[[Callable[[], float]], Limit],
    requests: list[Request],
    usage: TokenUsage | None,
    seconds: float = 0.0,
) -> list[int]:
    """Return the seconds at which the requests are sent, if all arrive at 0."""

    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = make_limit(clock), Backend(seconds, usage, clock)
        await asyncio.gather(*(send(limit, backend, one) for one in requests))
        return backend.times

    return [round(at) for at in run_with_fake_clock(work)]


def test_token_limit_counts_the_estimate_until_the_usage_is_known() -> None:
    # 20 bytes of prompt are 11 tokens, with max_tokens=39 they are 50: two fit into 100 at once, and the third waits …
    requests = [request("x" * 20, max_tokens=39)] * 3
    assert send_times(lambda clock: Limit(tokens_per_minute=100, clock=clock), requests, None) == [0, 0, 60]
    # … until the first two, 7 s later, turn out to have cost 10 each.
    cheap = TokenUsage(8, 2)
    assert send_times(lambda clock: Limit(tokens_per_minute=100, clock=clock), requests, cheap, 7) == [0, 0, 7]


def test_token_limit_counts_the_tokens_that_were_used_in_full() -> None:
    expensive = TokenUsage(30, 70)
    requests = [request("x", max_tokens=10)] * 3

    # By estimate, all three fit. A fourth, which arrives later, is measured against what the three really cost.
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(tokens_per_minute=310, clock=clock), Backend(usage=expensive, clock=clock)
        await asyncio.gather(*(send(limit, backend, one) for one in requests))
        await asyncio.sleep(1)
        await send(limit, backend, requests[0])
        return backend.times

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 0, 0, 60]


def test_token_limit_estimates_the_output_by_the_longest_one_received() -> None:
    async def work(clock: Callable[[], float]) -> list[float]:
        limit, backend = Limit(tokens_per_minute=2000, clock=clock), Backend(usage=TokenUsage(1, 300), clock=clock)
        await send(limit, backend)  # Before the first output the estimate is 1024 tokens; this output has 300.
        await asyncio.gather(*(send(limit, backend) for _ in range(6)))
        return backend.times

    assert [round(at) for at in run_with_fake_clock(work)] == [0, 0, 0, 0, 0, 0, 60]


def test_token_limit_sends_a_larger_prompt_alone_in_its_window() -> None:
    requests = [request("x" * 1000, max_tokens=10), request("x", max_tokens=10)]
    assert send_times(lambda clock: Limit(tokens_per_minute=100, clock=clock), requests, None) == [0, 60]
