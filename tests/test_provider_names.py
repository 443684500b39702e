"""`load_model` with the name of a provider: which model it makes, with which key, and the errors of unknown names."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from modelport import (
    AuthenticationError,
    InferenceClientModel,
    InvalidRequest,
    MissingDependency,
    Model,
    OpenAIServerModel,
    load_model,
)
from modelport.providers import PROVIDER_NAMES, PROVIDERS
from modelport.registry import BACKENDS, backends
from modelport.remote.services import service_at
from modelport.secrets import Secret
from tests.servers.faults import FaultServer

#: Name -> address, variable of the key, key of the table of parameters, as the page of `Provider.source` has them.
EXPECTED = {
    "ollama": ("http://localhost:11434/v1", "OLLAMA_API_KEY", "ollama"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY", "groq"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral"),
    "deepseek": ("https://api.deepseek.com", "DEEPSEEK_API_KEY", "deepseek"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini"),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY", "xai"),
    "together": ("https://api.together.ai/v1", "TOGETHER_API_KEY", "together"),
    "fireworks": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "fireworks"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", "cerebras"),
    "moonshot": ("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", "moonshot"),
    "zai": ("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", "zhipu"),
    "dashscope": ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", "dashscope"),
    "lmstudio": ("http://localhost:1234/v1", "LM_API_TOKEN", "lmstudio"),
    "nvidia": ("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", "nvidia"),
    "github": ("https://models.github.ai/inference", "GITHUB_TOKEN", "github"),
    "perplexity": ("https://api.perplexity.ai", "PERPLEXITY_API_KEY", "perplexity"),
    "hyperbolic": ("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY", "hyperbolic"),
    "sambanova": ("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", "sambanova"),
    "cohere": ("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", "cohere"),
    "minimax": ("https://api.minimax.io/v1", "MINIMAX_API_KEY", "minimax"),
    "hosted_vllm": ("http://localhost:8000/v1", "VLLM_API_KEY", "vllm"),
}
SERVERS = ("ollama", "lmstudio", "hosted_vllm")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", *(provider.key_variable for provider in PROVIDERS.values())):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://openai.example/v1")


def test_expected_names_are_all_but_anthropic() -> None:
    assert PROVIDERS.keys() - EXPECTED.keys() == {"anthropic"}


@pytest.mark.parametrize("name", EXPECTED)
def test_name_stands_for_class_address_key_and_service(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address, variable, service = EXPECTED[name]
    monkeypatch.setenv(variable, "the-key")
    model = load_model(f"{name}/org/model-1")
    assert type(model) is OpenAIServerModel
    assert (model.model_id, model.api_base, model._service) == ("org/model-1", address, service)
    assert isinstance(model.api_key, Secret) and model.api_key.reveal() == "the-key"
    assert model.dialect == ("vllm" if name == "hosted_vllm" else None)


@pytest.mark.parametrize(("name", "setting"), [("ollama", "accept_missing_finish"), ("minimax", "reasoning_split")])
def test_settings_of_the_name_hold_unless_the_caller_sets_them(name: str, setting: str) -> None:
    assert load_model(f"{name}/m", api_key="k").to_dict()[setting] is True
    assert not load_model(f"{name}/m", api_key="k", **{setting: False}).to_dict().get(setting)


@pytest.mark.parametrize(
    ("litellm_name", "name"),
    [
        ("together_ai", "together"),
        ("fireworks_ai", "fireworks"),
        ("nvidia_nim", "nvidia"),
        ("lm_studio", "lmstudio"),
        ("ollama_chat", "ollama"),
        ("cohere_chat", "cohere"),
    ],
)
def test_name_of_litellm_makes_the_same_model(litellm_name: str, name: str) -> None:
    settings: dict[str, Any] = {"api_key": "k", "temperature": 0.5}
    assert load_model(f"{litellm_name}/a/b", **settings).to_dict() == load_model(f"{name}/a/b", **settings).to_dict()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("openai/responses/gpt-5", OpenAIServerModel("gpt-5", api_key="k", api="responses")),
        ("openai/gpt-5", OpenAIServerModel("gpt-5", api_key="k")),
        ("huggingface/together/deepseek-ai/DeepSeek-R1", InferenceClientModel("deepseek-ai/DeepSeek-R1", "together")),
        ("huggingface/deepseek-ai/DeepSeek-R1", InferenceClientModel("deepseek-ai/DeepSeek-R1")),
    ],
)
def test_settings_in_a_model_string_of_litellm_are_read(spec: str, expected: Model) -> None:
    settings = {"api_key": "k"} if spec.startswith("openai") else {}
    assert load_model(spec, **settings).to_dict() == expected.to_dict()


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in SERVERS])
def test_missing_key_is_named_with_its_variable(name: str) -> None:
    with pytest.raises(AuthenticationError) as raised:
        load_model(f"{name}/m")
    assert (
        str(raised.value) == f"No key was given. Pass api_key=…, or set the environment variable {EXPECTED[name][1]}."
    )
    assert str(raised.value.hint).endswith(f"export {EXPECTED[name][1]}=…")


@pytest.mark.parametrize("name", EXPECTED)
def test_saved_model_reads_the_key_of_its_own_service(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was passed by hand must not make the restored model send OpenAI's key to another service."""
    model = load_model(f"{name}/m", api_key="by hand")
    data = model.to_dict()
    assert data["api_key"]["env"] == EXPECTED[name][1] and "by hand" not in str(data)
    monkeypatch.setenv("OPENAI_API_KEY", "of openai")
    monkeypatch.setenv(EXPECTED[name][1], "from variable")
    for restored in (OpenAIServerModel.from_dict(data), pickle.loads(pickle.dumps(model))):
        assert restored.api_key.reveal() == "from variable"
        assert restored.to_dict() == data


