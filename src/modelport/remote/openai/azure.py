"""Azure OpenAI: OpenAI's API at another address, by another key."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar
from urllib.parse import quote

from modelport.errors import AuthenticationError, InvalidRequest, NotFoundError
from modelport.inputs.settings import check_kind
from modelport.remote.http.outgoing import checked_url
from modelport.remote.http.transport import HTTPTransport, Transport
from modelport.remote.openai.model import OpenAIServerModel, key_from
from modelport.remote.schema_subsets import AZURE
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.request import Request

_TOKEN_VARIABLE = "AZURE_OPENAI_AD_TOKEN"
#: Versions of the v1 API, which needs none; dated ones belong to the deployments paths.
_V1 = (None, "v1", "latest", "preview")


class AzureOpenAIServerModel(OpenAIServerModel):
    """A model deployed on Azure OpenAI.

    With an `api_version` requests go to the deployment's own path, as with `openai.AzureOpenAI`; without one to the v1
    API (`/openai/v1/`), which needs none. Credentials are one of three; where none is given, `AZURE_OPENAI_AD_TOKEN`
    goes before `AZURE_OPENAI_API_KEY`, as in the `openai` package.
    See https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle

    Args:
        model_id: The deployment's name.
        azure_endpoint: The resource's address, such as `https://RESOURCE.openai.azure.com`; by default
            `AZURE_OPENAI_ENDPOINT`.
        api_key: The key, or a function (also async) that gives one; by default `AZURE_OPENAI_API_KEY`.
        api_version: Such as `2024-10-21`; by default `OPENAI_API_VERSION`, else the v1 API.
        azure_deployment: The deployment's name, where `model_id` is to be the model's own: what is known of models by
            name goes by `model_id`.
        azure_ad_token: A token of Entra ID; by default `AZURE_OPENAI_AD_TOKEN`.
        azure_ad_token_provider: A function (also async) that gives one for each request, such as
            `azure.identity.get_bearer_token_provider` makes; one that blocks runs in a thread.
        **settings: See `OpenAIServerModel`; `client` and `client_kwargs` are those of `openai.AsyncAzureOpenAI` (of
            `openai.AsyncOpenAI` with the v1 API).

    Raises:
        MissingDependency: A package is missing; the message holds the command.
        AuthenticationError: There is neither key nor token.
        InvalidRequest: A setting is wrong, or there is no endpoint.

    Example:
        >>> model = AzureOpenAIServerModel("my-gpt-4o", "https://RESOURCE.openai.azure.com", api_version="2024-10-21")
    """

    declared_capabilities: ClassVar[Capabilities] = OpenAIServerModel.declared_capabilities.replace(schema_rules=AZURE)
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key", "azure_ad_token"})
    key_variable: ClassVar[str] = "AZURE_OPENAI_API_KEY"

    def __init__(
        self,
        model_id: str | None = None,
        azure_endpoint: str | None = None,
        api_key: Secret | str | Callable[[], str | Awaitable[str]] | None = None,
        api_version: str | None = None,
        *,
        azure_deployment: str | None = None,
        azure_ad_token: Secret | str | None = None,
        azure_ad_token_provider: Callable[[], str | Awaitable[str]] | None = None,
        **settings: Any,
    ) -> None:
        own: dict[str, Any] = {
            "azure_endpoint": azure_endpoint, "api_key": api_key, "api_version": api_version,
            "azure_deployment": azure_deployment, "azure_ad_token": azure_ad_token,
            "azure_ad_token_provider": azure_ad_token_provider,
        }  # fmt: skip
        check_kind(Mapping, client_kwargs=settings.get("client_kwargs"), default_query=settings.get("default_query"))
        rest = dict(settings.pop("client_kwargs", None) or {})
        for name in own.keys() & rest.keys():  # where agents' users write what their model class has no name for
            if own[name] is not None:
                raise InvalidRequest(f"{name} is given twice: as itself and in client_kwargs")
            own[name] = rest.pop(name)
        if settings.get("api_base"):
            raise InvalidRequest("api_base is for OpenAIServerModel; here the resource's address is azure_endpoint")
        check_kind(str, **{name: own[name] for name in ("azure_endpoint", "api_version", "azure_deployment")})
        if not callable(own["azure_ad_token_provider"]) and own["azure_ad_token_provider"] is not None:
            raise InvalidRequest("azure_ad_token_provider must be a function that gives a token")
        credentials = ("api_key", "azure_ad_token", "azure_ad_token_provider")
        if len(given := [name for name in credentials if own[name] is not None]) > 1:
            raise InvalidRequest(f"{' and '.join(given)}: give one of them")
        if not given and os.environ.get(_TOKEN_VARIABLE):
            own["azure_ad_token"] = Secret(env=_TOKEN_VARIABLE)
        token = own["azure_ad_token"]
        self.azure_endpoint, self.api_version = own["azure_endpoint"], own["api_version"]
        self.azure_deployment = own["azure_deployment"]
        self.azure_ad_token = None if token is None else Secret.from_value(token, _TOKEN_VARIABLE)
        self.azure_ad_token_provider = own["azure_ad_token_provider"]
        super().__init__(
            model_id or self.azure_deployment, api_key=own["api_key"], client_kwargs=rest or None, **settings
        )
        if self._by_token:
            self.api_key = None  # or a model that is saved would come back with both

    @property
    def _by_token(self) -> bool:
        return self.azure_ad_token is not None or self.azure_ad_token_provider is not None

    @property
    def _name_on_the_wire(self) -> str | None:
        return self.azure_deployment or self.model_id

    def _make_transport(self) -> Transport:
        if self.client is not None:
            return super()._make_transport()
        base, query = self._place()
        secret = self.azure_ad_token if self._by_token else self.api_key
        if isinstance(secret, Secret) and not secret:
            raise AuthenticationError(
                "No credentials were given. Pass api_key=…, azure_ad_token=… or azure_ad_token_provider=…, or set the "
                "environment variable AZURE_OPENAI_API_KEY or AZURE_OPENAI_AD_TOKEN.",
                hint="The command line takes keys from the environment only: export AZURE_OPENAI_API_KEY=…",
            )
        if self.client_kwargs:
            from modelport.remote.openai.sdk import SDKTransport

            return SDKTransport(None, self._make_client, self._credential_for_sdk)
        return HTTPTransport(base, self._headers, {**(self.default_query or {}), **query})

    def _version(self) -> str | None:
        return self.api_version or os.environ.get("OPENAI_API_VERSION") or None

    def _place(self) -> tuple[str, dict[str, str]]:
        """The base URL, and what is put on every URL."""
        endpoint = (self.azure_endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or "").rstrip("/")
        if not endpoint:
            raise InvalidRequest(
                "No endpoint was given. Pass azure_endpoint='https://RESOURCE.openai.azure.com', or set the "
                "environment variable AZURE_OPENAI_ENDPOINT.",
                hint="The option --set azure_endpoint=https://RESOURCE.openai.azure.com sets the endpoint.",
            )
        version, (address, *more) = self._version(), endpoint.split("?")
        if more or "/deployments" in address:
            raise InvalidRequest(
                f"azure_endpoint={address!r}: must be the resource's address alone, such as "
                "'https://RESOURCE.openai.azure.com'"
            )
        checked_url(endpoint, "azure_endpoint")
        if version in _V1:
            endpoint = f"{endpoint.removesuffix('/v1').removesuffix('/openai')}/openai/v1"
        elif endpoint.endswith("/openai/v1"):
            raise InvalidRequest(
                f"azure_endpoint={endpoint!r} is that of the v1 API, which takes no api_version={version!r}: leave it "
                "out (also OPENAI_API_VERSION), or leave '/openai/v1' out for the deployments paths"
            )
        else:
            name = quote(self._name_on_the_wire or "", safe="")
            endpoint = f"{endpoint.removesuffix('/openai')}/openai/deployments/{name}"
        return endpoint, {"api-version": version} if version else {}

    def _make_client(self) -> Any:
        from modelport.remote.openai.sdk import openai_package

        openai, (base, query) = openai_package(), self._place()
        own: dict[str, Any] = {
            "base_url": base,
            "organization": self.organization,
            "project": self.project,
            "default_headers": self.default_headers,
            "default_query": {**(self.default_query or {}), **query},
        }
        # Each call brings its credential along; the client only wants to have been given one.
        if self._version() in _V1:
            make = openai.AsyncOpenAI
            own["api_key"] = "of each call"
        else:
            make = openai.AsyncAzureOpenAI
            own["api_version"] = self._version()
            own["azure_ad_token" if self._by_token else "api_key"] = "of each call"
        return make(**{**own, **(self.client_kwargs or {}), "max_retries": 0})

    async def _credential(self) -> dict[str, str]:
        secret = await (self._token() if self._by_token else self._key())
        # With the v1 API a key is a bearer token too: it is made for OpenAI's own client.
        is_key = not self._by_token and self._version() not in _V1
        return {"api-key": secret} if is_key else {"Authorization": f"Bearer {secret}"}

    async def _credential_for_sdk(self) -> dict[str, Any]:
        from modelport.remote.openai.sdk import openai_package

        # Some versions send a key in both headers, or a token of the environment beside it.
        return {"Authorization": openai_package().Omit(), **await self._credential()}

    async def _token(self) -> str:
        if self.azure_ad_token is not None:
            return self.azure_ad_token.reveal()
        assert self.azure_ad_token_provider is not None
        return await key_from(self.azure_ad_token_provider, "azure_ad_token_provider")

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        try:
            async with aclosing(super().deltas(request)) as deltas:
                async for delta in deltas:
                    yield delta
        except NotFoundError as error:
            where = self.azure_endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT") or "this client's resource"
            fix = (
                f"Is there a deployment {self._name_on_the_wire!r} at {where}? Name it by model_id or azure_deployment."
            )
            error.args = (f"{error.message} {fix}",)
            raise


#: The short name.
AzureOpenAIModel = AzureOpenAIServerModel
