"""Rate limits that processes share, in a real Redis: never above the limit, never stuck, and no secret shown."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageStreamDelta, Model, OpenAIServerModel, RedisLimits, TokenUsage
from modelport.errors import AuthenticationError, ConnectionFailed, InvalidRequest, ModelError, ServerError
from modelport.layers.limit import layer as limits
from modelport.layers.limit.layer import Limit
from modelport.testing import ScriptedModel
from modelport.types.request import Request
from tests.servers.faults import Fault, FaultServer, Reply
from tests.servers.process import HOST, free_port
from tests.servers.redis import RedisServer, redis_binary, redis_server

pytest.importorskip("redis", reason="installed by the test environment")

WORKER = Path(__file__).with_name("shared_limit_worker.py")
PASSWORD = "redis-password-0123456789"


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with redis_server(password=PASSWORD) as server:
        yield server


@pytest.fixture
def redis(running: RedisServer) -> RedisServer:
    running.command("FLUSHALL")
    return running


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setattr(limits, "WINDOW", seconds)


def scripted(shared: RedisLimits, **settings: Any) -> ScriptedModel:
    return ScriptedModel("ok", repeat=True, **{"retry": False, "shared_limits": shared, **settings})


# --- eight processes --------------------------------------------------------------------------------------------------


class Workers:
    """Processes that share a limit."""

    def __init__(
        self, count: int, redis: RedisServer, server: FaultServer, does: Fault, seconds: float, **of: Any
    ) -> None:
        self.window = 2.0
        words = (redis.url, server.base_url, self.window, seconds, of)
        command = [sys.executable, str(WORKER), *map(json.dumps, words)]
        root = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes = [subprocess.Popen(command, env=root, **pipes) for _ in range(count)]
        self.told: list[list[tuple[float, int]]] = [[] for _ in range(count)]
        for process in self.processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        server.clear()
        server.script(then=does)
        self._readers = [threading.Thread(target=self._read, args=(n,)) for n in range(count)]
        for process, reader in zip(self.processes, self._readers, strict=True):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            reader.start()

    def _read(self, n: int) -> None:
        for line in self.processes[n].stdout or ():
            try:
                self.told[n].append(tuple(json.loads(line)))
            except ValueError:
                pass  # cut by a kill

    def wait(self) -> list[int]:
        codes = [process.wait(60) for process in self.processes]
        for reader in self._readers:
            reader.join(10)
        return codes

    @property
    def let_through(self) -> list[tuple[float, int]]:
        return sorted(told for each in self.told for told in each)


def most_in(times: list[float], window: float) -> int:
    return max(sum(start <= at <= start + window for at in times[n:]) for n, start in enumerate(times))


def test_eight_processes_keep_one_limit_though_one_is_killed(redis: RedisServer) -> None:
    with FaultServer() as server:
        workers = Workers(8, redis, server, Fault.slow(0.05), 9.0, requests_per_minute=24)
        time.sleep(4.0)
        os.kill(workers.processes[3].pid, signal.SIGKILL)
        killed = time.monotonic()
        codes = workers.wait()
        sent = sorted(request.at for request in server.requests)
    assert codes == [0, 0, 0, -signal.SIGKILL, 0, 0, 0, 0]
    times = [at for at, _ in workers.let_through]
    assert workers.told[3] and all(workers.told)  # each had its share
    # On the Redis's clock not one window holds more, to the millisecond; on the wire a request may be late.
    assert most_in(times, workers.window) <= 24
    assert most_in(sent, workers.window - 0.5) <= 24
    # And the limit is used: 9 s are four and a half windows; on a busy machine not each is filled.
    assert len(times) >= 3 * 24
    assert sum(at > killed for at in sent) >= 24
    assert len(sent) >= len(times) - 1


def test_eight_processes_keep_a_limit_of_tokens(redis: RedisServer) -> None:
    """20 tokens each in truth, and 35 by estimate until that is known."""
    with FaultServer() as server:
        workers = Workers(8, redis, server, Fault.ok("ok"), 7.0, tokens_per_minute=400)
        time.sleep(3.0)
        os.kill(workers.processes[5].pid, signal.SIGKILL)
        workers.wait()
    times, wanted = zip(*workers.let_through, strict=True)
    assert set(wanted) == {wanted[0]} and 25 < wanted[0] < 60
    most = most_in([*times], workers.window)
    assert most * 20 <= 400
    assert most > 400 // wanted[0] + 2  # room that answers gave back was used by all
    assert len(times) >= 3 * most * 0.7


# --- one window, asked directly ---------------------------------------------------------------------------------------


def asking(shared: RedisLimits, *asks: Any) -> list[float]:
    """What each of these asks was told; numbers are seconds to sleep, functions are called."""

    async def work() -> list[float]:
        told = []
        for ask in asks:
            if callable(ask):
                ask()
            elif isinstance(ask, float):
                await asyncio.sleep(ask)
            else:
                name, window, requests, tokens, wanted = ask
                told.append(await shared.take("m", name, window, requests, tokens, wanted))
        return told

    return asyncio.run(work())


def test_a_request_that_is_asked_for_twice_is_counted_once(redis: RedisServer) -> None:
    shared = RedisLimits(redis.url)
    told = asking(shared, *[(name, 60, 2, None, 0) for name in ("a", "a", "b", "b", "c")])
    assert told[:4] == [0, 0, 0, 0] and 59 < told[4] <= 60.001
    assert redis.command("ZCARD", "modelport:{m}:entries") == 2


def test_the_wait_is_until_enough_has_passed(redis: RedisServer) -> None:
    first = [("a", 60, None, 100, 50), 0.3, ("b", 60, None, 100, 40), 0.3]
    told = asking(
        RedisLimits(redis.url), *first, ("c", 60, None, 100, 10), ("d", 60, None, 100, 20), ("e", 60, None, 100, 95)
    )
    assert told[:3] == [0, 0, 0]
    assert 59.3 < told[3] < 59.5 and 59.9 < told[4] <= 60.002  # until the first has passed, and until all have


def test_what_was_thought_to_cost_more_makes_room(redis: RedisServer) -> None:
    shared = RedisLimits(redis.url)

    async def work() -> list[float]:
        told = [await shared.take("m", name, 60, None, 100, 90) for name in "ab"]
        await shared.correct("m", "a", 5)
        await shared.correct("m", "long gone", 5)
        return [*told, await shared.take("m", "b", 60, None, 100, 90)]

    told = asyncio.run(work())
    assert told[0] == told[2] == 0 and told[1] > 59


def test_a_large_request_is_not_overtaken_for_ever(redis: RedisServer) -> None:
    """It needs the whole window, of which small ones always have a part."""
    shared = RedisLimits(redis.url)

    async def work() -> float:
        begin = time.monotonic()
        large = asyncio.create_task(until("large", 100))
        small = asyncio.create_task(stream_of_small())
        await asyncio.wait_for(large, 10)
        small.cancel()
        return time.monotonic() - begin

    async def until(name: str, tokens: int) -> None:
        while wait := await shared.take("m", name, 1, None, 100, tokens):  # noqa: ASYNC110
            await asyncio.sleep(min(wait, 0.05))

    async def stream_of_small() -> None:
        n = 0
        while True:
            await until(f"small{n}", 10)
            n += 1

    async def all_of_it() -> float:
        await until("small", 10)
        return await work()

    assert asyncio.run(all_of_it()) < 4


def test_who_waits_and_is_gone_keeps_nobody_waiting(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.layers.redis_limits.LEASE", 300)
    few = ("small", 0.2, None, 100, 10)
    told = asking(RedisLimits(redis.url), ("a", 0.2, None, 100, 60), ("gone", 0.2, None, 100, 100), 0.25, few, 0.1, few)
    assert told[0] == 0 and told[1] > 0
    assert told[2] == 0.02  # there is room, but "gone" came first, and asked a moment ago
    assert told[3] == 0


def test_a_clock_that_was_set_back_locks_nobody_out(redis: RedisServer) -> None:
    later = str(int((time.time() + 3600) * 1000))

    def in_an_hour() -> None:
        redis.command("ZADD", "modelport:{m}:entries", later, "a")

    told = asking(RedisLimits(redis.url), in_an_hour, ("b", 0.3, 1, None, 0), 0.35, ("b", 0.3, 1, None, 0))
    assert 0 < told[0] <= 0.301 and told[1] == 0


def test_nothing_is_left_of_an_old_window(redis: RedisServer) -> None:
    asking(RedisLimits(redis.url), *[(str(n), 0.1, 5, 1000, 7) for n in range(5)], 0.15, ("x", 0.1, 5, 1000, 7))
    assert redis.command("ZCARD", "modelport:{m}:entries") == 1
    assert redis.command("HGET", "modelport:{m}:tokens", "total") == "7"
    assert redis.command("HLEN", "modelport:{m}:tokens") == 2
    assert 0 < int(redis.command("PTTL", "modelport:{m}:entries")) <= 1100
    time.sleep(1.2)
    assert redis.keys() == []


# --- models -----------------------------------------------------------------------------------------------------------


def test_models_of_one_name_share_a_limit_and_others_do_not(redis: RedisServer) -> None:
    settings: dict[str, Any] = {"requests_per_minute": 1, "timeout": 0.5}
    shared, account = RedisLimits(redis.url), RedisLimits(redis.url, name="account")
    a, b, same = (scripted(shared, model_id=name, **settings) for name in ("a", "b", "a"))
    assert a("?").content == b("?").content == "ok"
    with pytest.raises(ModelError, match=r"timeout=0\.5 s ran out"):
        same("?")
    c, d = (scripted(account, model_id=name, **settings) for name in "cd")
    assert c("?").content == "ok"
    with pytest.raises(ModelError, match=r"timeout=0\.5 s ran out"):
        d("?")


def test_waiting_calls_of_a_process_keep_their_order(redis: RedisServer, window: Callable[[float], None]) -> None:
    window(0.3)
    model = ScriptedModel(*"0123456789", retry=False, requests_per_minute=2, shared_limits=RedisLimits(redis.url))

    async def work() -> list[str]:
        tasks = []
        for n in range(8):
            tasks.append(asyncio.create_task(model.agenerate(str(n))))
            await asyncio.sleep(0)
        cancelled = tasks.pop(5)
        await asyncio.sleep(0.1)
        cancelled.cancel()
        await asyncio.gather(*tasks)
        return [request.messages[0].text for request in model.requests]

    assert asyncio.run(work()) == list("0123467")


def test_loops_and_threads_and_a_fork_share_and_leave_no_connection(
    redis: RedisServer, window: Callable[[float], None]
) -> None:
    window(0.4)
    model = scripted(RedisLimits(redis.url), requests_per_minute=4)
    before = len(redis.command("CLIENT", "LIST").splitlines())
    begin = time.monotonic()
    for _ in range(3):
        assert asyncio.run(model.agenerate("?")).content == "ok"
    assert len(redis.command("CLIENT", "LIST").splitlines()) == before  # closed with their loops
    threads = [threading.Thread(target=model.generate, args=("?",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - begin >= 0.8  # nine requests, four in a window
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if model.generate("?").content == "ok" else 2)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert model.generate("?").content == "ok"


async def test_nothing_of_an_old_window_is_left_in_the_process_either(
    redis: RedisServer, window: Callable[[float], None]
) -> None:
    window(0.05)
    layer = Limit(requests_per_minute=100, shared=RedisLimits(redis.url))
    model = ScriptedModel("ok", repeat=True)
    for _ in range(20):
        async for _ in layer(Request((ChatMessage("user", "?"),)), model.deltas):
            pass
        await asyncio.sleep(0.01)
    assert len(layer._window) < 15


def test_max_concurrency_holds_beside_it(redis: RedisServer) -> None:
    running = most = 0

    class Slow(Model):
        async def deltas(self, request: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                await asyncio.sleep(0.02)
                yield ChatMessageStreamDelta(content="ok", finish_reason="stop")
            finally:
                running -= 1

    model = Slow("m", requests_per_minute=1000, max_concurrency=3, shared_limits=RedisLimits(redis.url))

    async def work() -> None:
        await asyncio.gather(*(model.agenerate("?") for _ in range(12)))

    asyncio.run(work())
    assert (most, running) == (3, 0)


# --- Redis gone -------------------------------------------------------------------------------------------------------


class Restartable:
    """A Redis that is stopped and started on one port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@{HOST}:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--bind", HOST, "--port", str(self.port), "--save", "", "--requirepass", PASSWORD]
        self._process = subprocess.Popen([redis_binary(), *options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("redis did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def restartable() -> Iterator[Restartable]:
    redis = Restartable()
    yield redis
    redis.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_a_redis_that_is_gone_is_a_clear_error_and_back_it_is_used_again(
    restartable: Restartable, stream: bool
) -> None:
    model = scripted(RedisLimits(restartable.url), requests_per_minute=100)

    def ask() -> None:
        assert [*model.generate_stream("?")] if stream else model("?")

    where = f"The Redis at 127.0.0.1:{restartable.port} that keeps the limits can't be reached"
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match=where):
            ask()
        restartable.start()
        ask()
        ask()
        restartable.stop()
    assert len(model.requests) == 4
    with pytest.raises(ConnectionFailed, match=where) as raised:
        ask()
    assert raised.value.retryable and raised.value.__context__ is None


def test_a_redis_that_comes_back_meanwhile_costs_a_retry(restartable: Restartable) -> None:
    model = scripted(RedisLimits(restartable.url), requests_per_minute=100, retry={"attempts": 8, "base": 0.5})
    starting = threading.Timer(0.3, restartable.start)
    starting.start()
    assert model("?").content == "ok"
    starting.join()


def test_by_choice_the_process_goes_on_with_its_own_window(
    restartable: Restartable, window: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    window(1.0)
    monkeypatch.setattr(limits, "_ALONE", 0.5)
    restartable.start()
    model = scripted(RedisLimits(restartable.url, on_unavailable="local"), requests_per_minute=3)
    assert not model("?").warnings
    restartable.stop()
    begin = time.monotonic()
    answers = [model("?") for _ in range(5)]
    # What went through the Redis counts too: the third and the fourth answer fill up one window, and a second.
    assert 0.9 < time.monotonic() - begin < 2.5
    assert all("kept by this process alone" in answer.warnings[0] for answer in answers)
    assert "kept by this process alone" in [*model.generate_stream("?")][-1].warnings[0]  # type: ignore[index]
    restartable.start()
    time.sleep(0.6)
    assert not model("?").warnings


@pytest.mark.parametrize("on_unavailable", ["error", "local"])
def test_a_redis_that_does_not_answer_is_gone_too(on_unavailable: Any) -> None:
    with socket.create_server((HOST, 0)) as silent:
        url = f"redis://{HOST}:{silent.getsockname()[1]}"
        model = scripted(RedisLimits(url, on_unavailable=on_unavailable, timeout=0.3), requests_per_minute=100)
        begin = time.monotonic()
        if on_unavailable == "local":
            assert model("?").warnings and model("?").warnings  # the second does not wait for it again
        else:
            with pytest.raises(ConnectionFailed, match="can't be reached"):
                model("?")
        assert time.monotonic() - begin < 3


@pytest.mark.parametrize("on_unavailable", ["error", "local"])
@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
def test_wrong_credentials_are_an_error_in_any_case(redis: RedisServer, credentials: str, on_unavailable: Any) -> None:
    shared = RedisLimits(f"redis://{credentials}{HOST}:{redis.port}/0", on_unavailable=on_unavailable)
    with pytest.raises(AuthenticationError, match=f"127.0.0.1:{redis.port} that keeps the limits refuses"):
        scripted(shared, requests_per_minute=1)("?")


def test_a_redis_that_answers_with_an_error_is_one(redis: RedisServer) -> None:
    redis.command("SET", "modelport:{scripted}:entries", "of another program")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        scripted(RedisLimits(redis.url), requests_per_minute=1)("?")


def test_scripts_that_the_redis_forgot_are_sent_again(redis: RedisServer) -> None:
    model = scripted(RedisLimits(redis.url), requests_per_minute=10)
    model("?")
    redis.command("SCRIPT", "FLUSH")
    assert model("?").content == "ok"


def test_an_answer_is_given_though_its_cost_can_not_be_told(restartable: Restartable) -> None:
    restartable.start()

    class Stops(ScriptedModel):
        async def deltas(self, request: Any) -> Any:
            async for delta in super().deltas(request):
                yield delta
            restartable.stop()

    answer = ChatMessage("assistant", "ok", token_usage=TokenUsage(3, 4))
    model = Stops(answer, retry=False, tokens_per_minute=5000, shared_limits=RedisLimits(restartable.url))
    assert model("?").content == "ok"


# --- the object -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://user:{}@host", "redis://user:{}@host:port/0", "redis://[{}", "{}", "redis://:{}@h:1/0?socket_timeout=x",
     "redis://:{}@h:1/0?bogus=x", "redis://:{}@h:1/0?retry=5", "redis://:{}@h:1/0?encoding=bogus", "redis://:{}@h/one"],
)  # fmt: skip
def test_a_url_that_is_none_is_said_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidRequest, match="URL is not valid") as raised:
        scripted(RedisLimits(url.format(PASSWORD)), requests_per_minute=1)("?")
    shown = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert PASSWORD not in "".join(shown.format())


