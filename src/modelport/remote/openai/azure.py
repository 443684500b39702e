"""A model on Azure OpenAI.

Azure serves OpenAI's API at two kinds of addresses:

- If the `api_version` is a date, requests go to the path of the deployment, with the API key in the header `api-key`.
- Otherwise requests go to the v1 API, with the API key as a bearer token: the v1 API is made for OpenAI's own client,
  which sends the key in this way.

Requests of the Responses API go to the path `/openai/responses` with a date, which must be 2025-03-01-preview or later.

A token of Microsoft Entra ID is sent as a bearer token to both.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from modelport.errors import AuthenticationError, InvalidRequest, ModelError, UnsupportedFeature
from modelport.inputs.settings import check_kind
from modelport.remote.http.requests import check_base_url
from modelport.remote.http.transport import HTTPTransport, Transport
from modelport.remote.openai.model import OpenAIServerModel, call_key_function
from modelport.remote.schema_subsets import AZURE
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.listed_models import ListedModel

_TOKEN_VARIABLE = "AZURE_OPENAI_AD_TOKEN"
#: Values of `api_version` for which requests go to the v1 API. All others go to the path of the deployment.
_V1_VERSIONS = (None, "v1", "latest", "preview")
#: A client of the `openai` package can't be created without a key. Each call passes the real credentials as a header.
_PLACEHOLDER_KEY = "set for each call"


class AzureOpenAIServerModel(OpenAIServerModel):
    """A model deployed on Azure OpenAI.

    With a date as `api_version`, requests go to the deployment's own path, as with `openai.AzureOpenAI`. Without one
    they go to the v1 API (`/openai/v1/`). Pass at most one of `api_key`, `azure_ad_token` and
    `azure_ad_token_provider`. If none is passed, the environment variable `AZURE_OPENAI_AD_TOKEN` takes precedence over
    `AZURE_OPENAI_API_KEY`, as in the `openai` package.
    See https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle

    Args:
        model_id: The name of the deployment.
        azure_endpoint: The address of the Azure resource, such as `https://RESOURCE.openai.azure.com`; by default
            `AZURE_OPENAI_ENDPOINT`.
        api_key: The key, or a function (also async) that returns the key; by default `AZURE_OPENAI_API_KEY`.
        api_version: A version such as `2024-10-21`; by default `OPENAI_API_VERSION`, else the v1 API.
        azure_deployment: The name of the deployment, if `model_id` is the name of the model itself. The model's name
            is used to look up its capabilities.
        azure_ad_token: A token of Microsoft Entra ID; by default `AZURE_OPENAI_AD_TOKEN`.
        azure_ad_token_provider: A function that returns a token for each request, such as the function that
            `azure.identity.get_bearer_token_provider` makes. If it is not async, it runs in a thread.
        **settings: See `OpenAIServerModel`. The `client` is an `openai.AsyncAzureOpenAI` or `openai.AzureOpenAI`.
            `client_kwargs` are settings of an `openai.AsyncAzureOpenAI`, or of an `openai.AsyncOpenAI` for the v1 API.

    Raises:
        MissingDependency: A package is missing; the message holds the command that installs it.
        AuthenticationError: There is neither a key nor a token.
        InvalidRequest: A setting is wrong, or there is no endpoint.

    Examples:
        >>> model = AzureOpenAIServerModel("my-gpt-4o", "https://RESOURCE.openai.azure.com", api_version="2024-10-21")
    """

    declared_capabilities: ClassVar[Capabilities] = OpenAIServerModel.declared_capabilities.replace(schema_rules=AZURE)
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key", "azure_ad_token"})
    key_variable: ClassVar[str] = "AZURE_OPENAI_API_KEY"
    address_setting: ClassVar[str] = "azure_endpoint"

    def __init__(
        self,
        model_id: str | None = None,
        azure_endpoint: str | None = None,
        api_key: Secret | str | Callable[[], str | Awaitable[str]] | None = None,
        api_version: str | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        *,
        azure_deployment: str | None = None,
        azure_ad_token: Secret | str | None = None,
        azure_ad_token_provider: Callable[[], str | Awaitable[str]] | None = None,
        **settings: Any,
    ) -> None:
        given: dict[str, Any] = {
            "azure_endpoint": azure_endpoint, "api_key": api_key, "api_version": api_version,
            "azure_deployment": azure_deployment, "azure_ad_token": azure_ad_token,
            "azure_ad_token_provider": azure_ad_token_provider,
        }  # fmt: skip
        check_kind(Mapping, client_kwargs=client_kwargs, default_query=settings.get("default_query"))
        client_kwargs = dict(client_kwargs or {})
        # Users of smolagents pass these settings in client_kwargs, because its model class has no parameters for them.
        for name in given.keys() & client_kwargs.keys():
            if given[name] is not None:
                raise InvalidRequest(f"{name} is given twice: as a setting and in client_kwargs")
            given[name] = client_kwargs.pop(name)
        if settings.get("api_base"):
            raise InvalidRequest(
                "api_base is a setting of OpenAIServerModel; pass the resource's address as azure_endpoint"
            )
        check_kind(str, **{name: given[name] for name in ("azure_endpoint", "api_version", "azure_deployment")})
        if not callable(given["azure_ad_token_provider"]) and given["azure_ad_token_provider"] is not None:
            raise InvalidRequest("azure_ad_token_provider must be a function that returns a token")
        credentials = ("api_key", "azure_ad_token", "azure_ad_token_provider")
        if len(passed := [name for name in credentials if given[name] is not None]) > 1:
            raise InvalidRequest(f"{' and '.join(passed)}: pass one of them")
        if not passed and os.environ.get(_TOKEN_VARIABLE):
            given["azure_ad_token"] = Secret(env=_TOKEN_VARIABLE)
        token = given["azure_ad_token"]
        self.azure_endpoint, self.api_version = given["azure_endpoint"], given["api_version"]
        self.azure_deployment = given["azure_deployment"]
        self.azure_ad_token = None if token is None else Secret.from_value(token, _TOKEN_VARIABLE)
        self.azure_ad_token_provider = given["azure_ad_token_provider"]
        super().__init__(
            self.azure_deployment if model_id is None else model_id,
            api_key=given["api_key"],
            client_kwargs=client_kwargs or None,
            custom_role_conversions=custom_role_conversions,
            **settings,
        )
        if self._uses_token:
            self.api_key = None  # Otherwise a saved model would have a key and a token, which the constructor refuses.

    async def list_models(self) -> list[ListedModel]:
        """Refuse to list models: requests name a deployment, and Azure's list has the models that can be deployed."""
        raise UnsupportedFeature(
            "Azure's API lists the models that can be deployed, and not your deployments; "
            "`az cognitiveservices account deployment list` does"
        )

    @property
    def _uses_token(self) -> bool:
        """Whether requests carry a token of Entra ID, and not a key."""
        return self.azure_ad_token is not None or self.azure_ad_token_provider is not None

    @property
    def _remote_model_id(self) -> str | None:
        return self.azure_deployment or self.model_id

    @property
    def _service(self) -> str | None:
        return self._dialect_name or "azure"

    @property
    def _provider(self) -> str | None:
        return "azure"

    @property
    def _responses_path(self) -> str:
        # Azure has this API beside the deployments. The body names the deployment.
        given = (self.client_kwargs or {}).get("base_url") or getattr(self.client, "base_url", None)
        parent, separator, _ = urlsplit(str(given or self._base_url_and_query()[0])).path.partition("/deployments/")
        return f"{parent}/responses" if separator else super()._responses_path

    def _make_transport(self) -> Transport:
        if self.client is not None:
            return super()._make_transport()
        base_url, query = self._base_url_and_query()
        secret = self.azure_ad_token if self._uses_token else self.api_key
        if isinstance(secret, Secret) and not secret:
            raise AuthenticationError(
                "No credentials were given. Pass api_key=…, azure_ad_token=… or azure_ad_token_provider=…, or set the "
                "environment variable AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN.",
                hint="The command line takes keys from the environment only: export AZURE_OPENAI_API_KEY=…",
            )
        if self.client_kwargs:
            from modelport.remote.openai.sdk import SDKTransport

            return SDKTransport(make_client=self._make_client, headers=self._credential_for_sdk)
        return HTTPTransport(base_url, self._headers, {**(self.default_query or {}), **query})

    def _version(self) -> str | None:
        """Return the version that the caller or the environment sets; `None` if neither does."""
        return self.api_version or os.environ.get("OPENAI_API_VERSION") or None

    def _base_url_and_query(self) -> tuple[str, dict[str, str]]:
        """Return the base URL, and the query parameters of every request."""
        endpoint = (self.azure_endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or "").rstrip("/")
        if not endpoint:
            raise InvalidRequest(
                "No endpoint was given. Pass azure_endpoint='https://RESOURCE.openai.azure.com', or set the "
                "environment variable AZURE_OPENAI_ENDPOINT.",
                hint="The option --set azure_endpoint=https://RESOURCE.openai.azure.com sets the endpoint.",
            )
        version, (address, *query) = self._version(), endpoint.split("?")
        if query or "/deployments" in address:
            raise InvalidRequest(
                f"azure_endpoint={address!r}: must be only the address of the resource, such as "
                "'https://RESOURCE.openai.azure.com'"
            )
        check_base_url(endpoint, "azure_endpoint")
        if version in _V1_VERSIONS:
            endpoint = f"{endpoint.removesuffix('/v1').removesuffix('/openai')}/openai/v1"
        elif endpoint.endswith("/openai/v1"):
            raise InvalidRequest(
                f"azure_endpoint={endpoint!r} is the address of the v1 API, which takes no api_version={version!r}: "
                "leave the version out (also OPENAI_API_VERSION), or remove '/openai/v1' from the address"
            )
        else:
            name = quote(self._remote_model_id or "", safe="")
            endpoint = f"{endpoint.removesuffix('/openai')}/openai/deployments/{name}"
        return endpoint, {"api-version": version} if version else {}

    def _make_client(self) -> Any:
        from modelport.remote.openai.sdk import openai_package

        openai, (base_url, query) = openai_package(), self._base_url_and_query()
        settings: dict[str, Any] = {
            "base_url": base_url,
            "organization": self.organization,
            "project": self.project,
            "default_headers": self.default_headers,
            "default_query": {**(self.default_query or {}), **query},
        }
        if self._version() in _V1_VERSIONS:
            client_class = openai.AsyncOpenAI
            settings["api_key"] = _PLACEHOLDER_KEY
        else:
            client_class = openai.AsyncAzureOpenAI
            settings["api_version"] = self._version()
            settings["azure_ad_token" if self._uses_token else "api_key"] = _PLACEHOLDER_KEY
        return client_class(**{**settings, **(self.client_kwargs or {}), "max_retries": 0})

    async def _credential(self) -> dict[str, str]:
        secret = await (self._token() if self._uses_token else self._key())
        uses_key_header = not self._uses_token and self._version() not in _V1_VERSIONS
        return {"api-key": secret} if uses_key_header else {"Authorization": f"Bearer {secret}"}

    async def _credential_for_sdk(self) -> dict[str, Any]:
        from modelport.remote.openai.sdk import openai_package

        # In the header `Authorization`, some versions of the package would send the placeholder key, or a token of the
        # environment. `Omit` removes this header, unless `_credential` returns another value for it.
        return {"Authorization": openai_package().Omit(), **await self._credential()}

    async def _token(self) -> str:
        if self.azure_ad_token is not None:
            return self.azure_ad_token.reveal()
        assert self.azure_ad_token_provider is not None
        return await call_key_function(self.azure_ad_token_provider, "azure_ad_token_provider")

    def _key_origin(self) -> str:
        return "" if self._uses_token else super()._key_origin()

    def _not_found_advice(self, error: ModelError) -> str:
        resource = self.azure_endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or "the client's resource"
        name = self._remote_model_id
        question = f"Is there a deployment {name!r} at {resource}? Pass its name as model_id or azure_deployment."
        return " ".join(filter(None, (question, super()._not_found_advice(error))))


#: A shorter name of the same class.
AzureOpenAIModel = AzureOpenAIServerModel
