"""The services and servers that `load_model` knows by name, such as `groq` in `groq/openai/gpt-oss-120b`.

A provider's name is only a way to make a model of an existing class: it stands for the class, the address, the
environment variable of the key and further settings. A saved model has these settings, and not the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Provider(NamedTuple):
    """How to make a model of a service or a server.

    Args:
        api_base: The base URL; `None` if the backend knows it.
        key_variable: The environment variable with the key.
        example: The ID of a model of the provider.
        source: The URL of the page that documents the address.
        service: The key in `inputs.vendor_parameters.SERVICES`. A model at `api_base` finds by it what the service
            accepts. `None` if the backend or the dialect knows that.
        backend: The name of the backend whose class makes the model.
        dialect: The setting `dialect` of the class.
        settings: Further settings of the constructor. The caller's own override them.
        litellm_names: The provider's names in LiteLLM's model strings, where they differ from its name here.
        model_prefix: What precedes the model ID for the backend.
        needs_key: Whether the provider refuses requests without a key.
    """

    api_base: str | None
    key_variable: str
    example: str
    source: str
    service: str | None = None
    backend: str = "openai"
    dialect: str | None = None
    settings: Mapping[str, Any] = {}
    litellm_names: tuple[str, ...] = ()
    model_prefix: str = ""
    needs_key: bool = True


#: The provider's name -> how to make its models. LiteLLM's names are those of https://docs.litellm.ai/docs/providers
PROVIDERS: Mapping[str, Provider] = {
    # Until modelport has a class for Anthropic's own API, LiteLLM calls it. LiteLLM reads the key itself.
    "anthropic": Provider(
        None, "ANTHROPIC_API_KEY", "claude-sonnet-4-5", "https://docs.litellm.ai/docs/providers/anthropic",
        backend="litellm", model_prefix="anthropic/",
    ),
    "cerebras": Provider(
        "https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", "gpt-oss-120b",
        "https://inference-docs.cerebras.ai/resources/openai", "cerebras",
    ),
    "cohere": Provider(
        "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", "command-a-03-2025",
        "https://docs.cohere.com/docs/compatibility-api", "cohere", litellm_names=("cohere_chat",),
    ),
    "dashscope": Provider(
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", "qwen-plus",
        "https://www.alibabacloud.com/help/en/model-studio/compatibility-of-openai-with-dashscope", "dashscope",
    ),
    "deepseek": Provider(
        "https://api.deepseek.com", "DEEPSEEK_API_KEY", "deepseek-chat",
        "https://api-docs.deepseek.com/quick_start/your_first_api_call", "deepseek",
    ),
    "fireworks": Provider(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "accounts/fireworks/models/kimi-k2-instruct",
        "https://docs.fireworks.ai/tools-sdks/openai-compatibility", "fireworks", litellm_names=("fireworks_ai",),
    ),
    "gemini": Provider(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini-3-pro-preview",
        "https://ai.google.dev/gemini-api/docs/openai", "gemini",
    ),
    "github": Provider(
        "https://models.github.ai/inference", "GITHUB_TOKEN", "openai/gpt-4.1",
        "https://docs.github.com/en/rest/models/inference", "github",
    ),
    "groq": Provider(
        "https://api.groq.com/openai/v1", "GROQ_API_KEY", "openai/gpt-oss-120b",
        "https://console.groq.com/docs/openai", "groq",
    ),
    "hosted_vllm": Provider(
        "http://localhost:8000/v1", "VLLM_API_KEY", "Qwen/Qwen3-8B",
        "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html", dialect="vllm", needs_key=False,
    ),
    "hyperbolic": Provider(
        "https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY", "meta-llama/Llama-3.3-70B-Instruct",
        "https://docs.hyperbolic.xyz/docs/rest-api", "hyperbolic",
    ),
    "lmstudio": Provider(
        "http://localhost:1234/v1", "LM_API_TOKEN", "qwen3-8b",
        "https://lmstudio.ai/docs/api/openai-api", "lmstudio", litellm_names=("lm_studio",), needs_key=False,
    ),
    "minimax": Provider(
        "https://api.minimax.io/v1", "MINIMAX_API_KEY", "MiniMax-M2",
        "https://platform.minimax.io/docs/api-reference/text-openai-api", "minimax", settings={"reasoning_split": True},
    ),
    "mistral": Provider(
        "https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral-large-latest",
        "https://docs.mistral.ai/api", "mistral",
    ),
    "moonshot": Provider(
        "https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", "kimi-k2.5",
        "https://docs.litellm.ai/docs/providers/moonshot", "moonshot",
    ),
    "nvidia": Provider(
        "https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY", "meta/llama-3.3-70b-instruct",
        "https://docs.api.nvidia.com/nim/reference/llm-apis", "nvidia", litellm_names=("nvidia_nim",),
    ),
    # Some versions of Ollama send streams without a finish reason.
    "ollama": Provider(
        "http://localhost:11434/v1", "OLLAMA_API_KEY", "qwen3",
        "https://docs.ollama.com/api/openai-compatibility", "ollama",
        settings={"accept_missing_finish": True}, litellm_names=("ollama_chat",), needs_key=False,
    ),
    "openrouter": Provider(
        "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "anthropic/claude-sonnet-4.5",
        "https://openrouter.ai/docs/community/openai-sdk", "openrouter",
    ),
    "perplexity": Provider(
        "https://api.perplexity.ai", "PERPLEXITY_API_KEY", "sonar-pro",
        "https://docs.litellm.ai/docs/providers/perplexity", "perplexity",
    ),
    "sambanova": Provider(
        "https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", "Meta-Llama-3.3-70B-Instruct",
        "https://docs.sambanova.ai/docs/en/features/openai-compatibility", "sambanova",
    ),
    "together": Provider(
        "https://api.together.ai/v1", "TOGETHER_API_KEY", "deepseek-ai/DeepSeek-V3.1",
        "https://docs.together.ai/docs/inference/openai-compatibility", "together", litellm_names=("together_ai",),
    ),
    "xai": Provider(
        "https://api.x.ai/v1", "XAI_API_KEY", "grok-4", "https://docs.x.ai/developers/quickstart", "xai",
    ),
    "zai": Provider(
        "https://api.z.ai/api/paas/v4", "ZAI_API_KEY", "glm-4.7", "https://docs.z.ai/guides/develop/openai/python",
        "zhipu",
    ),
}  # fmt: skip
#: Every name of a provider, including LiteLLM's -> its name in `PROVIDERS`.
PROVIDER_NAMES: Mapping[str, str] = {
    **{alias: name for name, provider in PROVIDERS.items() for alias in provider.litellm_names},
    **{name: name for name in PROVIDERS},
}
