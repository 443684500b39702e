"""A model on Hugging Face's Inference Providers, on a dedicated endpoint, or on any server by its URL.

The `huggingface_hub` package decides where a request goes and what its body looks like; `transport` sends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from modelport.errors import InvalidRequest
from modelport.inputs.settings import check_kind
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.transport import Transport
from modelport.remote.huggingface.transport import URL_SCHEMES, HubTransport, hub_package, provider_helper
from modelport.remote.services import provider_at, service_at
from modelport.secrets import Secret

#: The model if the caller names none: the default of the `smolagents` package.
DEFAULT_MODEL = "Qwen/Qwen3-Next-80B-A3B-Thinking"
#: Hugging Face's name of a provider -> the key of its table of parameters. Others get what Hugging Face documents.
_SERVICES_OF_PROVIDERS = {"cerebras": "cerebras", "cohere": "cohere", "fireworks-ai": "fireworks", "groq": "groq",
                          "together": "together"}  # fmt: skip


class InferenceClientModel(ChatCompletionsModel):
    """A model on Hugging Face's Inference Providers, on a dedicated endpoint, or on any server with chat completions.

    `huggingface_hub.AsyncInferenceClient` determines the provider's URL, the format of the body, the token and the
    billing. aiohttp sends the requests, so an HTTP client that was set with `huggingface_hub.set_async_client_factory`
    is not used. Proxies and certificates are read from the same environment variables as in `OpenAIServerModel`.
    See https://huggingface.co/docs/huggingface_hub/guides/inference

    Args:
        model_id: A model on the Hub, or the URL of a server. With `base_url`, the server's name for the model.
        provider: A provider such as `novita`. With `auto`, the default, Hugging Face's router chooses a provider, and
            may choose another one for each request.
        token: The token; by default the environment variable `HF_TOKEN`, else the token that `huggingface_hub.login`
            saved. A token that does not begin with `hf_` is taken for the provider's own key, and requests go directly
            to the provider.
        api_key: Another name of `token`.
        bill_to: The organisation that pays.
        base_url: The address of a server or of a dedicated endpoint, with or without `/v1`; not together with
            `provider`.
        client_kwargs: More settings of the `AsyncInferenceClient`, as
            `{"headers": {…}, "cookies": {…}, "timeout": 20}`. The timeout is the most seconds to connect, and between
            two reads.
        dialect: The kind of the server at a URL: `tgi`, `llama.cpp` or `vllm`. Requests then use the grammars that such
            servers accept beyond OpenAI's API. With `openai`, they use OpenAI's API alone. By default, the server is
            asked once whether it is llama.cpp's or vLLM's, by the first call with tools or an output type.
        **settings: See `Model` and `ChatCompletionsModel`. Parameters that the provider documents go into the request's
            body; so do others, with a warning. `extra_headers`, `extra_query` and `extra_body` work as in the `openai`
            package.

    Examples:
        >>> model = InferenceClientModel("openai/gpt-oss-20b", provider="novita", requests_per_minute=60)
    """

    secret_settings: ClassVar[frozenset[str]] = frozenset({"token", "api_key"})
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {
        "client_kwargs": frozenset({"cookies", "headers", "timeout"})
    }
    dialects: ClassVar[frozenset[str]] = frozenset({"openai", "llama.cpp", "vllm", "tgi"})
    address_setting: ClassVar[str] = "base_url"

    def __init__(
        self,
        model_id: str | None = None,
        provider: str | None = None,
        token: Secret | str | None = None,
        timeout: float | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        api_key: Secret | str | None = None,
        bill_to: str | None = None,
        base_url: str | None = None,
        **settings: Any,
    ) -> None:
        check_kind(Mapping, client_kwargs=client_kwargs)
        check_kind(str, model_id=model_id, provider=provider, bill_to=bill_to, base_url=base_url)
        if token is not None and api_key is not None:
            raise InvalidRequest("token and api_key are two names of one setting: pass one of them")
        parameters_of_model = {"model", "provider", "token", "api_key", "bill_to", "base_url"}
        if misplaced := sorted(parameters_of_model & {*(client_kwargs or {})}):
            raise InvalidRequest(f"{misplaced[0]} is a setting of its own: pass it beside client_kwargs, not in it")
        if timeout is not None:
            settings["timeout"] = timeout
        self.provider = provider
        self.token = Secret.from_value(api_key if token is None else token, "HF_TOKEN")
        self.bill_to = bill_to
        self.base_url = base_url
        self.client_kwargs = client_kwargs
        super().__init__(
            DEFAULT_MODEL if model_id is None and base_url is None else model_id,
            custom_role_conversions=custom_role_conversions,
            **settings,
        )

    @property
    def _url(self) -> str | None:
        """The address of the server; `None` if requests go to a provider."""
        model_url = self.model_id if (self.model_id or "").startswith(URL_SCHEMES) else None
        return self.base_url or model_url

    @property
    def _remote_model_id(self) -> str | None:
        return None if (self.model_id or "").startswith(URL_SCHEMES) else self.model_id

    @property
    def _service(self) -> str | None:
        if self._url is not None:
            return self._dialect_name or service_at(self._url)
        return _SERVICES_OF_PROVIDERS.get(self.provider or "", "huggingface")

    @property
    def _provider(self) -> str | None:
        return provider_at(self._url) or _SERVICES_OF_PROVIDERS.get(self.provider or "", self.provider or "huggingface")

    @property
    def _models_path(self) -> str:
        return "/v1/models"  # Also behind an address without `/v1`.

    def _make_transport(self) -> Transport:
        if (self.base_url is not None or self._url) and not _is_url(self._url):
            name = "base_url" if self.base_url is not None else "model_id"
            raise InvalidRequest(f"{name}={self._url!r}: must be a URL such as 'http://localhost:8080'")
        if self.base_url is not None and self._remote_model_id != self.model_id:
            raise InvalidRequest("model_id and base_url are both URLs: pass one URL, and the model's name as model_id")
        if self._url is not None and self.provider is not None:
            raise InvalidRequest(
                f"provider={self.provider!r} and a URL exclude each other: requests to a URL go to no provider"
            )
        if self._url is None and self.dialect is not None:
            raise InvalidRequest(
                f"dialect={self.dialect!r} is for a server at a URL; the dialects of providers are known"
            )
        hub = hub_package()
        settings = {"model": self._url or self.model_id, "provider": self.provider, "bill_to": self.bill_to}
        try:
            client = hub.AsyncInferenceClient(**settings, **(self.client_kwargs or {}))
            if self._url is None:
                provider_helper(client)  # Raises `ValueError` if the client's provider is unknown.
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"huggingface_hub refuses its settings: {error}") from None
        return HubTransport(client, self.token)

    def _key_origin(self) -> str:
        return self.token.origin if self.token else ""  # Without a token, the Hub's client may have one of its own.


def _is_url(text: str | None) -> bool:
    try:
        parts = urlsplit(text or "")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
