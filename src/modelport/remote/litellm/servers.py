"""The servers behind LiteLLM, for what LiteLLM itself can't ask them."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from modelport.errors import ConnectionFailed, ModelError
from modelport.remote.http.redaction import HiddenStr
from modelport.remote.http.transport import ServiceCall
from modelport.remote.litellm.package import litellm_package
from modelport.remote.openai.sdk import SDKTransport, openai_package
from modelport.secrets import Secret

#: Where LiteLLM finds the address of `openai/…` without an `api_base`.
_ADDRESSES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")


class Servers:
    """The servers of one model's deployments, through clients of the `openai` package, which LiteLLM brings along.

    Args:
        deployments: `litellm_params`, each with a `model` and perhaps an `api_base`, an `api_key`, and the provider.
    """

    def __init__(self, deployments: Iterable[Mapping[str, Any]]) -> None:
        self._transports = [
            SDKTransport(make_client=functools.partial(_client, *found))
            for each in deployments
            if (found := _address(each))
        ]

    async def call(self, call: ServiceCall) -> Any:
        """What the first server answers that does not fail.

        Raises:
            ModelError: All fail, or none has a known address.
        """
        failure: ModelError = ConnectionFailed("No deployment has an address.")
        for transport in self._transports:
            try:
                return await transport.call(call)
            except ModelError as error:
                failure = error
        raise failure

    async def aclose(self) -> None:
        """Closes the connections of the running loop."""
        for transport in self._transports:
            await transport.aclose()


def _address(deployment: Mapping[str, Any]) -> tuple[str, str] | None:
    """A deployment's base URL and key, as LiteLLM finds them."""
    base, key = deployment.get("api_base") or deployment.get("base_url"), deployment.get("api_key")
    _, provider, found_key, found_base = litellm_package().get_llm_provider(
        deployment["model"], custom_llm_provider=deployment.get("custom_llm_provider"), api_base=base
    )
    base = found_base or base
    if base is None and provider == "openai":
        base = next((value for name in _ADDRESSES if (value := os.environ.get(name))), None)
    key = key.reveal() if isinstance(key, Secret) else key or found_key or os.environ.get("OPENAI_API_KEY")
    return (base, HiddenStr(key or "none")) if base else None


def _client(base: str, key: str) -> Any:
    return openai_package().AsyncOpenAI(base_url=base, api_key=key, max_retries=0)
