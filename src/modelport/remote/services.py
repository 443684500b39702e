"""Recognises a service by the address of its API, to know which parameters it documents."""

from __future__ import annotations

from fnmatch import fnmatchcase
from urllib.parse import urlsplit

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


def provider_at(url: str | None) -> str | None:
    """Return who answers at this address, for `ProviderData.service`: a known service, or host and port."""
    try:
        address = urlsplit(url or "").netloc.rpartition("@")[2].lower()
    except ValueError:
        return None
    return service_at(url) or address or None


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
