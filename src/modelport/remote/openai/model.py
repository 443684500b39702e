"""A model on OpenAI, or on any OpenAI-compatible server.

Requests go through modelport's own HTTP transport. If the caller passes `client` or `client_kwargs`, requests go
through the `openai` package (`sdk`) instead. In both cases the same environment variables apply.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from modelport.errors import AuthenticationError, InvalidRequest
from modelport.inputs.settings import check_kind
from modelport.layers.retry import RetryPolicy
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.packages import require
from modelport.remote.http.redaction import with_hidden_repr
from modelport.remote.http.requests import check_headers, check_url
from modelport.remote.http.transport import HTTPTransport, Transport
from modelport.remote.services import host_of, provider_at, service_at
from modelport.runtime.threads import in_thread
from modelport.secrets import Secret

OPENAI_URL = "https://api.openai.com/v1"
#: Added to the error about a missing key if requests do not go to OpenAI's own address.
_ANY_KEY_WILL_DO = " If your server needs no key, pass any text, such as 'none'."


class OpenAIServerModel(ChatCompletionsModel):
    """A model on any server with OpenAI's chat completions.

    By default aiohttp sends the requests. With `client` or `client_kwargs`, the `openai` package sends them. In both
    cases keys, the environment variables `OPENAI_*`, proxies and TLS settings work as in the `openai` package, except
    that aiohttp can't use SOCKS proxies.

    Args:
        model_id: The server's name for the model, such as `gpt-4o`.
        api_base: The base URL; by default the environment variable `OPENAI_BASE_URL`, else OpenAI's own address.
        api_key: The key, or a function (also async) that returns the key; by default `OPENAI_API_KEY`.
        organization: The ID of the organization; by default `OPENAI_ORG_ID`.
        project: The ID of the project; by default `OPENAI_PROJECT_ID`.
        client: An `openai.OpenAI` or `openai.AsyncOpenAI` that sends the requests.
        client_kwargs: Settings of an `openai.AsyncOpenAI` that modelport makes, as
            `{"timeout": 20, "http_client": …}`. The package's own retries are switched off. If `max_retries` is among
            the settings, modelport retries as often instead, unless `retry` is passed.
        default_headers: Headers of every request, in addition to those in `OPENAI_CUSTOM_HEADERS`.
        default_query: Query parameters of every request.
        dialect: The kind of the server: `llama.cpp` or `vllm`. Requests then use what such servers accept beyond
            OpenAI's API, such as any grammar. By default they use OpenAI's API alone.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none). By default such a stream counts as truncated.
        split_reasoning: Whether text between `<think>` and `</think>` at the beginning of the output is reasoning,
            which some servers do not separate from it. By default it is.
        **settings: See `Model`. Parameters that the service documents, such as `service_tier`, go into the request's
            body; so do others, with a warning. `extra_headers`, `extra_query` and `extra_body` work as in the `openai`
            package.

    Raises:
        MissingDependency: A package is missing; the message holds the command that installs it.
        AuthenticationError: There is no key.
        InvalidRequest: A setting is wrong.

    Examples:
        >>> model = OpenAIServerModel("gpt-4o", api_key=os.environ["OPENAI_API_KEY"])
    """

    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {
        "client_kwargs": frozenset({
            "base_url", "default_headers", "default_query", "max_retries", "organization", "project", "timeout",
        })
    }  # fmt: skip
    #: The environment variable from which the key is read if no `api_key` is passed.
    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    def __init__(
        self,
        model_id: str | None = None,
        api_base: str | None = None,
        api_key: Secret | str | Callable[[], str | Awaitable[str]] | None = None,
        organization: str | None = None,
        project: str | None = None,
        client: Any = None,
        client_kwargs: Mapping[str, Any] | None = None,
        *,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if client is not None or client_kwargs:
            require("openai", "openai")
        else:
            require("openai", "aiohttp", "orjson")
        if not model_id:
            raise InvalidRequest(
                f"model_id is missing: name the model, as {type(self).__name__}('gpt-4o')",
                hint="The option -m names backend and model, for example -m openai/gpt-4o.",
            )
        if client is not None and client_kwargs:
            raise InvalidRequest("client and client_kwargs: pass one of them; client has its own settings")
        check_kind(Mapping, client_kwargs=client_kwargs, default_headers=default_headers, default_query=default_query)
        check_kind(str, organization=organization, project=project)
        if client_kwargs and "max_retries" in client_kwargs and "retry" not in settings:
            if not isinstance(max_retries := client_kwargs["max_retries"], int):
                raise InvalidRequest(f"client_kwargs: max_retries={max_retries!r}: must be an integer")
            settings["retry"] = RetryPolicy(attempts=max_retries + 1)
        if api_base:
            check_url(api_base)
            if "?" in api_base:
                raise InvalidRequest(
                    "api_base: errors would show parameters in the URL; pass them as default_query={…}"
                )
        check_headers(default_headers or {})
        self.api_base = api_base
        self.api_key: Any = api_key if callable(api_key) else Secret.from_value(api_key, self.key_variable)
        self.organization = organization
        self.project = project
        self.client = client
        self.client_kwargs = client_kwargs
        self.default_headers = default_headers
        self.default_query = default_query
        super().__init__(model_id, **settings)

    def _make_transport(self) -> Transport:
        if self.client is not None or self.client_kwargs:
            from modelport.remote.openai.sdk import SDKTransport

            if self.client is not None:
                return SDKTransport(self.client)
            has_key_function = not isinstance(self.api_key, Secret)
            return SDKTransport(make_client=self._make_client, headers=self._credential if has_key_function else None)
        base_url = self.api_base or os.environ.get("OPENAI_BASE_URL")
        if isinstance(self.api_key, Secret):  # A missing key raises here, and not at the first call.
            self.api_key.reveal(_ANY_KEY_WILL_DO if base_url else "")
        return HTTPTransport(base_url or OPENAI_URL, self._headers, self.default_query)

    @property
    def _url(self) -> str:
        """The address of the service."""
        client_url = (self.client_kwargs or {}).get("base_url") or getattr(self.client, "base_url", None)
        return str(client_url or self.api_base or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)

    @property
    def _service(self) -> str | None:
        return self.dialect or service_at(self._url)

    @property
    def _provider(self) -> str | None:
        return provider_at(self._url)

    @property
    def _host(self) -> str | None:
        return host_of(self._url)

    def _make_client(self) -> Any:
        """Return a client of the `openai` package."""
        from modelport.remote.openai.sdk import openai_package

        key: str | None = "set for each call"  # A placeholder: each call sends the key that `api_key` returns.
        if isinstance(self.api_key, Secret):
            key = self.api_key.reveal() if self.api_key else None
        settings = {
            "api_key": key,
            "base_url": self.api_base,
            "organization": self.organization,
            "project": self.project,
            "default_headers": self.default_headers,
            "default_query": self.default_query,
        }
        return openai_package().AsyncOpenAI(**{**settings, **(self.client_kwargs or {}), "max_retries": 0})

    async def _key(self) -> str:
        if isinstance(self.api_key, Secret):
            return self.api_key.reveal()
        return await call_key_function(self.api_key, "api_key")

    async def _credential(self) -> dict[str, str]:
        """Return the header with the key."""
        return {"Authorization": f"Bearer {await self._key()}"}

    async def _headers(self) -> dict[str, str]:
        """Return the headers of a call: the key, and those that settings and environment variables add."""
        headers = await self._credential()
        for name, value in (
            ("OpenAI-Organization", self.organization or os.environ.get("OPENAI_ORG_ID")),
            ("OpenAI-Project", self.project or os.environ.get("OPENAI_PROJECT_ID")),
        ):
            if value:
                headers[name] = value
        for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip()] = value.strip()
        return {**headers, **(self.default_headers or {})}


async def call_key_function(function: Callable[[], Any], setting: str) -> str:
    """Call a function of the caller that returns a key, and return the key.

    Args:
        function: The function. It may be asynchronous. A synchronous function runs in a thread, because it may block.
        setting: The name of the setting that holds the function.

    Raises:
        AuthenticationError: The function raised an exception, which is the error's `__cause__`, or returned no key.
    """
    try:
        # The thread returns the key as a `HiddenStr`. If the call is cancelled just when the thread ends, the frames of
        # the error refer to the thread's future. A traceback with local variables then shows the future's result.
        key = (
            function()
            if inspect.iscoroutinefunction(function)
            else await in_thread(lambda: with_hidden_repr(function()))
        )
        key = with_hidden_repr(await key) if inspect.isawaitable(key) else key
    except Exception as error:
        raise AuthenticationError(f"{setting}: the function failed with {type(error).__name__}.") from error
    if not isinstance(key, str) or not key:
        raise AuthenticationError(f"{setting}: the function returned {type(key).__name__} instead of a key.")
    return key


#: A shorter name of the same class.
OpenAIModel = OpenAIServerModel
