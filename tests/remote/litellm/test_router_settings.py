"""Settings of `LiteLLMRouterModel`: wrong settings, names, capabilities and keys."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

from modelport import LiteLLMModel, LiteLLMRouterModel, Model
from modelport.errors import AuthenticationError, InvalidRequest, MissingDependency
from tests.remote.litellm.helpers import OTHER_KEY, ROUTER_KEY, deployments_on
from tests.remote.matrix import ANSWER
from tests.servers.faults import FaultServer

# --- wrong settings ---------------------------------------------------------------------------------------------------

DEPLOYMENTS: list[dict[str, Any]] = [{"model_name": "g", "litellm_params": {"model": "openai/m"}}]


@pytest.mark.parametrize(
    ("model_id", "model_list", "settings", "text"),
    [
        ("", DEPLOYMENTS, {}, "model_id is missing"),
        ("h", DEPLOYMENTS, {}, "model_id='h': the model_list has g"),
        ("g", [], {}, "model_list: must be a list"),
        ("g", {"model_name": "g"}, {}, "model_list: must be a list"),
        ("g", [*DEPLOYMENTS, {"model_name": "g"}], {}, r"model_list\[1\]: must be"),
        ("g", [{"litellm_params": {"model": "openai/m"}}], {}, r"model_list\[0\]: must be"),
        ("g", DEPLOYMENTS, {"api_key": ROUTER_KEY}, r"api_key: give it to the deployments"),
        ("g", DEPLOYMENTS, {"client_kwargs": {"model_list": DEPLOYMENTS}}, "model_list: give it to the model"),
        ("g", DEPLOYMENTS, {"client_kwargs": {"routing_stratgey": "x"}}, "routing_stratgey"),
        ("g", DEPLOYMENTS, {"client_kwargs": {"routing_strategy": "fastest"}}, "fastest"),
        ("g", [{"model_name": "g", "litellm_params": {"model": "nonsense"}}], {}, "model_id='nonsense'"),
    ],
)
def test_wrong_setting_raises_invalid_request_that_names_it(
    model_id: str, model_list: Any, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text) as raised:
        LiteLLMRouterModel(model_id, model_list, **settings).generate("hi")
    assert ROUTER_KEY not in str(raised.value)


def test_alias_and_pattern_are_accepted_as_names(server: FaultServer) -> None:
    with LiteLLMRouterModel("mine", deployments_on(server), {"model_group_alias": {"mine": "g"}}) as model:
        assert model("hi").content == ANSWER
    with LiteLLMRouterModel("openai/any", deployments_on(server, name="openai/*", model="openai/*")) as model:
        assert model("hi").content == ANSWER
    assert server.requests[-1].json["model"] == "any"


def test_capabilities_are_those_that_all_deployments_have(server: FaultServer) -> None:
    mixed = deployments_on(server, model="openai/gpt-4o") + deployments_on(server, model="anthropic/claude-sonnet-4-5")
    common = LiteLLMRouterModel("g", mixed).capabilities
    assert common.tools and not common.seed and "presence_penalty" in common.refused
    assert LiteLLMRouterModel("g", deployments_on(server, model="openai/gpt-4o")).capabilities.seed


def test_router_does_not_change_the_capabilities_of_models(server: FaultServer) -> None:
    """The Router adds rows of its own to LiteLLM's table of models."""
    names = ("openai/gpt-4o", "openai/unknown", "gpt-4o")
    before = [LiteLLMModel(name).capabilities for name in names]
    with LiteLLMRouterModel(
        "g", [deployment for name in names for deployment in deployments_on(server, model=name)]
    ) as model:
        model("hi")
        assert [LiteLLMModel(name).capabilities for name in names] == before


def named(*names: str) -> list[dict[str, Any]]:
    return [{"model_name": name, "litellm_params": {"model": "openai/m"}} for name in names]


@pytest.mark.parametrize(
    ("model_id", "names", "text"),
    [
        (
            "a" * 60,
            ["a*", "*a" * 8 + "*b"],
            r"model_list\[1\]\['model_name'\]='\*a.*': has 9 '\*', but may have at most 2",
        ),
        ("a", ["a", "***"], r"model_list\[1\]\['model_name'\]='\*\*\*': has 3"),
        ("a", ["a", "a" * 257], r"model_list\[1\]\['model_name'\]: must be a string of at most 256 characters"),
        ("a" * 257, ["a*"], "model_id: must be a string of at most 256 characters"),
        ("alias", ["a*"], "model_id: must be a string of at most 256 characters"),
        ("a", [f"a{n}*" for n in range(51)], "model_list: has 51 names with '.'; at most 50"),
    ],
)
def test_names_that_take_long_to_match_are_refused(model_id: str, names: list[str], text: str) -> None:
    """LiteLLM matches them with regular expressions on the event loop: eight `*` took more than a minute."""
    with pytest.raises(InvalidRequest, match=text):
        LiteLLMRouterModel(model_id, named(*names), {"model_group_alias": {"alias": "a" * 300}})


