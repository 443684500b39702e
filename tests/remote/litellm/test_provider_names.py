"""The names of providers beside LiteLLM: its model strings lead to the same models, and `anthropic` to LiteLLM."""

from __future__ import annotations

from typing import Any

import pytest

from modelport import LiteLLMModel, Model, load_model
from modelport.providers import PROVIDERS
from modelport.remote.litellm.package import litellm_package

#: Addresses that LiteLLM has otherwise, and why modelport's is another one.
OTHER_ADDRESSES = {
    "dashscope": "LiteLLM uses the region China, and the service's own examples Singapore",
    "deepseek": "LiteLLM uses the beta of the API",
    "github": "GitHub has replaced the address that LiteLLM uses",
    "ollama": "LiteLLM uses Ollama's own API",
}


@pytest.mark.parametrize(
    ("litellm_name", "name"),
    [(alias, name) for name, provider in PROVIDERS.items() for alias in (provider.litellm_names or (name,))],
)
def test_litellm_knows_the_name_and_has_the_same_address(litellm_name: str, name: str, monkeypatch: Any) -> None:
    litellm = litellm_package()  # Imported by itself, LiteLLM would download its tables.
    provider = PROVIDERS[name]
    monkeypatch.setenv(provider.key_variable, "key")
    for variable in ("HOSTED_VLLM_API_BASE", "LM_STUDIO_API_BASE"):  # LiteLLM has no address for these.
        monkeypatch.setenv(variable, provider.api_base or "")
    model_id, found, _, address = litellm.get_llm_provider(f"{litellm_name}/org/m")
    assert (model_id, found) == ("org/m", litellm_name)
    if address and name not in OTHER_ADDRESSES:
        assert address.rstrip("/") == provider.api_base


def test_anthropic_is_a_model_of_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    model = load_model("anthropic/claude-sonnet-4-5", temperature=0.5)
    assert type(model) is LiteLLMModel and model.model_id == "anthropic/claude-sonnet-4-5"
    assert model.to_dict() == load_model("litellm/anthropic/claude-sonnet-4-5", temperature=0.5).to_dict()
    assert Model.from_dict(model.to_dict()).model_id == "anthropic/claude-sonnet-4-5"
