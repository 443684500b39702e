"""Recognises a service by the address of its API, to know which parameters it documents."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from modelport.errors import InvalidRequest

#: A pattern of host names -> the service's key in `inputs.vendor_parameters.SERVICES`.
_HOSTS = {
    "api.openai.com": "openai",
    "*.api.openai.com": "openai",
    "*.cognitiveservices.azure.com": "azure",
    "*.openai.azure.com": "azure",
    "*.services.ai.azure.com": "azure",
    "openrouter.ai": "openrouter",
    "*.openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "codestral.mistral.ai": "mistral",
    "api.x.ai": "xai",
    "dashscope*.aliyuncs.com": "dashscope",
    "api.moonshot.ai": "moonshot",
    "api.moonshot.cn": "moonshot",
    "api.z.ai": "zhipu",
    "open.bigmodel.cn": "zhipu",
    "api.minimax.io": "minimax",
    "api.minimaxi.com": "minimax",
    "generativelanguage.googleapis.com": "gemini",
    "*aiplatform.googleapis.com": "gemini",
    "api.cerebras.ai": "cerebras",
    "integrate.api.nvidia.com": "nvidia",
    "api.perplexity.ai": "perplexity",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "router.huggingface.co": "huggingface",
}
#: The service's key -> how many stop sequences a request may have, where that is less than OpenAI's four.
MAX_STOP_SEQUENCES = {"zhipu": 1}  # See https://docs.z.ai/api-reference/llm/chat-completion


def refuse_api_setting(class_name: str, settings: Mapping[str, Any]) -> None:
    """Refuse the setting `api`, which only two classes have. Otherwise it would be sent as a parameter.

    Args:
        class_name: The name of the class, for the error.
        settings: The keyword arguments that are not settings of the class.

    Raises:
        InvalidRequest: `api` is among them.
    """
    if "api" in settings:
        raise InvalidRequest(
            f"{class_name}(api=…): this class has no setting 'api'; OpenAIServerModel and AzureOpenAIServerModel can "
            "use the Responses API",
            parameter="api",
        )


@lru_cache(64)
def provider_at(url: str | None) -> str | None:
    """Return who answers at this address, for `ProviderData.service`: a known service, or host and port."""
    try:
        address = urlsplit(url or "").netloc.rpartition("@")[2].lower()
    except ValueError:
        return None
    return service_at(url) or address or None


@lru_cache(64)
def service_at(url: str | None) -> str | None:
    """Return the key of the service at this address, or `None` if it is not known."""
    host = host_of(url) or ""
    return next((service for pattern, service in _HOSTS.items() if fnmatchcase(host, pattern)), None)


def host_of(url: str | None) -> str | None:
    """Return the host of an address, in lower case, or `None` if it has none."""
    try:
        return urlsplit(url or "").hostname
    except ValueError:
        return None
