"""Saved data of a stranger: settings inside of settings, and the URLs of Redis servers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modelport.errors import InvalidRequest
from modelport.layers.redis_limits import RedisLimits
from modelport.model import Model

#: Parameters of LiteLLM in the place of a model's name.
UNVERIFIED = {"model": "openai/m", "api_base": "https://127.0.0.1:9/v1", "ssl_verify": False}


def router_data(client_kwargs: Any = None, **params: Any) -> dict[str, Any]:
    deployment = {"model_name": "m", "litellm_params": {"model": "x/y", **params}}
    return {"class": "LiteLLMRouterModel", "model_id": "m", "model_list": [deployment], "client_kwargs": client_kwargs}


#: Data in which LiteLLM would find parameters that no list has been compared with -> the path in the error.
HIDDEN: dict[str, dict[str, Any]] = {
    "fallbacks[1]": {"class": "LiteLLMModel", "fallbacks": ["openai/m", UNVERIFIED]},
    "fallbacks[0][0]": {"class": "LiteLLMModel", "fallbacks": [[UNVERIFIED]]},
    "fallbacks": {"class": "LiteLLMModel", "fallbacks": UNVERIFIED},
    "context_window_fallback_dict.m": {"class": "LiteLLMModel", "context_window_fallback_dict": {"m": UNVERIFIED}},
    "client_kwargs.fallbacks[0].m[1]": router_data({"fallbacks": [{"m": ["n", UNVERIFIED]}]}),
    "client_kwargs.fallbacks[0].m": router_data({"fallbacks": [{"m": UNVERIFIED}]}),
    "client_kwargs.fallbacks[0].ssl_verify": router_data({"fallbacks": [UNVERIFIED]}),
    "client_kwargs.context_window_fallbacks[0].m[0]": router_data({"context_window_fallbacks": [{"m": [UNVERIFIED]}]}),
    "client_kwargs.content_policy_fallbacks[0].m[0]": router_data({"content_policy_fallbacks": [{"m": [UNVERIFIED]}]}),
    "client_kwargs.default_fallbacks[0]": router_data({"default_fallbacks": [UNVERIFIED]}),
    "model_list[0].litellm_params.fallbacks[0]": router_data(fallbacks=[UNVERIFIED]),
    "model_list[0].litellm_params.context_window_fallback_dict.m": router_data(
        context_window_fallback_dict={"m": UNVERIFIED}
    ),
}


@pytest.mark.parametrize("path", HIDDEN)
@pytest.mark.parametrize("nested", [False, True], ids=["alone", "in a FallbackModel"])
def test_settings_in_the_place_of_a_name_are_refused(path: str, nested: bool) -> None:
    """Before, LiteLLM sent the key to a server whose certificate it did not verify."""
    data = {"class": "FallbackModel", "models": [HIDDEN[path]]} if nested else HIDDEN[path]
    with pytest.raises(InvalidRequest, match=rf"{re.escape(path)}: the data may only have the name of a model here"):
        Model.from_dict(data)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:9/0", "rediss://127.0.0.1:9/0?ssl_ca_certs=/dev/ptmx", "unix:///etc/passwd",
        "rediss://127.0.0.1:9/0?ssl_cert_reqs=none", "redis://127.0.0.1:9/0?socket_timeout=1000", 5, {}, {"env": 5},
        {"env": "REDIS_URL", "value": "redis://h"}, ["redis://h"],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("of", ["shared_limits", "Router"])
def test_url_of_a_redis_server_in_the_data_is_refused(url: Any, of: str) -> None:
    """It could name files, switch off TLS or lift the time limit."""
    data: dict[str, Any] = {"class": "OpenAIServerModel", "model_id": "m", "requests_per_minute": 5}
    data, path = (
        ({**data, "shared_limits": {"url": url}}, "shared_limits.url")
        if of == "shared_limits"
        else (router_data({"redis_url": url}), "client_kwargs.redis_url")
    )
    with pytest.raises(InvalidRequest, match=rf"{path}.*: the data must name an environment variable here"):
        Model.from_dict(data)


def test_limits_without_a_url_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("MY_REDIS", "redis://127.0.0.1:1/0")
    data = {"class": "OpenAIServerModel", "model_id": "m", "requests_per_minute": 5}
    for url, variable in ((None, "REDIS_URL"), ({"env": "MY_REDIS"}, "MY_REDIS")):
        limits = Model.from_dict({**data, "shared_limits": {"url": url}}).shared_limits
        assert isinstance(limits, RedisLimits) and limits.url.env == variable
