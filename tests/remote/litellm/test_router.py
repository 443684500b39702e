"""`LiteLLMRouterModel` beyond the conformance checks: routing, fallbacks, cooldowns, retries, Redis."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelport import ChatMessage, LiteLLMRouterModel, Model
from modelport.errors import (
    MalformedResponse,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.remote.litellm.package import litellm_package
from tests.remote.litellm.helpers import OTHER_KEY, ROUTER_KEY, deployments_on
from tests.remote.matrix import ANSWER, BEGINNING, WAYS
from tests.remote.matrix_runner import QUICK, ask
from tests.servers.faults import OK, Fault, FaultServer
from tests.servers.llamacpp import llama_server
from tests.servers.redis import redis_server


@pytest.fixture(scope="module")
def two_servers() -> Iterator[tuple[FaultServer, FaultServer]]:
    with FaultServer() as a, FaultServer() as b:
        # The import at the first call of a process takes longer than some time limits.
        ask(LiteLLMRouterModel("g", deployments_on(a)), "sync")
        yield a, b


@pytest.fixture
def a(two_servers: tuple[FaultServer, FaultServer]) -> FaultServer:
    two_servers[0].settle()
    return two_servers[0]


@pytest.fixture
def b(two_servers: tuple[FaultServer, FaultServer]) -> FaultServer:
    two_servers[1].settle()
    return two_servers[1]


def ask_without_closing(model: Model, way: str) -> ChatMessage:
    """Call the model in one of the four ways. `ask` would close the model, which forgets the Router's cooldowns."""
    if way == "sync":
        return model.generate("hi")
    if way == "sync streamed":
        with model.generate_stream("hi") as stream:
            for _ in stream:
                pass
            return stream.message
    return ask(model, way)


def test_calls_are_distributed_over_the_deployments(a: FaultServer, b: FaultServer) -> None:
    with LiteLLMRouterModel("g", deployments_on(a, b), client_kwargs={"routing_strategy": "simple-shuffle"}) as model:
        for _ in range(30):
            assert model("hi").content == ANSWER
    assert len(a.requests) + len(b.requests) == 30
    assert a.requests and b.requests


def test_weights_decide_how_calls_are_distributed(a: FaultServer, b: FaultServer) -> None:
    weighted = deployments_on(a, weight=0) + deployments_on(b, weight=1)
    with LiteLLMRouterModel("g", weighted) as model:
        for _ in range(10):
            model("hi")
    assert (len(a.requests), len(b.requests)) == (0, 10)


def test_calls_on_two_real_servers_are_distributed_and_agree() -> None:
    with llama_server(api_key=ROUTER_KEY) as one, llama_server(api_key=ROUTER_KEY) as two:
        deployments = [
            {"model_name": "g", "litellm_params": {"model": "openai/m", "api_base": s.base_url, "api_key": ROUTER_KEY}}
            for s in (one, two)
        ]
        question = "What is the capital of France? Answer in one sentence."
        with LiteLLMRouterModel("g", deployments, temperature=0) as model:
            # The Router picks at random: 8 calls reach only one server in 1 of 128 runs, 25 in 1 of 16 million.
            answers = {model(question).content for _ in range(25)}
            assert answers == {"The capital of France is Paris."}
            assert one.metrics()["tokens_predicted_total"] > 0 and two.metrics()["tokens_predicted_total"] > 0


@pytest.mark.parametrize("way", WAYS)
def test_models_retry_goes_through_the_router_again(a: FaultServer, b: FaultServer, way: str) -> None:
    """The Router cools a failing deployment down, so the next attempt uses the other one."""
    a.script(then=Fault.status(500))
    with LiteLLMRouterModel("g", deployments_on(a, b), {"allowed_fails": 0, "cooldown_time": 60}, retry=QUICK) as model:
        for _ in range(6):
            assert ask_without_closing(model, way).content == ANSWER
    assert len(a.requests) <= 1
    assert len(b.requests) == 6


