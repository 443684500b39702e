"""What `LiteLLMRouterModel` promises beside the contract: routing, fallbacks, cooldowns, retries, keys, Redis."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelport import ChatMessage, LiteLLMModel, LiteLLMRouterModel, Model
from modelport.errors import (
    AuthenticationError,
    InvalidRequest,
    MalformedResponse,
    MissingDependency,
    RateLimited,
    ServerError,
    StreamInterrupted,
)
from modelport.remote.litellm.package import litellm_package
from tests.remote.matrix import ANSWER, BEGINNING, WAYS
from tests.remote.playing import QUICK, ask
from tests.servers.faults import OK, Fault, FaultServer
from tests.servers.llamacpp import llama_server
from tests.servers.redis import redis_server

KEY = "sk-of-the-router-0123456789"
OTHER_KEY = "sk-of-another-0123456789"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[FaultServer, FaultServer]]:
    with FaultServer() as a, FaultServer() as b:
        ask(LiteLLMRouterModel("g", rows(a)), "sync")  # its import takes seconds, which belong to no limit below
        yield a, b


@pytest.fixture
def a(both: tuple[FaultServer, FaultServer]) -> FaultServer:
    both[0].settle()
    return both[0]


@pytest.fixture
def b(both: tuple[FaultServer, FaultServer]) -> FaultServer:
    both[1].settle()
    return both[1]


def rows(*servers: FaultServer, name: str = "g", key: str = KEY, **parameters: Any) -> Rows:
    common = {"model": "openai/m", "api_key": key, **parameters}
    return [{"model_name": name, "litellm_params": {**common, "api_base": server.base_url}} for server in servers]


def still_open(model: Model, way: str) -> ChatMessage:
    """As `ask`, which closes the model, and a closed one has forgotten its cooldowns."""
    if way == "sync":
        return model.generate("hi")
    if way == "sync streamed":
        with model.generate_stream("hi") as stream:
            for _ in stream:
                pass
            return stream.message
    return ask(model, way)


def test_calls_are_spread_over_the_deployments(a: FaultServer, b: FaultServer) -> None:
    with LiteLLMRouterModel("g", rows(a, b), client_kwargs={"routing_strategy": "simple-shuffle"}) as model:
        for _ in range(30):
            assert model("hi").content == ANSWER
    assert len(a.requests) + len(b.requests) == 30
    assert a.requests and b.requests


def test_a_weight_says_how_much_each_is_given(a: FaultServer, b: FaultServer) -> None:
    weighted = rows(a, weight=0) + rows(b, weight=1)
    with LiteLLMRouterModel("g", weighted) as model:
        for _ in range(10):
            model("hi")
    assert (len(a.requests), len(b.requests)) == (0, 10)


def test_real_weights_on_two_real_servers() -> None:
    with llama_server(api_key=KEY) as one, llama_server(api_key=KEY) as two:
        served = [
            {"model_name": "g", "litellm_params": {"model": "openai/m", "api_base": s.base_url, "api_key": KEY}}
            for s in (one, two)
        ]
        question = "What is the capital of France? Answer in one sentence."
        with LiteLLMRouterModel("g", served, temperature=0) as model:
            answers = {model(question).content for _ in range(8)}
            assert answers == {"The capital of France is Paris."}
            assert one.metrics()["tokens_predicted_total"] > 0 and two.metrics()["tokens_predicted_total"] > 0


@pytest.mark.parametrize("way", WAYS)
def test_our_retry_asks_the_router_anew(a: FaultServer, b: FaultServer, way: str) -> None:
    """It cools a failing deployment down, so the next attempt finds the other."""
    a.script(then=Fault.status(500))
    with LiteLLMRouterModel("g", rows(a, b), {"allowed_fails": 0, "cooldown_time": 60}, retry=QUICK) as model:
        for _ in range(6):
            assert still_open(model, way).content == ANSWER
    assert len(a.requests) <= 1
    assert len(b.requests) == 6


def test_a_deployment_comes_back_from_its_cooldown(a: FaultServer, b: FaultServer) -> None:
    a.script([Fault.rate_limit(None)])
    weighted = rows(a, weight=1000) + rows(b, weight=1)  # asks the first, as long as it can
    with LiteLLMRouterModel("g", weighted, {"allowed_fails": 0, "cooldown_time": 1}, retry=QUICK) as model:
        for _ in range(4):
            assert model("hi").content == ANSWER
        assert (len(a.requests), len(b.requests)) == (1, 4)
        time.sleep(1.5)
        for _ in range(4):
            model("hi")
    assert (len(a.requests), len(b.requests)) == (5, 4)


@pytest.mark.parametrize("way", WAYS)
def test_a_fallback_answers_where_the_first_group_fails(a: FaultServer, b: FaultServer, way: str) -> None:
    a.script(then=Fault.status(400, message="no"))
    model = LiteLLMRouterModel("g", rows(a) + rows(b, name="h"), {"fallbacks": [{"g": ["h"]}]}, retry=False)
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert message.token_usage is not None and message.token_usage.input_tokens == 12
    assert (len(a.requests), len(b.requests)) == (1, 1)


@pytest.mark.parametrize("way", ["sync streamed", "async streamed"])
def test_a_fallback_within_a_stream(a: FaultServer, b: FaultServer, way: str) -> None:
    """Before the first part the Router goes to the other group; whose end then counts. After it, nothing is retried."""
    model = LiteLLMRouterModel("g", rows(a) + rows(b, name="h"), {"fallbacks": [{"g": ["h"]}]}, retry=False)
    a.script(then=Fault.error_frame(after_events=1))
    message = ask(model, way)
    assert (message.content, message.finish_reason) == (ANSWER, "stop")
    assert message.token_usage is not None and message.token_usage.output_tokens == 8
    b.script([Fault.cut("finish")])
    with pytest.raises(StreamInterrupted) as cut:
        ask(model, way)
    assert type(cut.value.__cause__) is MalformedResponse
    assert cut.value.partial.content == BEGINNING
    a.script(then=Fault.error_frame())
    with pytest.raises(StreamInterrupted) as failed:
        ask(model, way)
    assert type(failed.value.__cause__) is ServerError
    assert len(b.requests) == 2


@pytest.mark.parametrize(
    "told",
    [{"client_kwargs": {"num_retries": 2}}, {"client_kwargs": {"retry_policy": {"InternalServerErrorRetries": 2}}}],
    ids=["num_retries", "retry_policy"],
)
def test_where_the_router_retries_we_do_not(a: FaultServer, told: dict[str, Any]) -> None:
    a.script(then=Fault.status(500))
    with LiteLLMRouterModel("g", rows(a), **told) as model:
        assert model.retry is False
        with pytest.raises(ServerError):
            model("hi")
    assert len(a.requests) == 3


def test_else_we_retry_and_nobody_below(a: FaultServer) -> None:
    a.script(then=Fault.status(500))
    with LiteLLMRouterModel("g", rows(a), retry=QUICK) as model, pytest.raises(ServerError):
        model("hi")
    assert len(a.requests) == 3


def test_a_wait_for_a_cooldown_is_told(a: FaultServer, b: FaultServer) -> None:
    for server in (a, b):
        server.script(then=Fault.rate_limit(None))
    with LiteLLMRouterModel("g", rows(a, b), {"allowed_fails": 0, "cooldown_time": 30}, retry=False) as model:
        for _ in range(2):
            with pytest.raises(RateLimited):
                model("hi")
        with pytest.raises(RateLimited, match="No deployment") as caught:
            model("hi")
    assert caught.value.retry_after and caught.value.retry_after <= 30
    assert (len(a.requests), len(b.requests)) == (1, 1)


def test_a_router_that_is_forgotten_leaves_nothing_in_litellm(a: FaultServer) -> None:
    """It takes a limited number of callbacks, and a Router without them knows no cooldowns."""

    def callbacks() -> list[int]:
        gc.collect()
        lists = litellm_package()
        return [len(lists._async_failure_callback), len(lists.failure_callback), len(lists._async_success_callback)]

    callbacks_before = callbacks()
    for _ in range(3):
        asyncio.run(LiteLLMRouterModel("g", rows(a)).agenerate("hi"))
    assert callbacks() == callbacks_before


def test_one_router_serves_all_loops_and_threads(a: FaultServer, b: FaultServer) -> None:
    model = LiteLLMRouterModel("g", rows(a, b))

    async def many() -> list[ChatMessage]:
        return await asyncio.gather(*(model.agenerate("hi") for _ in range(8)))

    for _ in range(3):
        assert {message.content for message in asyncio.run(many())} == {ANSWER}
        assert model("hi").content == ANSWER
    model.close()
    for server in (a, b):
        server.wait_for(lambda server=server: server.open_connections == 0)  # type: ignore[misc]


# --- what is wrong ----------------------------------------------------------------------------------------------------

GOOD: Rows = [{"model_name": "g", "litellm_params": {"model": "openai/m"}}]


@pytest.mark.parametrize(
    ("model_id", "model_list", "settings", "named"),
    [
        ("", GOOD, {}, "model_id is missing"),
        ("h", GOOD, {}, "model_id='h': the model_list has g"),
        ("g", [], {}, "model_list: must be a list"),
        ("g", {"model_name": "g"}, {}, "model_list: must be a list"),
        ("g", [*GOOD, {"model_name": "g"}], {}, r"model_list\[1\]: must be"),
        ("g", [{"litellm_params": {"model": "openai/m"}}], {}, r"model_list\[0\]: must be"),
        ("g", GOOD, {"api_key": KEY}, r"api_key: give it to the deployments"),
        ("g", GOOD, {"client_kwargs": {"model_list": GOOD}}, "model_list: give it to the model"),
        ("g", GOOD, {"client_kwargs": {"routing_stratgey": "x"}}, "routing_stratgey"),
        ("g", GOOD, {"client_kwargs": {"routing_strategy": "fastest"}}, "fastest"),
        ("g", [{"model_name": "g", "litellm_params": {"model": "nonsense"}}], {}, "model_id='nonsense'"),
    ],
)
def test_a_mistake_is_named(model_id: str, model_list: Any, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named) as caught:
        LiteLLMRouterModel(model_id, model_list, **settings).generate("hi")
    assert KEY not in str(caught.value)


def test_an_alias_and_a_pattern_are_names_too(a: FaultServer) -> None:
    with LiteLLMRouterModel("mine", rows(a), {"model_group_alias": {"mine": "g"}}) as model:
        assert model("hi").content == ANSWER
    with LiteLLMRouterModel("openai/any", rows(a, name="openai/*", model="openai/*")) as model:
        assert model("hi").content == ANSWER
    assert a.requests[-1].json["model"] == "any"


def test_capabilities_are_what_all_deployments_have(a: FaultServer) -> None:
    mixed = rows(a, model="openai/gpt-4o") + rows(a, model="anthropic/claude-sonnet-4-5")
    common = LiteLLMRouterModel("g", mixed).capabilities
    assert common.tools and not common.seed and "presence_penalty" in common.refused
    assert LiteLLMRouterModel("g", rows(a, model="openai/gpt-4o")).capabilities.seed


def test_a_router_changes_nothing_that_is_known_of_models(a: FaultServer) -> None:
    """It adds rows of its own to LiteLLM's table."""
    names = ("openai/gpt-4o", "openai/unknown", "gpt-4o")
    before = [LiteLLMModel(name).capabilities for name in names]
    with LiteLLMRouterModel("g", [row for name in names for row in rows(a, model=name)]) as model:
        model("hi")
        assert [LiteLLMModel(name).capabilities for name in names] == before


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_seen_nowhere(a: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_KEY", KEY)
    monkeypatch.setenv("HEADER", f"Bearer {OTHER_KEY}")
    model_list = [
        *rows(a),
        *rows(a, key="os.environ/FIRST_KEY"),
        *rows(a, key=KEY, extra_headers={"Authorization": f"Bearer {OTHER_KEY}"}),
    ]
    model = LiteLLMRouterModel("g", model_list, {"redis_password": OTHER_KEY, "num_retries": 0})
    assert model_list[0]["litellm_params"]["api_key"] == KEY  # the caller's own is as it was
    data = json.loads(json.dumps(model.to_dict()))
    stored = [row["litellm_params"]["api_key"] for row in data["model_list"]]
    assert stored == [{"env": "FIRST_KEY"}] * 3
    assert data["model_list"][2]["litellm_params"]["extra_headers"] == {"Authorization": {"env": "HEADER"}}
    assert data["client_kwargs"]["redis_password"] == {"env": "REDIS_PASSWORD"}
    model = LiteLLMRouterModel("g", model_list)
    data = json.loads(json.dumps(model.to_dict()))
    model("hi")
    for shown in (repr(model), repr(vars(model)), repr(pickle.dumps(model)), repr(data)):
        assert KEY not in shown and OTHER_KEY not in shown
    for twin in (Model.from_dict(data), pickle.loads(pickle.dumps(model))):
        assert twin.to_dict() == data
        a.clear()
        assert twin("hi").content == ANSWER
        assert a.requests[0].headers["authorization"] in (f"Bearer {KEY}", f"Bearer {OTHER_KEY}")
        twin.close()
    model.close()
    monkeypatch.delenv("FIRST_KEY")
    with pytest.raises(AuthenticationError, match="FIRST_KEY"):
        Model.from_dict(data).generate("hi")


def test_two_keys_of_one_provider_are_two_variables(a: FaultServer) -> None:
    data = LiteLLMRouterModel("g", rows(a, a) + rows(a, key=OTHER_KEY)).to_dict()
    stored = [row["litellm_params"]["api_key"]["env"] for row in data["model_list"]]
    assert stored == ["OPENAI_API_KEY", "OPENAI_API_KEY", "OPENAI_API_KEY_2"]


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
    """Two models, as of two processes: what one has seen fail, the other does not ask."""
    redis.command("FLUSHALL")
    a.script(then=Fault.rate_limit(None))
    kwargs = {**settings(redis), "allowed_fails": 0, "cooldown_time": 60}
    weighted = rows(a, weight=1000) + rows(b, weight=1)
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
    assert len(a.requests) == 1, "the second asked a deployment that the first had seen fail"


def answered(a: FaultServer, kwargs: dict[str, Any]) -> int:
    """How many of a few calls of a process of its own are answered, where a minute allows four."""
    code = f"""
import time
from modelport import LiteLLMRouterModel, RateLimited
model = LiteLLMRouterModel("g", {rows(a, rpm=4)!r}, {kwargs!r}, retry=False)
answered = 0
for _ in range(7):
    try:
        model("hi")
        answered += 1
    except RateLimited:
        pass
    time.sleep(0.1)  # it counts behind our back
print(answered)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_counts_are_shared_through_redis(a: FaultServer, redis: Any) -> None:
    redis.command("FLUSHALL")
    while time.time() % 60 > 35:  # it counts by the clock's minutes
        time.sleep(0.5)
    shared = {"redis_url": redis.url, "routing_strategy": "usage-based-routing-v2"}
    first = answered(a, shared)
    assert 1 <= first <= 4
    assert answered(a, shared) == 0


def test_connections_to_redis_end_with_their_loop_and_their_model(a: FaultServer, redis: Any) -> None:
    """LiteLLM counts in callbacks, which may run as late as when the loop ends."""

    def connections() -> int:
        return len(str(redis.command("CLIENT", "LIST")).splitlines()) - 1  # that of the question

    before = connections()
    model = LiteLLMRouterModel("g", rows(a), {"redis_url": redis.url, "routing_strategy": "usage-based-routing-v2"})
    model("hi")
    asyncio.run(model.agenerate("hi"))
    held = connections()
    assert held > before
    for _ in range(5):
        asyncio.run(model.agenerate("hi"))
    a.wait_for(lambda: connections() <= held)
    model.close()
    a.wait_for(lambda: connections() <= before)


def test_a_missing_redis_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.remote.litellm.router.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="redis"):
        LiteLLMRouterModel("g", GOOD, {"redis_host": "127.0.0.1"})
