"""Models that share rate limits in a real Redis: never above the limit, never stuck, and working when Redis is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageStreamDelta, Model, RedisLimits, TokenUsage
from modelport.errors import AuthenticationError, ConnectionFailed, DeadlineExceeded, RateLimited, ServerError
from modelport.layers.limit import layer
from modelport.layers.limit.layer import Limit
from modelport.testing import ScriptedModel
from modelport.types.request import Request
from tests.servers.faults import Fault, FaultServer
from tests.servers.process import HOST, free_port
from tests.servers.redis import RedisServer, redis_binary

from .conftest import REDIS_PASSWORD

pytestmark = pytest.mark.server

pytest.importorskip("redis", reason="installed by the test environment")

WORKER = Path(__file__).with_name("shared_limit_worker.py")


def scripted(shared: RedisLimits, **settings: Any) -> ScriptedModel:
    return ScriptedModel("ok", repeat=True, **{"retry": False, "shared_limits": shared, **settings})


# --- eight processes --------------------------------------------------------------------------------------------------


class Workers:
    """Processes that share a limit, with windows of two seconds."""

    def __init__(
        self, count: int, redis: RedisServer, server: FaultServer, response: Fault, seconds: float, **limits: Any
    ) -> None:
        self.window = 2.0
        arguments = (redis.url, server.base_url, self.window, seconds, limits)
        command = [sys.executable, str(WORKER), *map(json.dumps, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(count)]
        #: For each process, the time and the estimated tokens of its admitted requests, by their identifiers.
        self.reports: list[dict[str, tuple[float, int]]] = [{} for _ in range(count)]
        for process in self.processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        server.clear()
        server.script(then=response)
        self._readers = [threading.Thread(target=self._read, args=(n,)) for n in range(count)]
        for process, reader in zip(self.processes, self._readers, strict=True):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            reader.start()

    def _read(self, n: int) -> None:
        for line in self.processes[n].stdout or ():
            try:
                request_id, *admission = json.loads(line)
            except ValueError:
                continue  # The process was killed while it wrote this line.
            if admission:
                self.reports[n][request_id] = tuple(admission)
            else:
                self.reports[n].pop(request_id, None)

    def wait(self) -> list[int]:
        codes = [process.wait(60) for process in self.processes]
        for reader in self._readers:
            reader.join(10)
        return codes

    @property
    def admitted(self) -> list[tuple[float, int]]:
        """The time and the estimated tokens of every admitted request."""
        return sorted(admission for reports in self.reports for admission in reports.values())


def most_in(times: list[float], window: float) -> int:
    return max(sum(start <= at <= start + window for at in times[n:]) for n, start in enumerate(times))


def test_eight_processes_share_a_request_limit_though_one_is_killed(redis: RedisServer) -> None:
    with FaultServer() as server:
        workers = Workers(8, redis, server, Fault.slow(0.05), 9.0, requests_per_minute=24)
        time.sleep(4.0)
        os.kill(workers.processes[3].pid, signal.SIGKILL)
        killed = time.monotonic()
        codes = workers.wait()
        sent = sorted(request.at for request in server.requests)
    assert codes == [0, 0, 0, -signal.SIGKILL, 0, 0, 0, 0]
    times = [at for at, _ in workers.admitted]
    assert workers.reports[3] and all(workers.reports)  # Each process has had its share.
    # By Redis's clock no window holds more, to the millisecond. A request may reach the server late.
    assert most_in(times, workers.window) <= 24
    assert most_in(sent, workers.window - 0.5) <= 24
    # The limit is used up: 9 s are four and a half windows, of which a busy machine does not fill each.
    assert len(times) >= 3 * 24
    assert sum(at > killed for at in sent) >= 24
    assert len(sent) >= len(times) - 1


def test_eight_processes_share_a_token_limit(redis: RedisServer) -> None:
    """Each request costs 20 tokens, and is estimated at 35 until that is known."""
    with FaultServer() as server:
        workers = Workers(8, redis, server, Fault.ok("ok"), 7.0, tokens_per_minute=400)
        time.sleep(3.0)
        os.kill(workers.processes[5].pid, signal.SIGKILL)
        workers.wait()
    times, wanted = zip(*workers.admitted, strict=True)
    assert set(wanted) == {wanted[0]} and 25 < wanted[0] < 60
    most = most_in([*times], workers.window)
    assert most * 20 <= 400
    assert most > 400 // wanted[0] + 2  # The tokens that corrected estimates freed were used.
    assert len(times) >= 3 * most * 0.7


# --- models -----------------------------------------------------------------------------------------------------------


def test_models_share_a_limit_only_under_the_same_name(redis: RedisServer) -> None:
    settings: dict[str, Any] = {"requests_per_minute": 1, "timeout": 0.5}
    shared, account = RedisLimits(redis.url), RedisLimits(redis.url, name="account")
    a, b, same = (scripted(shared, model_id=name, **settings) for name in ("a", "b", "a"))
    assert a("?").content == b("?").content == "ok"
    with pytest.raises(RateLimited, match=r"^requests_per_minute=1: this model's own limit") as raised:
        same("?")
    assert 59 < (raised.value.retry_after or 0) <= 62.1 and raised.value.retryable
    c, d = (scripted(account, model_id=name, **settings) for name in "cd")
    assert c("?").content == "ok"
    with pytest.raises(RateLimited, match="requests_per_minute=1"):
        d("?")


def test_waiting_calls_of_one_process_keep_their_order(redis: RedisServer, set_window: Callable[[float], None]) -> None:
    set_window(0.3)
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


def connections(redis: RedisServer) -> set[str]:
    """The identifiers of the server's connections, without the one that asks."""
    lines = redis.command("CLIENT", "LIST").splitlines()
    return {line.split()[0] for line in lines if "cmd=client|list" not in line and "cmd=client " not in line}