def test_deployment_is_used_again_after_its_cooldown(a: FaultServer, b: FaultServer) -> None:
    a.script([Fault.rate_limit(None)])
    weighted = deployments_on(a, weight=1000) + deployments_on(b, weight=1)  # The first deployment is preferred.
    with LiteLLMRouterModel("g", weighted, {"allowed_fails": 0, "cooldown_time": 1}, retry=QUICK) as model:
        for _ in range(4):
            assert model("hi").content == ANSWER
        assert (len(a.requests), len(b.requests)) == (1, 4)
        time.sleep(1.5)
        for _ in range(4):
            model("hi")
    assert (len(a.requests), len(b.requests)) == (5, 4)


@pytest.mark.parametrize("way", WAYS)
def test_fallback_group_responds_if_the_first_group_fails(a: FaultServer, b: FaultServer, way: str) -> None:
    a.script(then=Fault.status(400, message="no"))
    model = LiteLLMRouterModel(
        "g", deployments_on(a) + deployments_on(b, name="h"), {"fallbacks": [{"g": ["h"]}]}, retry=False
    )
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert message.token_usage is not None and message.token_usage.input_tokens == 12
    assert (len(a.requests), len(b.requests)) == (1, 1)


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_stream_falls_back_before_its_first_part_and_not_after_it(a: FaultServer, b: FaultServer, way: str) -> None:
    """After the fallback, the finish reason and the usage are those of the second stream."""
    model = LiteLLMRouterModel(
        "g", deployments_on(a) + deployments_on(b, name="h"), {"fallbacks": [{"g": ["h"]}]}, retry=False
    )
    a.script(then=Fault.error_frame(after_events=1))
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert message.token_usage is not None and message.token_usage.output_tokens == 8
    b.script([Fault.cut("finish")])
    with pytest.raises(StreamInterrupted) as interrupted:
        ask(model, way)
    assert type(interrupted.value.__cause__) is MalformedResponse
    assert interrupted.value.partial.content == BEGINNING
    a.script(then=Fault.error_frame())
    with pytest.raises(StreamInterrupted) as failed:
        ask(model, way)
    assert type(failed.value.__cause__) is ServerError
    assert len(b.requests) == 2


@pytest.mark.parametrize(
    "settings",
    [{"client_kwargs": {"num_retries": 2}}, {"client_kwargs": {"retry_policy": {"InternalServerErrorRetries": 2}}}],
    ids=["num_retries", "retry_policy"],
)
def test_model_does_not_retry_if_the_router_does(a: FaultServer, settings: dict[str, Any]) -> None:
    a.script(then=Fault.status(500))
    with LiteLLMRouterModel("g", deployments_on(a), **settings) as model:
        assert model.retry is False
        with pytest.raises(ServerError):
            model("hi")
    assert len(a.requests) == 3


def test_only_the_model_retries_by_default(a: FaultServer) -> None:
    a.script(then=Fault.status(500))
    with LiteLLMRouterModel("g", deployments_on(a), retry=QUICK) as model, pytest.raises(ServerError):
        model("hi")
    assert len(a.requests) == 3


def test_all_deployments_cooling_down_raises_rate_limited_with_retry_after(a: FaultServer, b: FaultServer) -> None:
    for server in (a, b):
        server.script(then=Fault.rate_limit(None))
    with LiteLLMRouterModel("g", deployments_on(a, b), {"allowed_fails": 0, "cooldown_time": 30}, retry=False) as model:
        for _ in range(2):
            with pytest.raises(RateLimited):
                model("hi")
        with pytest.raises(RateLimited, match="No deployment") as raised:
            model("hi")
    assert raised.value.retry_after and raised.value.retry_after <= 30
    assert (len(a.requests), len(b.requests)) == (1, 1)


def test_garbage_collected_router_leaves_no_callbacks_in_litellm(a: FaultServer) -> None:
    """LiteLLM accepts a limited number of callbacks, and a Router without callbacks has no cooldowns."""

    def callback_counts() -> list[int]:
        gc.collect()
        litellm = litellm_package()
        callbacks = litellm._async_failure_callback, litellm.failure_callback, litellm._async_success_callback
        return [len(registered) for registered in callbacks]

    counts_before = callback_counts()
    for _ in range(3):
        asyncio.run(LiteLLMRouterModel("g", deployments_on(a)).agenerate("hi"))
    assert callback_counts() == counts_before


