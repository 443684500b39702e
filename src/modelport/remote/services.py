"""Recognises a service by the address of its API, to know which parameters it documents."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from modelport.errors import InvalidRequest
from modelport.providers import PROVIDERS

#: A pattern of host names, or of host and port -> the service's key in `inputs.vendor_parameters.SERVICES`.
_HOSTS = {
    # The addresses that `load_model` uses. Those of servers of the user's own have a port.
    **{
        urlsplit(provider.api_base).netloc: provider.service
        for provider in PROVIDERS.values()
        if provider.api_base and provider.service
    },
    "127.0.0.1:11434": "ollama",
    "127.0.0.1:1234": "lmstudio",
    "api.openai.com": "openai",
    "*.api.openai.com": "openai",
    "*.cognitiveservices.azure.com": "azure",
    "*.openai.azure.com": "azure",
    "*.services.ai.azure.com": "azure",
    "*.openrouter.ai": "openrouter",
    "api.together.xyz": "together",
    "codestral.mistral.ai": "mistral",
    "dashscope*.aliyuncs.com": "dashscope",
    "*.dashscope.aliyuncs.com": "dashscope",
    "*.maas.aliyuncs.com": "dashscope",
    "api.moonshot.cn": "moonshot",
    "open.bigmodel.cn": "zhipu",
    "api.minimaxi.com": "minimax",
    "*aiplatform.googleapis.com": "gemini",
    "api.cohere.com": "cohere",
    "router.huggingface.co": "huggingface",
}
#: The service's key -> the path that lists its models, where it is not `models`.
MODELS_PATHS = {"github": "/catalog/models"}  # See https://docs.github.com/en/rest/models/catalog
#: The service's key -> how many stop sequences a request may have, where that is less than OpenAI's four.
MAX_STOP_SEQUENCES = {"zhipu": 1}  # See https://docs.z.ai/api-reference/llm/chat-completion


def refuse_settings_of_other_classes(
    class_name: str, settings: Mapping[str, Any], address_setting: str | None = None
) -> None:
    """Refuse settings that only other classes have. Otherwise they would be sent as parameters.

    An address that is sent as a parameter is not used: the prompt would go to the class's default address.

    Args:
        class_name: The name of the class, for the error.
        settings: The keyword arguments that are not settings of the class.
        address_setting: The class's own setting for the address. With `None`, addresses are not refused.

    Raises:
        InvalidRequest: Such a setting is among them.
    """
    wrong = next((name for name in ("api_base", "base_url", "azure_endpoint") if settings.get(name) is not None), None)
    if wrong and address_setting:
        raise InvalidRequest(
            f"{class_name}({wrong}=…): this class has no setting {wrong!r}; pass the address as {address_setting}=…",
            hint="The option --api-base sets the address." if address_setting == "api_base" else None,
            parameter=wrong,
        )
    if "api" in settings:
        raise InvalidRequest(
            f"{class_name}(api=…): this class has no setting 'api'; OpenAIServerModel and AzureOpenAIServerModel can "
            "use the Responses API",
            parameter="api",
        )


@lru_cache(64)
def provider_at(url: str | None) -> str | None:
    """Return who answers at this address, for `ProviderData.service`: a known service, or host and port."""
    return service_at(url) or _address_of(url) or None


@lru_cache(64)
def service_at(url: str | None) -> str | None:
    """Return the key of the service at this address, or `None` if it is not known."""
    names = (host_of(url) or "", _address_of(url))
    return next((service for pattern, service in _HOSTS.items() if any(fnmatchcase(n, pattern) for n in names)), None)


def _address_of(url: str | None) -> str:
    """Return host and port of an address, in lower case; an empty text if it has none."""
    try:
        return urlsplit(url or "").netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""


def host_of(url: str | None) -> str | None:
    """Return the host of an address, in lower case, or `None` if it has none."""
    try:
        return urlsplit(url or "").hostname
    except ValueError:
        return None