def test_names_within_the_bounds_are_accepted() -> None:
    LiteLLMRouterModel("a" * 256, named("*a*", *(f"{n}*" for n in range(49)), "a" * 256))


# --- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_shown_in_no_representation_and_restored_from_the_environment(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIRST_KEY", ROUTER_KEY)
    monkeypatch.setenv("HEADER", f"Bearer {OTHER_KEY}")
    model_list = [
        *deployments_on(server),
        *deployments_on(server, key="os.environ/FIRST_KEY"),
        *deployments_on(server, key=ROUTER_KEY, extra_headers={"Authorization": f"Bearer {OTHER_KEY}"}),
    ]
    model = LiteLLMRouterModel("g", model_list, {"redis_password": OTHER_KEY, "num_retries": 0})
    assert model_list[0]["litellm_params"]["api_key"] == ROUTER_KEY  # The caller's list is unchanged.
    data = json.loads(json.dumps(model.to_dict()))
    stored = [deployment["litellm_params"]["api_key"] for deployment in data["model_list"]]
    assert stored == [{"env": "FIRST_KEY"}] * 3
    assert data["model_list"][2]["litellm_params"]["extra_headers"] == {"Authorization": {"env": "HEADER"}}
    assert data["client_kwargs"]["redis_password"] == {"env": "REDIS_PASSWORD"}
    model = LiteLLMRouterModel("g", model_list)
    data = json.loads(json.dumps(model.to_dict()))
    model("hi")
    for text in (repr(model), repr(vars(model)), repr(pickle.dumps(model)), repr(data)):
        assert ROUTER_KEY not in text and OTHER_KEY not in text
    for restored in (Model.from_dict(data), pickle.loads(pickle.dumps(model))):
        assert restored.to_dict() == data
        server.clear()
        assert restored("hi").content == ANSWER
        assert server.requests[0].headers["authorization"] in (f"Bearer {ROUTER_KEY}", f"Bearer {OTHER_KEY}")
        restored.close()
    model.close()
    monkeypatch.delenv("FIRST_KEY")
    with pytest.raises(AuthenticationError, match="FIRST_KEY"):
        Model.from_dict(data).generate("hi")


def test_names_of_fallbacks_and_the_variable_of_a_redis_url_are_saved_and_restored() -> None:
    settings: dict[str, Any] = {
        "fallbacks": [{"g": ["h", "i"]}, {"h": ["i"]}],
        "context_window_fallbacks": [{"g": ["h"]}],
        "content_policy_fallbacks": [{"g": ["h"]}],
        "default_fallbacks": ["i"],
        "model_group_alias": {"mine": "g"},
        "redis_url": "redis://127.0.0.1:1/0",
    }
    parameters = {"model": "openai/m", "fallbacks": ["openai/n"], "context_window_fallback_dict": {"m": "n"}}
    model = LiteLLMRouterModel("mine", [{"model_name": "g", "litellm_params": parameters}], settings)
    data = json.loads(json.dumps(model.to_dict()))
    assert data["client_kwargs"] == {**settings, "redis_url": {"env": "REDIS_URL"}}
    assert Model.from_dict(data).to_dict() == data
    data = LiteLLMModel("openai/m", fallbacks=["openai/n"], context_window_fallback_dict={"m": "n"}).to_dict()
    assert Model.from_dict(data).to_dict() == data


def test_fallbacks_with_parameters_are_saved_only_for_those_who_trust_the_data() -> None:
    model = LiteLLMModel("openai/m", fallbacks=[{"model": "openai/n", "temperature": 0}])
    with pytest.raises(TypeError, match=r"fallbacks\[0\]: the data may only have the name .*trust_remote_code=True"):
        model.to_dict()
    data = model.to_dict(trust_remote_code=True)
    assert Model.from_dict(data, trust_remote_code=True).to_dict(trust_remote_code=True) == data


def test_two_keys_of_one_provider_get_two_variables(server: FaultServer) -> None:
    data = LiteLLMRouterModel("g", deployments_on(server, server) + deployments_on(server, key=OTHER_KEY)).to_dict()
    stored = [deployment["litellm_params"]["api_key"]["env"] for deployment in data["model_list"]]
    assert stored == ["OPENAI_API_KEY", "OPENAI_API_KEY", "OPENAI_API_KEY_2"]


def test_missing_redis_package_raises_missing_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelport.remote.litellm.router.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="redis"):
        LiteLLMRouterModel("g", DEPLOYMENTS, {"redis_host": "127.0.0.1"})
