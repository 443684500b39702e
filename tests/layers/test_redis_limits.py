"""`RedisLimits`: its window in a real Redis, its arguments, and its secret URL."""

from __future__ import annotations

import asyncio
import functools
import json
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from modelport import Model, OpenAIServerModel, RedisLimits
from modelport.errors import InvalidRequest, ModelError
from modelport.layers import redis_limits
from modelport.layers.limit.layer import Limit
from modelport.testing import ScriptedModel
from tests.servers.faults import Fault, FaultServer, Reply
from tests.servers.process import HOST, free_port
from tests.servers.redis import RedisServer

from .conftest import REDIS_PASSWORD

pytest.importorskip("redis", reason="installed by the test environment")


def scripted(shared: RedisLimits, **settings: Any) -> ScriptedModel:
    return ScriptedModel("ok", repeat=True, **{"retry": False, "shared_limits": shared, **settings})


# --- the window -------------------------------------------------------------------------------------------------------


def acquire(shared: RedisLimits, *steps: tuple[Any, ...] | float | Callable[[], None]) -> list[float]:
    """Return the delays of some requests.

    Args:
        shared: The limits.
        *steps: Each is a request `(id, window, requests, tokens, wanted)`, seconds to sleep, or a function to call.
    """

    async def work() -> list[float]:
        delays = []
        for step in steps:
            if callable(step):
                step()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                request_id, window, requests, tokens, wanted = step
                delays.append((await shared.acquire("m", request_id, window, requests, tokens, wanted)).seconds)
        return delays

    return asyncio.run(work())


def test_request_that_asks_twice_is_counted_once(redis: RedisServer) -> None:
    shared = RedisLimits(redis.url)
    delays = acquire(shared, *[(request_id, 60, 2, None, 0) for request_id in ("a", "a", "b", "b", "c")])
    assert delays[:4] == [0, 0, 0, 0] and 59 < delays[4] <= 60.001
    assert redis.command("ZCARD", "modelport:{m}:entries") == 2


def test_delay_lasts_until_enough_requests_have_left(redis: RedisServer) -> None:
    first: list[Any] = [("a", 60, None, 100, 50), 0.3, ("b", 60, None, 100, 40), 0.3]
    delays = acquire(
        RedisLimits(redis.url), *first, ("c", 60, None, 100, 10), ("d", 60, None, 100, 20), ("e", 60, None, 100, 95)
    )
    assert delays[:3] == [0, 0, 0]
    assert 59.3 < delays[3] < 59.5 and 59.9 < delays[4] <= 60.002  # Until the first has left, and until all have.


def test_corrected_estimate_makes_room(redis: RedisServer) -> None:
    shared = RedisLimits(redis.url)

    async def work() -> list[float]:
        delays = [(await shared.acquire("m", request_id, 60, None, 100, 90)).seconds for request_id in "ab"]
        await shared.correct("m", "a", 5)
        await shared.correct("m", "long gone", 5)
        return [*delays, (await shared.acquire("m", "b", 60, None, 100, 90)).seconds]

    delays = asyncio.run(work())
    assert delays[0] == delays[2] == 0 and delays[1] > 59


def test_large_request_is_not_overtaken_forever(redis: RedisServer) -> None:
    """It needs the whole window, of which small requests always occupy a part."""
    shared = RedisLimits(redis.url)

    async def wait_for_admission(request_id: str, tokens: int) -> None:
        while delay := (await shared.acquire("m", request_id, 1, None, 100, tokens)).seconds:  # noqa: ASYNC110
            await asyncio.sleep(min(delay, 0.05))

    async def stream_of_small_requests() -> None:
        n = 0
        while True:
            await wait_for_admission(f"small{n}", 10)
            n += 1

    async def work() -> None:
        await wait_for_admission("small", 10)
        large = asyncio.create_task(wait_for_admission("large", 100))
        small = asyncio.create_task(stream_of_small_requests())
        await asyncio.wait_for(large, 20)
        small.cancel()

    asyncio.run(work())