def test_no_redis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(InvalidRequest, match="REDIS_URL"):
        scripted(RedisLimits(), requests_per_minute=1)("?")


def test_the_password_shows_nowhere(redis: RedisServer, restartable: Restartable) -> None:
    model = scripted(RedisLimits(redis.url), requests_per_minute=9)
    model("?")
    gone = scripted(RedisLimits(restartable.url), requests_per_minute=9)
    shown = [
        repr(model.shared_limits),
        repr(vars(model)),
        repr(model.to_dict()),
        repr(pickle.dumps(model.shared_limits)),
    ]
    for broken in (gone, scripted(RedisLimits(redis.url.replace(PASSWORD, PASSWORD + "x")), requests_per_minute=9)):
        with pytest.raises(ModelError) as raised:
            broken("?")
        shown += [str(raised.value), repr(pickle.dumps(raised.value))]
        error: BaseException | None = raised.value
        while error is not None:  # of causes and contexts too
            own = error.__traceback__ and error.__traceback__.tb_next  # this test's own frame names the password
            found = traceback.TracebackException(type(error), error, own, capture_locals=True, compact=True)
            shown += found.format(chain=False)
            error = error.__cause__ or error.__context__
    assert not any(PASSWORD in text for text in shown)


def test_it_is_saved_by_the_name_of_its_variable(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis.url)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    shared = RedisLimits(redis.url, name="account", on_unavailable="local")
    with FaultServer() as server:
        server.script(then=Fault(Reply("ok")))
        model = OpenAIServerModel("m", server.base_url, "k", requests_per_minute=9, shared_limits=shared)
        data = json.loads(json.dumps(model.to_dict()))
        assert data["shared_limits"]["url"] == {"env": "REDIS_URL"}
        for twin in (Model.from_dict(data), pickle.loads(pickle.dumps(model))):
            assert twin.to_dict() == data and twin.shared_limits.name == "account"
            assert twin.generate("?").content == "ok"
    assert redis.command("ZCARD", "modelport:{account}:entries") == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shared_limits": RedisLimits("redis://h")}, "nothing to share"),
        ({"shared_limits": "redis://h", "requests_per_minute": 1}, "must be RedisLimits"),
        ({"shared_limits": RedisLimits("redis://h"), "max_concurrency": 1}, "nothing to share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
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
)
def test_settings_of_it_that_are_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(settings))):
        RedisLimits("redis://h", **settings)


@pytest.mark.parametrize("url", [5, b"redis://h", {"env": 5}, {"variable": "REDIS_URL"}, {}])
def test_a_url_of_another_type_is_refused(url: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"url: as a dict|a key must be a string"):
        RedisLimits(url)


def test_any_string_is_a_name(redis: RedisServer) -> None:
    limits = RedisLimits(redis.url, name="\ud800 {a}\n")
    assert scripted(limits, requests_per_minute=10)("?").content


def test_a_pickled_layer_shares_the_same_window(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", redis.url)
    layer = Limit(requests_per_minute=3, shared=RedisLimits(redis.url), name="m")
    twin = pickle.loads(pickle.dumps(layer))
    assert (twin.shared, twin.name, twin.requests_per_minute) == (RedisLimits(), "m", 3)
    assert asyncio.run(twin.shared.take("m", "a", 60, 3, None, 0)) == 0