@pytest.mark.parametrize("name", SERVERS)
def test_server_needs_no_key_also_when_restored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        model = load_model(f"{name}/m", api_base=server.base_url, retry=False)
        restored = Model.from_dict(model.to_dict())
        for each in (model, restored, pickle.loads(pickle.dumps(model))):
            each("Hi")
        monkeypatch.setenv(EXPECTED[name][1], "my-own-key")
        model("Hi")
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == ["Bearer none", "Bearer none", "Bearer none", "Bearer my-own-key"]


@pytest.mark.parametrize("data", [{"env": "A", "optional": "yes"}, {"optional": True}, {"env": "A", "value": "k"}])
def test_saved_key_with_other_fields_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="must name an environment variable"):
        OpenAIServerModel.from_dict({"model_id": "m", "api_key": data})


async def test_variables_of_openai_are_not_sent_to_another_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: secret")
    model = load_model("groq/m", api_key="k")
    assert isinstance(model, OpenAIServerModel)
    assert await model._headers() == {"Authorization": "Bearer k"}
    model = load_model("groq/m", api_key="k", organization="org-2", default_headers={"A": "b"})
    assert isinstance(model, OpenAIServerModel)
    assert await model._headers() == {"Authorization": "Bearer k", "OpenAI-Organization": "org-2", "A": "b"}
    for name, settings in (
        ("ollama/m", {"api_base": "http://gpu:11434/v1"}),
        ("hosted_vllm/m", {}),
        ("groq/m", {"api_base": "https://gateway.example/v1"}),
    ):
        monkeypatch.setenv("GROQ_API_KEY", "k")
        model = load_model(name, **settings)
        for one in (model, Model.from_dict(model.to_dict())):
            assert isinstance(one, OpenAIServerModel)
            assert (await one._headers()).keys() == {"Authorization"}
    model = load_model("openai/m", api_key="k")
    assert isinstance(model, OpenAIServerModel)
    assert (await model._headers()).keys() == {"Authorization", "OpenAI-Organization", "OpenAI-Project", "X-Mine"}