def test_waiting_request_that_stops_asking_blocks_no_other(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.layers.redis_limits.LEASE_MS", 300)
    small = ("small", 0.2, None, 100, 10)
    delays = acquire(
        RedisLimits(redis.url), ("a", 0.2, None, 100, 60), ("gone", 0.2, None, 100, 100), 0.25, small, 0.1, small
    )
    assert delays[0] == 0 and delays[1] > 0
    assert delays[2] == 0.02  # There is room, but "gone" asked first, and its lease has not ended.
    assert delays[3] == 0


def test_clock_that_was_set_back_blocks_no_request(redis: RedisServer) -> None:
    in_an_hour = str(int((time.time() + 3600) * 1000))

    def add_entry() -> None:
        redis.command("ZADD", "modelport:{m}:entries", in_an_hour, "a")

    delays = acquire(RedisLimits(redis.url), add_entry, ("b", 0.3, 1, None, 0), 0.35, ("b", 0.3, 1, None, 0))
    assert 0 < delays[0] <= 0.301 and delays[1] == 0


@pytest.fixture
def set_clock(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets the clock of the Redis server, in seconds, as the script sees it."""
    time_of_key = "{redis.call('GET', 'clock'), 0}"
    script = redis_limits.ACQUIRE_SCRIPT.replace("redis.call('TIME')", time_of_key)
    monkeypatch.setattr(redis_limits, "ACQUIRE_SCRIPT", script)
    return lambda seconds: redis.command("SET", "clock", str(int(seconds)))


def test_clock_that_was_set_back_keeps_no_dead_waiter_in_the_queue(
    redis: RedisServer, set_clock: Callable[[float], None]
) -> None:
    """Before, the dead waiter had asked in the future, and so its lease did not end before that time."""
    dead, alive = ("dead", 10_000, 1, None, 0), ("alive", 10_000, 1, None, 0)
    acquire(
        RedisLimits(redis.url),
        *(lambda: set_clock(0), ("a", 10_000, 1, None, 0), dead),
        *(lambda: set_clock(9_000), dead),
        *(lambda: set_clock(100), alive),
        *(lambda: set_clock(104), alive),
    )
    assert redis.command("ZRANGE", "modelport:{m}:waiting", "0", "-1") == ["alive"]


def test_clock_that_was_set_back_does_not_change_the_order(
    redis: RedisServer, set_clock: Callable[[float], None]
) -> None:
    old, new = ("old", 60, 1, None, 0), ("new", 60, 1, None, 0)
    delays = acquire(
        RedisLimits(redis.url),
        *(lambda: set_clock(10_000), ("a", 60, 1, None, 0), old),
        *(lambda: set_clock(6_400), new, old),
        *(lambda: set_clock(6_460), old, new),  # Both have lost their lease, and join again in this order.
        *(lambda: set_clock(6_461), new, old, new),
    )
    assert delays[-3:-1] == [0.02, 0] and delays[-1] > 59


def test_request_that_leaves_makes_room_at_once(redis: RedisServer) -> None:
    """Before, it stayed in the queue until its lease of three seconds ended."""
    shared = RedisLimits(redis.url)
    leave = functools.partial(shared.leave, "m")

    async def work() -> list[Any]:
        answers: list[Any] = []
        for step in (("a", 0), "b", "a", ("c", 0), "unknown", ("d", 0)):
            if isinstance(step, str):
                if step == "b":
                    answers.append((await shared.acquire("m", "b", 60, 1, 100, 100)).seconds > 59)
                await leave(step)
            else:
                answers.append((await shared.acquire("m", step[0], 60, 1, 100, 100)).seconds)
        return answers

    *answers, last = asyncio.run(work())
    assert answers == [0, True, 0] and last > 59
    assert redis.command("HGETALL", "modelport:{m}:tokens") == ["total", "100", "c", "100"]
    assert redis.command("ZRANGE", "modelport:{m}:waiting", "0", "-1") == ["d"]
    assert redis.command("HKEYS", "modelport:{m}:last_asked") == ["d"]


def test_delay_for_requests_is_that_of_the_limit_of_requests_alone(redis: RedisServer) -> None:
    shared = RedisLimits(redis.url)

    async def delays(name: str, requests: int | None, tokens: int | None) -> tuple[float, float]:
        for request_id in "abc":
            delay = await shared.acquire(name, request_id, 60, requests, tokens, 40)
        return delay

    both, for_requests = asyncio.run(delays("requests", 2, 1000))
    assert both == for_requests > 59
    both, for_requests = asyncio.run(delays("tokens", 9, 80))
    assert both > 59 and for_requests == 0


def test_requests_that_have_left_are_deleted(redis: RedisServer) -> None:
    acquire(RedisLimits(redis.url), *[(str(n), 0.1, 5, 1000, 7) for n in range(5)], 0.15, ("x", 0.1, 5, 1000, 7))
    assert redis.command("ZCARD", "modelport:{m}:entries") == 1
    assert redis.command("HGET", "modelport:{m}:tokens", "total") == "7"
    assert redis.command("HLEN", "modelport:{m}:tokens") == 2
    assert 0 < int(redis.command("PTTL", "modelport:{m}:entries")) <= 1100
    time.sleep(1.2)
    assert redis.keys() == []


# --- the URL ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://user:{}@host", "redis://user:{}@host:port/0", "redis://[{}", "{}", "redis://:{}@h:1/0?socket_timeout=x",
     "redis://:{}@h:1/0?bogus=x", "redis://:{}@h:1/0?retry=5", "redis://:{}@h:1/0?encoding=bogus", "redis://:{}@h/one"],
)  # fmt: skip
def test_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidRequest, match="URL of the Redis server is not valid") as raised:
        RedisLimits(url.format(REDIS_PASSWORD))
    shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert REDIS_PASSWORD not in "".join(shown.format())


def test_missing_url_names_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(InvalidRequest, match="REDIS_URL"):
        scripted(RedisLimits(), requests_per_minute=1)("?")


def test_password_appears_nowhere(redis: RedisServer) -> None:
    model = scripted(RedisLimits(redis.url), requests_per_minute=9)
    model("?")
    unreachable = scripted(RedisLimits(f"redis://:{REDIS_PASSWORD}@{HOST}:{free_port()}/0"), requests_per_minute=9)
    wrong_password = redis.url.replace(REDIS_PASSWORD, REDIS_PASSWORD + "x")
    shown = [
        repr(model.shared_limits),
        repr(vars(model)),
        repr(model.to_dict()),
        repr(pickle.dumps(model.shared_limits)),
    ]
    for broken in (unreachable, scripted(RedisLimits(wrong_password), requests_per_minute=9)):
        with pytest.raises(ModelError) as raised:
            broken("?")
        shown += [str(raised.value), repr(pickle.dumps(raised.value))]
        error: BaseException | None = raised.value
        while error is not None:  # Causes and contexts are checked too.
            # Without the first frame, which is this test's own and holds the password.
            frames = error.__traceback__ and error.__traceback__.tb_next
            found = traceback.TracebackException(type(error), error, frames, capture_locals=True, compact=True)
            shown += found.format(chain=False)
            error = error.__cause__ or error.__context__
    assert not any(REDIS_PASSWORD in text for text in shown)


@pytest.mark.parametrize("url", [5, b"redis://h", {"env": 5}, {"variable": "REDIS_URL"}, {}], ids=repr)
def test_url_of_another_type_is_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"url: as a dict|a key must be a string"):
        RedisLimits(url)


# --- arguments, saving and pickling -----------------------------------------------------------------------------------


def test_saved_limits_hold_the_name_of_the_environment_variable(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis.url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    shared = RedisLimits(redis.url, name="account", on_unavailable="local")
    assert RedisLimits(**shared.to_dict()).to_dict() == shared.to_dict()
    with FaultServer() as server:
        server.script(then=Fault(Reply("ok")))
        model = OpenAIServerModel("m", server.base_url, "k", requests_per_minute=9, shared_limits=shared)
        data = json.loads(json.dumps(model.to_dict()))
        assert data["shared_limits"]["url"] == {"env": "REDIS_URL"}
        for restored in (Model.from_dict(data), pickle.loads(pickle.dumps(model))):
            assert restored.to_dict() == data and restored.shared_limits.name == "account"  # type: ignore[union-attr]
            assert restored.generate("?").content == "ok"
    assert redis.command("ZCARD", "modelport:{account}:entries") == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shared_limits": RedisLimits("redis://h")}, "nothing to share"),
        ({"shared_limits": "redis://h", "requests_per_minute": 1}, "must be RedisLimits"),
        ({"shared_limits": RedisLimits("redis://h"), "max_concurrency": 1}, "nothing to share"),
    ],
    ids=["no limit", "a URL", "max_concurrency alone"],
)
def test_model_refuses_shared_limits_without_effect(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ScriptedModel(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"on_unavailable": "ignore"},
        {"timeout": 0},
        {"timeout": True},
        {"timeout": 10**400},
        {"name": 5},
        {"name": b"a"},
    ],
    ids=["on_unavailable", "timeout of 0", "timeout of True", "huge timeout", "name of 5", "name of bytes"],
)
def test_invalid_arguments_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(settings))):
        RedisLimits("redis://h", **settings)


def test_any_string_can_be_a_name(redis: RedisServer) -> None:
    limits = RedisLimits(redis.url, name="\ud800 {a}\n")
    assert scripted(limits, requests_per_minute=10)("?").content


def test_pickled_limit_layer_shares_the_same_window(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis.url)
    limit = Limit(requests_per_minute=3, shared=RedisLimits(redis.url), name="m")
    copy = pickle.loads(pickle.dumps(limit))
    assert (copy.shared, copy.name, copy.requests_per_minute) == (RedisLimits(), "m", 3)
    assert asyncio.run(copy.shared.acquire("m", "a", 60, 3, None, 0)) == (0, 0)