def test_one_router_is_used_from_several_loops_and_threads(a: FaultServer, b: FaultServer) -> None:
    model = LiteLLMRouterModel("g", deployments_on(a, b))

    async def eight_calls() -> list[ChatMessage]:
        return await asyncio.gather(*(model.agenerate("hi") for _ in range(8)))

    for _ in range(3):
        assert {message.content for message in asyncio.run(eight_calls())} == {ANSWER}
        assert model("hi").content == ANSWER
    model.close()
    for server in (a, b):
        server.wait_for(lambda server=server: server.open_connections == 0)  # type: ignore[misc]


# --- Redis ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis() -> Iterator[Any]:
    with redis_server(password=OTHER_KEY) as server:
        yield server


SETTINGS: list[Callable[[Any], dict[str, Any]]] = [
    lambda redis: {"redis_host": redis.host, "redis_port": redis.port, "redis_password": redis.password},
    lambda redis: {"redis_url": redis.url},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["host", "url"])
def test_cooldowns_are_shared_through_redis(
    a: FaultServer, b: FaultServer, redis: Any, settings: Callable[[Any], dict[str, Any]]
) -> None:
    """Two models stand for two processes: a deployment that failed for one is not used by the other."""
    redis.command("FLUSHALL")
    a.script(then=Fault.rate_limit(None))
    kwargs = {**settings(redis), "allowed_fails": 0, "cooldown_time": 60}
    weighted = deployments_on(a, weight=1000) + deployments_on(b, weight=1)
    with LiteLLMRouterModel("g", weighted, kwargs, retry=QUICK) as first:
        assert first("hi").content == ANSWER
        assert OTHER_KEY not in repr(vars(first))
    assert len(a.requests) == 1
    assert redis.keys("*cooldown*")
    a.script(then=OK)
    with LiteLLMRouterModel("g", weighted, kwargs, retry=QUICK) as second:
        for _ in range(5):
            assert second("hi").content == ANSWER
            assert asyncio.run(second.agenerate("hi")).content == ANSWER
    assert len(a.requests) == 1, "the second model used a deployment that had failed for the first"


def successful_calls(a: FaultServer, kwargs: dict[str, Any]) -> int:
    """How many of seven calls in a new process succeed, if the limit is four requests per minute.

    LiteLLM's clock stands still, because a limit holds for a minute of the clock.
    """
    code = f"""
import datetime, time
from modelport import LiteLLMRouterModel, RateLimited
from modelport.remote.litellm.package import litellm_package
litellm_package()
import litellm.router, litellm.router_strategy.lowest_tpm_rpm_v2 as strategy
strategy.get_utc_datetime = litellm.router.get_utc_datetime = lambda: datetime.datetime(2026, 1, 1)
model = LiteLLMRouterModel("g", {deployments_on(a, rpm=4)!r}, {kwargs!r}, retry=False)
successful = 0
for _ in range(7):
    try:
        model("hi")
        successful += 1
    except RateLimited:
        pass
    time.sleep(0.1)  # LiteLLM counts in the background.
print(successful)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_request_counts_are_shared_through_redis(a: FaultServer, redis: Any) -> None:
    redis.command("FLUSHALL")
    shared = {
        "redis_url": redis.url, "routing_strategy": "usage-based-routing-v2", "routing_strategy_args": {"ttl": 600},
    }  # fmt: skip
    first = successful_calls(a, shared)
    assert 1 <= first <= 4
    assert successful_calls(a, shared) == 0


def test_redis_connections_are_closed_with_their_loop_and_model(a: FaultServer, redis: Any) -> None:
    """LiteLLM counts in callbacks, some of which run only when the loop ends."""

    def connections() -> int:
        return len(str(redis.command("CLIENT", "LIST")).splitlines()) - 1  # One connection is this command's own.

    before = connections()
    model = LiteLLMRouterModel(
        "g", deployments_on(a), {"redis_url": redis.url, "routing_strategy": "usage-based-routing-v2"}
    )
    model("hi")
    asyncio.run(model.agenerate("hi"))
    with_one_loop = connections()
    assert with_one_loop > before
    for _ in range(5):
        asyncio.run(model.agenerate("hi"))
    a.wait_for(lambda: connections() <= with_one_loop)
    model.close()
    a.wait_for(lambda: connections() <= before)