def test_loops_threads_and_a_fork_share_the_limit_and_close_their_connections(
    redis: RedisServer, set_window: Callable[[float], None]
) -> None:
    set_window(0.4)
    model = scripted(RedisLimits(redis.url), requests_per_minute=4)
    before = connections(redis)  # Loops of earlier tests may still close theirs.
    start = time.monotonic()
    for _ in range(3):
        assert asyncio.run(model.agenerate("?")).content == "ok"
    assert not connections(redis) - before  # Each loop has closed its connection.
    threads = [threading.Thread(target=model.generate, args=("?",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - start >= 0.8  # These were nine requests, four in a window.
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if model.generate("?").content == "ok" else 2)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert model.generate("?").content == "ok"


async def test_process_forgets_requests_that_have_left_the_shared_window(
    redis: RedisServer, set_window: Callable[[float], None]
) -> None:
    set_window(0.05)
    limit = Limit(requests_per_minute=100, shared=RedisLimits(redis.url))
    model = ScriptedModel("ok", repeat=True)
    for _ in range(20):
        async for _ in limit(Request((ChatMessage("user", "?"),)), model.deltas):
            pass
        await asyncio.sleep(0.01)
    assert len(limit._window) < 15


def test_max_concurrency_holds_with_a_shared_limit(redis: RedisServer) -> None:
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


# --- callers that leave -----------------------------------------------------------------------------------------------


def waiting_in(redis: RedisServer) -> int:
    return int(redis.command("ZCARD", "modelport:{scripted}:waiting"))


def test_impatient_callers_of_six_processes_do_not_keep_each_other_waiting(
    redis: RedisServer, set_window: Callable[[float], None]
) -> None:
    """Before, each caller who left stayed in the queue for three seconds, so that no call was answered."""
    set_window(0.4)
    # Each model stands for a process: what they share is in Redis. The limit of tokens refuses no call at once.
    models = [scripted(RedisLimits(redis.url), tokens_per_minute=50) for _ in range(6)]
    answered = 0

    def call_until(model: Model, end: float) -> None:
        nonlocal answered
        while time.monotonic() < end:
            try:
                model("?", max_tokens=40, timeout=0.2)
                answered += 1
            except (DeadlineExceeded, RateLimited):
                pass

    end = time.monotonic() + 2.5
    threads = [threading.Thread(target=call_until, args=(model, end)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answered >= 4  # There were six windows.
    assert waiting_in(redis) == 0


@pytest.mark.parametrize("how", ["cancelled", "deadline", "loop ends"])
def test_caller_that_leaves_is_removed_from_the_shared_queue(redis: RedisServer, how: str) -> None:
    model = scripted(RedisLimits(redis.url), requests_per_minute=9, tokens_per_minute=50)
    model("?", max_tokens=40)

    async def call_and_leave() -> None:
        call = asyncio.create_task(model.agenerate("?", max_tokens=40, timeout=0.3 if how == "deadline" else 60))
        while waiting_in(redis) == 0:  # noqa: ASYNC110 - another process makes the condition true
            await asyncio.sleep(0.01)
        if how == "cancelled":
            call.cancel()
        if how != "loop ends":
            with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
                await call
            assert waiting_in(redis) == 0

    asyncio.run(call_and_leave())
    assert waiting_in(redis) == 0


def test_process_that_exits_removes_its_waiting_calls(redis: RedisServer) -> None:
    script = f"""
import threading, time
from modelport import RedisLimits
from modelport.testing import ScriptedModel

model = ScriptedModel("ok", repeat=True, retry=False, tokens_per_minute=50, shared_limits=RedisLimits({redis.url!r}))
model("?", max_tokens=40)
threading.Thread(target=model, args=("?",), kwargs={{"max_tokens": 40}}, daemon=True).start()
input()
"""
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    )
    deadline = time.monotonic() + 30
    while waiting_in(redis) == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert waiting_in(redis) == 1
    child.communicate(b"\n", timeout=30)
    assert waiting_in(redis) == 0


# --- Redis is unavailable ---------------------------------------------------------------------------------------------


class RestartableRedis:
    """A Redis that can be stopped and started again on the same port. It is not started at first."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://:{REDIS_PASSWORD}@{HOST}:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--bind", HOST, "--port", str(self.port), "--save", "", "--requirepass", REDIS_PASSWORD]
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
def restartable() -> Iterator[RestartableRedis]:
    redis = RestartableRedis()
    yield redis
    redis.stop()


@pytest.mark.parametrize("stream", [False, True])
def test_unavailable_redis_is_an_error_and_is_used_again_when_it_is_back(
    restartable: RestartableRedis, stream: bool
) -> None:
    model = scripted(RedisLimits(restartable.url), requests_per_minute=100)

    def call() -> None:
        assert [*model.generate_stream("?")] if stream else model("?")

    message = (
        f"The Redis server at 127.0.0.1:{restartable.port}, which counts the shared rate limits, cannot be reached"
    )
    for _ in range(2):
        with pytest.raises(ConnectionFailed, match=message):
            call()
        restartable.start()
        call()
        call()
        restartable.stop()
    assert len(model.requests) == 4
    with pytest.raises(ConnectionFailed, match=message) as raised:
        call()
    assert raised.value.retryable and raised.value.__context__ is None


def test_retry_succeeds_if_redis_comes_back(restartable: RestartableRedis) -> None:
    model = scripted(RedisLimits(restartable.url), requests_per_minute=100, retry={"attempts": 8, "base": 0.5})
    starting = threading.Timer(0.3, restartable.start)
    starting.start()
    assert model("?").content == "ok"
    starting.join()


def test_on_unavailable_local_enforces_the_limit_in_each_process(
    restartable: RestartableRedis, set_window: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_window(1.0)
    monkeypatch.setattr(layer, "SHARED_PAUSE_SECONDS", 0.5)
    restartable.start()
    model = scripted(RedisLimits(restartable.url, on_unavailable="local"), requests_per_minute=3)
    assert not model("?").warnings
    restartable.stop()
    start = time.monotonic()
    messages = [model("?") for _ in range(5)]
    # The request that Redis admitted counts too. So two more are sent at once, and the next three a second later.
    assert 0.9 < time.monotonic() - start < 2.5
    assert all("enforced by this process alone" in str(message.warnings[0]) for message in messages)
    assert "enforced by this process alone" in str([*model.generate_stream("?")][-1].warnings[0])  # type: ignore[index]
    restartable.start()
    time.sleep(0.6)
    assert not model("?").warnings


class SilentServer:
    """Accepts connections, and never responds."""

    def __init__(self) -> None:
        self._socket = socket.create_server((HOST, 0))
        self._socket.setblocking(False)
        self.url = f"redis://{HOST}:{self._socket.getsockname()[1]}"

    def new_connections(self) -> int:
        """Return how many connections were opened since the last call."""
        count = 0
        while True:
            try:
                self._socket.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@pytest.mark.timeout(30)  # A call without a time limit would wait forever.
@pytest.mark.parametrize("on_unavailable", ["error", "local"])
def test_redis_that_does_not_respond_is_unavailable(silent: SilentServer, on_unavailable: Any) -> None:
    shared = RedisLimits(silent.url, on_unavailable=on_unavailable, timeout=0.3)
    model = scripted(shared, requests_per_minute=100)
    if on_unavailable == "error":
        with pytest.raises(ConnectionFailed, match="cannot be reached"):
            model("?")
        return
    assert model("?").warnings and silent.new_connections() > 0
    assert model("?").warnings and silent.new_connections() == 0  # The second call does not wait for Redis again.


@pytest.mark.parametrize("on_unavailable", ["error", "local"])
@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
def test_wrong_credentials_are_an_error_whatever_on_unavailable_is(
    redis: RedisServer, credentials: str, on_unavailable: Any
) -> None:
    shared = RedisLimits(f"redis://{credentials}{HOST}:{redis.port}/0", on_unavailable=on_unavailable)
    message = f"127.0.0.1:{redis.port}, which counts the shared rate limits, refuses"
    with pytest.raises(AuthenticationError, match=message):
        scripted(shared, requests_per_minute=1)("?")


def test_error_response_of_redis_is_a_server_error(redis: RedisServer) -> None:
    redis.command("SET", "modelport:{scripted}:entries", "of another program")
    with pytest.raises(ServerError, match="WRONGTYPE"):
        scripted(RedisLimits(redis.url), requests_per_minute=1)("?")


def test_scripts_that_redis_has_flushed_are_sent_again(redis: RedisServer) -> None:
    model = scripted(RedisLimits(redis.url), requests_per_minute=10)
    model("?")
    redis.command("SCRIPT", "FLUSH")
    assert model("?").content == "ok"


def test_response_is_returned_though_its_tokens_cannot_be_reported(restartable: RestartableRedis) -> None:
    restartable.start()

    class StoppingRedis(ScriptedModel):
        async def deltas(self, request: Any) -> Any:
            async for delta in super().deltas(request):
                yield delta
            restartable.stop()

    response = ChatMessage("assistant", "ok", token_usage=TokenUsage(3, 4))
    shared = RedisLimits(restartable.url)
    model = StoppingRedis(response, retry=False, tokens_per_minute=5000, shared_limits=shared)
    assert model("?").content == "ok"