def test_client_of_the_openai_package_sends_nothing_of_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself reads these variables, and OPENAI_API_KEY if it is made without a key."""
    pytest.importorskip("openai")
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-openai-0123")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: of-openai-0123")
    settings: dict[str, Any] = {"client_kwargs": {"timeout": 20}, "retry": False}
    with pytest.raises(AuthenticationError, match="GROQ_API_KEY"):
        load_model("groq/m", **settings)("Hi")
    with FaultServer() as server:
        monkeypatch.setattr(OpenAIServerModel, "_is_another_service", True)
        load_model("groq/m", api_key="k", api_base=server.base_url, default_headers={"A": "b"}, **settings)("Hi")
        load_model("ollama/m", api_base=server.base_url, **settings)("Hi")
    first, second = (request.headers for request in server.requests)
    assert (first["authorization"], first["a"], second["authorization"]) == ("Bearer k", "b", "Bearer none")
    assert "of-openai" not in f"{first}{second}"


def test_key_that_is_optional_counts_as_none() -> None:
    """Otherwise `modelport check --report` would redact the word "none"."""
    assert not Secret(env="NOT_SET_HERE", optional=True)
    assert Secret("k", env="NOT_SET_HERE", optional=True)


@pytest.mark.parametrize(
    ("spec", "near", "ways"),
    [
        ("grok/grok-4", "'groq'", ("'litellm/grok/grok-4'", "'openai/grok-4'")),
        ("olama/qwen3", "'ollama'", ("'litellm/olama/qwen3'", "'openai/qwen3'")),
        ("togetherai/a/b", "'together_ai'", ("'litellm/togetherai/a/b'", "'openai/a/b'")),
        ("vertex_ai/gemini-3-pro", "", ("'litellm/vertex_ai/gemini-3-pro'", "'openai/gemini-3-pro'")),
        ("watsonx", "", ("'litellm/watsonx'", "'openai/watsonx'")),
        ("qwen3", "", ("'litellm/qwen3'", "'openai/qwen3'")),
        ("GROQ/x", "'groq'", ("'litellm/GROQ/x'", "'openai/x'")),
        ("openai:gpt-4o", "'openai/gpt-4o'", ("'openai/openai:gpt-4o'",)),
    ],
)
def test_unknown_name_gets_near_names_and_ways_to_any_service(spec: str, near: str, ways: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        load_model(spec)
    text = str(raised.value)
    assert text.startswith(f"backend {spec.partition('/')[0]!r} is unknown; ")
    assert ("did you mean" in text and near in text) if near else "there are anthropic, azure," in text
    assert all(way in text for way in ways) and "api_base" in text
    assert "--api-base URL" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("spec", "right"),
    [
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("gemini-3-pro", "gemini/gemini-3-pro"),
        ("grok-4", "xai/grok-4"),
    ],
)
def test_name_of_a_model_alone_suggests_its_provider(spec: str, right: str) -> None:
    with pytest.raises(InvalidRequest, match=f"did you mean '{right}'"):
        load_model(spec)


def test_name_without_a_model_shows_an_example() -> None:
    with pytest.raises(InvalidRequest, match=r"^'groq' names no model: write 'groq/openai/gpt-oss-120b'"):
        load_model("groq")


def test_anthropic_without_litellm_names_the_extra() -> None:
    with pytest.raises(MissingDependency, match=r"pip install 'modelport\[litellm\]'"):
        load_model("anthropic/claude-sonnet-4-5")


def test_names_are_not_those_of_backends() -> None:
    assert not PROVIDER_NAMES.keys() & BACKENDS.keys()
    assert {provider.backend for provider in PROVIDERS.values()} <= backends().keys()
    assert len(PROVIDER_NAMES) == sum(1 + len(provider.litellm_names) for provider in PROVIDERS.values())


def test_every_address_has_a_source_and_is_recognized() -> None:
    for name, provider in PROVIDERS.items():
        assert provider.source.startswith("https://"), name
        assert provider.service == service_at(provider.api_base), name
        assert provider.service or provider.dialect or provider.api_base is None, name


@pytest.mark.parametrize(
    "url",
    [
        "https://ws-1.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1",
        "https://cn-hongkong.dashscope.aliyuncs.com/compatible-mode/v1",
        "https://dashscope-us.aliyuncs.com/compatible-mode/v1",
    ],
)
def test_regional_addresses_of_dashscope_are_recognized(url: str) -> None:
    """See https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope."""
    assert service_at(url) == "dashscope"


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://localhost:8000/v1", None),
        ("https://api.groq.com:443/openai/v1", "groq"),
        ("https://api.groq.com.evil.example/v1", None),
    ],
)
def test_service_is_recognized_by_host_and_port(url: str, service: str | None) -> None:
    assert service_at(url) == service
