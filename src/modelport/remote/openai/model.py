"""Every OpenAI-compatible server."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from modelport.errors import AuthenticationError, InvalidRequest
from modelport.inputs.settings import check_kind
from modelport.layers.retry import RetryPolicy
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.outgoing import check_headers, checked_url
from modelport.remote.http.redaction import hidden
from modelport.remote.http.transport import HTTPTransport, Transport, require
from modelport.runtime.threads import in_thread
from modelport.secrets import Secret

_NO_KEY_WANTED = " A server of your own that wants none takes any text, such as 'none'."


class OpenAIServerModel(ChatCompletionsModel):
    """A model behind any server that speaks OpenAI's chat completions.

    By default requests go to the wire through a fast HTTP library. With `client` or `client_kwargs` they go through the
    `openai` package. Either way keys, `OPENAI_*` variables, proxies and TLS settings work as that package's users know.

    Args:
        model_id: The server's name for the model, such as `gpt-4o`.
        api_base: The base URL; by default `OPENAI_BASE_URL`, else OpenAI's own.
        api_key: The key, or a function (also async) that gives one; by default `OPENAI_API_KEY`.
        organization: By default `OPENAI_ORG_ID`.
        project: By default `OPENAI_PROJECT_ID`.
        client: An `openai.OpenAI` or `openai.AsyncOpenAI` of your own.
        client_kwargs: For an `openai.AsyncOpenAI` made here, as `{"timeout": 20, "http_client": …}`. Its `max_retries`
            becomes this model's `retry`, since the SDK's own retries are switched off.
        default_headers: Sent with every request; `OPENAI_CUSTOM_HEADERS` are too.
        default_query: Put on every URL.
        dialect: `llama.cpp` or `vllm`, for what those servers take beyond OpenAI's API (any grammar, more
            stop sequences); by default OpenAI's API alone.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none); by default it counts as cut short.
        **settings: See `Model`; everything that it does not know goes into the request's body. `extra_headers`,
            `extra_query` and `extra_body` work as in the SDK.

    Raises:
        MissingDependency: A package is missing; the message holds the command.
        AuthenticationError: There is no key.
        InvalidRequest: A setting is wrong.

    Example:
        >>> model = OpenAIServerModel("gpt-4o", api_key=os.environ["OPENAI_API_KEY"])
    """

    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})
    #: The environment variable that holds the key.
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
            raise InvalidRequest("client and client_kwargs: give one; the settings of a client are its own")
        check_kind(Mapping, client_kwargs=client_kwargs, default_headers=default_headers, default_query=default_query)
        check_kind(str, organization=organization, project=project)
        if client_kwargs and "max_retries" in client_kwargs and "retry" not in settings:
            if not isinstance(again := client_kwargs["max_retries"], int):
                raise InvalidRequest(f"client_kwargs: max_retries={again!r}: must be a whole number")
            settings["retry"] = RetryPolicy(attempts=again + 1)
        if api_base:
            checked_url(api_base)
            if "?" in api_base:
                raise InvalidRequest("api_base: parameters in the URL would be shown; give them as default_query={…}")
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
            by_function = not isinstance(self.api_key, Secret)
            return SDKTransport(None, self._make_client, self._credential if by_function else None)
        own = self.api_base or os.environ.get("OPENAI_BASE_URL")
        if isinstance(self.api_key, Secret):  # A missing key is found here, not at the first call.
            self.api_key.reveal(_NO_KEY_WANTED if own else "")
        return HTTPTransport(own or "https://api.openai.com/v1", self._headers, self.default_query)

    def _make_client(self) -> Any:
        from modelport.remote.openai.sdk import openai_package

        key: str | None = "of each call"
        if isinstance(self.api_key, Secret):
            key = self.api_key.reveal() if self.api_key else None
        own = {
            "api_key": key,
            "base_url": self.api_base,
            "organization": self.organization,
            "project": self.project,
            "default_headers": self.default_headers,
            "default_query": self.default_query,
        }
        return openai_package().AsyncOpenAI(**{**own, **(self.client_kwargs or {}), "max_retries": 0})

    async def _key(self) -> str:
        if isinstance(self.api_key, Secret):
            return self.api_key.reveal()
        return await key_from(self.api_key, "api_key")

    async def _credential(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {await self._key()}"}

    async def _headers(self) -> dict[str, str]:
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


async def key_from(function: Callable[[], Any], name: str) -> str:
    """The key that a function of the user's gives now.

    Args:
        function: A blocking one is run in a thread.
        name: The setting's.

    Raises:
        AuthenticationError: It fails, which is the cause, or gives none.
    """
    try:
        # A future that was cancelled as it got its result stays in the frames of the error, and so would the key.
        key = function() if inspect.iscoroutinefunction(function) else await in_thread(lambda: hidden(function()))
        key = hidden(await key) if inspect.isawaitable(key) else key
    except Exception as error:
        raise AuthenticationError(f"{name}: the function failed with {type(error).__name__}.") from error
    if not isinstance(key, str) or not key:
        raise AuthenticationError(f"{name}: the function gave {type(key).__name__}, and no key as a string.")
    return key


#: The short name.
OpenAIModel = OpenAIServerModel
