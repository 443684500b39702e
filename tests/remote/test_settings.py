"""Every backend's constructor refuses settings of a wrong type, and shows none of their values."""

from __future__ import annotations

from typing import Any

import pytest

import modelport
from modelport.errors import AuthenticationError, InvalidRequest, MissingDependency

OPENAI = {"model_id": "m", "api_base": "http://127.0.0.1:9/v1", "api_key": "key"}
AZURE = {"model_id": "m", "azure_endpoint": "https://r.openai.azure.com", "api_key": "key"}
HUB = {"model_id": "m", "base_url": "http://127.0.0.1:9", "token": "hf_key"}
BEDROCK = {"model_id": "amazon.nova-pro-v1:0", "region_name": "us-east-1", "api_key": "key"}
LITELLM = {"model_id": "openai/m"}
ROUTER = {"model_id": "m", "model_list": [{"model_name": "m", "litellm_params": {"model": "openai/m"}}]}


@pytest.mark.parametrize(
    ("name", "settings", "wrong"),
    [
        ("OpenAIServerModel", OPENAI, {"model_id": 5}),
        ("OpenAIServerModel", OPENAI, {"dialect": []}),
        ("OpenAIServerModel", OPENAI, {"accept_missing_finish": "yes"}),
        ("OpenAIServerModel", OPENAI, {"api_key": 5}),
        ("OpenAIServerModel", OPENAI, {"extra_headers": ["hidden"]}),
        ("AzureOpenAIServerModel", AZURE, {"azure_endpoint": 5}),
        ("AzureOpenAIServerModel", AZURE, {"azure_deployment": 5}),
        ("AzureOpenAIServerModel", AZURE, {"api_version": 1.5}),
        ("AzureOpenAIServerModel", AZURE, {"client_kwargs": 5}),
        ("AzureOpenAIServerModel", AZURE, {"default_query": "hidden"}),
        ("InferenceClientModel", HUB, {"base_url": 5}),
        ("InferenceClientModel", HUB, {"model_id": ["m"]}),
        ("InferenceClientModel", HUB, {"client_kwargs": ["hidden"]}),
        ("InferenceClientModel", HUB, {"token": b"hidden"}),
        ("AmazonBedrockServerModel", BEDROCK, {"client_kwargs": "hidden"}),
        ("AmazonBedrockServerModel", BEDROCK, {"region_name": 5}),
        ("AmazonBedrockServerModel", BEDROCK, {"api_base": 5}),
        ("LiteLLMModel", LITELLM, {"model_id": 5}),
        ("LiteLLMModel", LITELLM, {"api_base": 5}),
        ("LiteLLMModel", LITELLM, {"api_key": b"hidden"}),
        ("LiteLLMModel", LITELLM, {"num_retries": "3"}),
        ("LiteLLMModel", LITELLM, {"flatten_messages_as_text": "yes"}),
        ("LiteLLMRouterModel", ROUTER, {"client_kwargs": ["hidden"]}),
        ("LiteLLMRouterModel", ROUTER, {"model_id": 5}),
    ],
)
def test_setting_of_wrong_type_is_named_and_not_shown(
    name: str, settings: dict[str, Any], wrong: dict[str, Any]
) -> None:
    make = getattr(modelport, name)
    try:
        make(**settings)
    except MissingDependency as error:
        pytest.skip(str(error))
    (setting,) = wrong
    with pytest.raises(InvalidRequest, match=f"^{setting}|a key must be a string") as raised:
        make(**{**settings, **wrong})
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "settings", "wrong", "right"),
    [
        ("OpenAIServerModel", {"model_id": "m", "api_key": "k"}, "base_url", "api_base"),
        ("OpenAIServerModel", {"model_id": "m", "api_key": "k"}, "azure_endpoint", "api_base"),
        ("AzureOpenAIServerModel", AZURE, "base_url", "azure_endpoint"),
        ("InferenceClientModel", {"model_id": "m", "token": "hf_key"}, "api_base", "base_url"),
        ("AmazonBedrockServerModel", BEDROCK, "base_url", "api_base"),
    ],
)
def test_address_under_the_name_of_another_class_is_refused(
    name: str, settings: dict[str, Any], wrong: str, right: str
) -> None:
    """Otherwise the prompt and the key would go to the default address."""
    make = getattr(modelport, name)
    try:
        make(**settings)
    except MissingDependency as error:
        pytest.skip(str(error))
    with pytest.raises(InvalidRequest, match=f"no setting '{wrong}'; pass the address as {right}=") as raised:
        make(**settings, **{wrong: "http://127.0.0.1:9/hidden"})
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("key", ["", " ", "\n"])
@pytest.mark.parametrize(
    ("name", "settings", "variable"),
    [
        ("OpenAIServerModel", OPENAI, "OPENAI_API_KEY"),
        ("AzureOpenAIServerModel", AZURE, "AZURE_OPENAI_API_KEY"),
        ("AmazonBedrockServerModel", BEDROCK, "AWS_BEARER_TOKEN_BEDROCK"),
    ],
)
def test_blank_key_is_no_key(
    name: str, settings: dict[str, Any], variable: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "  ")
    for given in ({**settings, "api_key": key}, {**settings, "api_key": None}):
        if name.startswith("Amazon") and given["api_key"] is None:
            continue  # The credentials of AWS are used in its place.
        with pytest.raises(AuthenticationError, match=variable):
            getattr(modelport, name)(**given)("hi")
