"""A model on OpenAI, or on any OpenAI-compatible server: by chat completions, or by the Responses API.

Requests go through modelport's own HTTP transport. If the caller passes `client` or `client_kwargs`, requests go
through the `openai` package (`sdk`) instead. In both cases the same environment variables apply.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar

from modelport.errors import AuthenticationError, InvalidRequest, ModelError
from modelport.inputs.settings import check_kind
from modelport.inputs.vendor_parameters import parameters_of
from modelport.layers.retry import RetryPolicy
from modelport.protocols.error_phrases import means_missing_path, needs_responses
from modelport.protocols.responses.request import parameter_name
from modelport.providers import PROVIDERS
from modelport.remote.chat_model import ChatCompletionsModel
from modelport.remote.http.packages import require
from modelport.remote.http.redaction import with_hidden_repr
from modelport.remote.http.requests import check_base_url, check_headers
from modelport.remote.http.transport import HTTPTransport, ServiceCall, Transport
from modelport.remote.openai import responses
from modelport.remote.openai.api_choice import (
    API_SETTINGS,
    NEED_TEXTS,
    OWN_SERVICES,
    ApiSetting,
    Need,
    need_by_refusal,
    need_of,
    needs_responses_api,
    responses_capabilities,
)
from modelport.remote.response_reader import ResponseReader
from modelport.remote.services import provider_at, service_at
from modelport.runtime.threads import in_thread
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

OPENAI_URL = "https://api.openai.com/v1"
#: Added to the error about a missing key if requests do not go to OpenAI's own address.
_ANY_KEY_WILL_DO = " If your server needs no key, pass any text, such as 'none'."

#: The environment variables with the keys of other services.
_KEY_VARIABLES = frozenset(provider.key_variable for provider in PROVIDERS.values())


class OpenAIServerModel(ChatCompletionsModel):
    """A model on any server with OpenAI's chat completions, or with OpenAI's Responses API.

    By default aiohttp sends the requests. With `client` or `client_kwargs`, the `openai` package sends them. In both
    cases keys, the environment variables `OPENAI_*`, proxies and TLS settings work as in the `openai` package, except
    that aiohttp can't use SOCKS proxies.

    Args:
        model_id: The server's name for the model, such as `gpt-4o`.
        api_base: The base URL; by default the environment variable `OPENAI_BASE_URL`, else OpenAI's own address.
        api_key: The key, or a function (also async) that returns the key; by default `OPENAI_API_KEY`.
        organization: The ID of the organization; by default `OPENAI_ORG_ID`.
        project: The ID of the project; by default `OPENAI_PROJECT_ID`.
        api: `chat` for chat completions, `responses` for the Responses API. `auto` uses chat completions, except for
            requests that need the Responses API: by the model's name, on OpenAI's and Azure's own addresses only; after
            an error that names the Responses API; for conversations that have items of it; and, on OpenAI and Azure,
            for parameters that only this API has, such as `previous_response_id` or `truncation`.
        client: An `openai.OpenAI` or `openai.AsyncOpenAI` that sends the requests.
        client_kwargs: Settings of an `openai.AsyncOpenAI` that modelport makes, as
            `{"timeout": 20, "http_client": …}`. The package's own retries are switched off. If `max_retries` is among
            the settings, modelport retries as often instead, unless `retry` is passed.
        default_headers: Headers of every request, in addition to those in `OPENAI_CUSTOM_HEADERS`.
        default_query: Query parameters of every request.
        dialect: The kind of the server: `llama.cpp` or `vllm`. Requests then use what such servers accept beyond
            OpenAI's API, such as any grammar. With `openai`, they use OpenAI's API alone. By default, a server at an
            unknown address is asked once which of the two it is, by the first call with tools or an output type.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none). By default such a stream counts as truncated.
        split_reasoning: Whether text between `<think>` and `</think>` at the beginning of the output is reasoning,
            which some servers do not separate from it. By default it is. With `opened`, the output begins inside the
            reasoning, because the model's chat template writes `<think>` into the prompt; `</think>` ends it.
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
    #: Which requests the service refused as chat completions, naming the Responses API.
    _observed_needs: frozenset[Need] = frozenset()
    #: Whether the service has no Responses API, as a response to a request has shown.
    _has_no_responses = False
    #: The environment variable from which the key is read if no `api_key` is passed.
    key_variable: ClassVar[str] = "OPENAI_API_KEY"

    def __init__(
        self,
        model_id: str | None = None,
        api_base: str | None = None,
        api_key: Secret | str | Callable[[], str | Awaitable[str]] | None = None,
        organization: str | None = None,
        project: str | None = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        flatten_messages_as_text: bool = False,
        *,
        client: Any = None,
        api: ApiSetting = "auto",
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
            check_base_url(api_base)
            if "?" in api_base:
                raise InvalidRequest(
                    "api_base: errors would show parameters in the URL; pass them as default_query={…}"
                )
        check_headers(default_headers or {})
        if api not in API_SETTINGS:
            raise InvalidRequest(f"api={api!r} is unknown; it must be one of {', '.join(API_SETTINGS)}")
        self.api = api
        self.api_base = api_base
        self.api_key: Any = api_key if callable(api_key) else Secret.from_value(api_key, self.key_variable)
        self.organization = organization
        self.project = project
        self.client = client
        self.client_kwargs = client_kwargs
        self.default_headers = default_headers
        self.default_query = default_query
        super().__init__(
            model_id,
            custom_role_conversions=custom_role_conversions,
            flatten_messages_as_text=flatten_messages_as_text,
            **settings,
        )

    def _make_transport(self) -> Transport:
        if self.client is not None or self.client_kwargs:
            from modelport.remote.openai.sdk import SDKTransport

            if self.client is not None:
                return SDKTransport(self.client)
            has_key_function = not isinstance(self.api_key, Secret)
            return SDKTransport(make_client=self._make_client, headers=self._credential if has_key_function else None)
        base_url = self.api_base or os.environ.get("OPENAI_BASE_URL")
        if isinstance(self.api_key, Secret):  # A missing key raises here, and not at the first call.
            self.api_key.reveal(_ANY_KEY_WILL_DO if base_url and service_at(base_url) is None else "")
        return HTTPTransport(base_url or OPENAI_URL, self._headers, self.default_query)

    @property
    def _url(self) -> str:
        """The address of the service."""
        client_url = (self.client_kwargs or {}).get("base_url") or getattr(self.client, "base_url", None)
        return str(client_url or self.api_base or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)

    @property
    def _service(self) -> str | None:
        return self._dialect_name or service_at(self._url)

    @property
    def _provider(self) -> str | None:
        return provider_at(self._url)

    def _declare(self) -> Capabilities:
        declared, service = super()._declare(), self._service
        if self.api == "responses" or (self.api == "auto" and need_of(self.model_id, service) == "always"):
            return responses_capabilities(declared, self._dialect_name)
        if self.api == "auto" and service in OWN_SERVICES:
            extra = (declared.extra_parameters or frozenset()) | parameters_of("openai-responses")
            return declared.replace(extra_parameters=extra)
        return declared

    # --- chat completions or Responses --------------------------------------------------------------------------------

    def _uses_responses(self, request: Request) -> bool:
        """Return whether a request goes to the Responses API."""
        if self.api == "chat" or self._has_no_responses:
            return False
        if self.api == "responses":
            return True
        needs = (*self._observed_needs, need_of(self.model_id, self._service))
        return needs_responses_api(request, needs, self._service)

    @property
    def _responses_path(self) -> str:
        return "responses"

    def _exchange(
        self, request: Request, left_out: frozenset[str]
    ) -> tuple[ServiceCall, ResponseReader, Sequence[CallWarning]]:
        if not self._uses_responses(request):
            return super()._exchange(request, left_out)
        service, dialect = self._provider, None if self._dialect_name is None else self._dialect

        def body(request: Request) -> dict[str, Any]:
            rule = self._call_id_rule
            return responses.body_of(request, self._remote_model_id, service, dialect, left_out, rule)

        call = self._service_call(self._responses_path, request, left_out, body)
        return call, responses.reader_for(call.body, service), responses.warnings_for(request)

    def accepts_provider_data(self, data: ProviderData) -> bool:
        """Return whether the service returned this data; see `Model.accepts_provider_data`."""
        if data.protocol != "responses":
            return super().accepts_provider_data(data)
        return self.api != "chat" and not self._has_no_responses and data.fits("responses", self._provider)

    def _parameter_name(self, field: str | None, call: ServiceCall) -> str | None:
        return parameter_name(field) if call.path == self._responses_path else field

    def _observe_rejection(self, error: ModelError, request: Request, left_out: frozenset[str]) -> bool:
        name = error.parameter
        if self._observe_need(error, request):
            return True
        # modelport adds these two fields to requests of the Responses API by itself.
        if name in ("store", "include") and name not in request.parameters and name not in left_out:
            self._rejected_parameters |= {name}
            return True
        return super()._observe_rejection(error, request, left_out)

    def _observe_missing_path(self, error: ModelError, request: Request, call: ServiceCall) -> bool:
        if self._observe_need(error, request):
            return True
        if self.api != "auto" or call.path != self._responses_path or error.status not in (404, 405):
            return False
        if not means_missing_path(error.message):
            return False
        if not self._has_no_responses:
            self._has_no_responses = True
            warnings.warn(f"{self.model_id}: the service has no Responses API; later requests use chat completions",
                          stacklevel=2)  # fmt: skip
        return True

    def _observe_need(self, error: ModelError, request: Request) -> bool:
        """Record that the service refused a chat completion and named the Responses API, and return whether it did."""
        if self.api != "auto" or self._has_no_responses:
            return False
        if not needs_responses(error.message):
            return False
        need = need_by_refusal(request, error.message)
        if need not in self._observed_needs:
            self._observed_needs |= {need}
            warnings.warn(f"{self.model_id} needs the Responses API for {NEED_TEXTS[need]}; later requests go there",
                          stacklevel=2)  # fmt: skip
        return True

    def _not_found_advice(self, error: ModelError) -> str:
        if not means_missing_path(error.message):
            return ""
        if self.api == "responses":
            return "If the server does not have the Responses API, pass api='chat' or api='auto'."
        return "If the server has only the Responses API, pass api='responses'." if self._service is None else ""

    def _key_origin(self) -> str:
        is_own = (
            isinstance(self.api_key, Secret) and self.client is None and "api_key" not in (self.client_kwargs or {})
        )
        return self.api_key.origin if is_own else ""

    def _make_client(self) -> Any:
        """Return a client of the `openai` package."""
        from modelport.remote.openai.sdk import openai_package

        package = openai_package()
        key: str | None = "set for each call"  # A placeholder: each call sends the key that `api_key` returns.
        if isinstance(self.api_key, Secret):
            # Without a key, the package reads OPENAI_API_KEY, which must not reach a service with another variable.
            is_openai_key = self.api_key.env in (None, self.key_variable)
            key = None if is_openai_key and not self.api_key else self.api_key.reveal()
        default_headers: Mapping[str, Any] | None = self.default_headers
        if self._is_another_service:  # `Omit` removes the headers that the package adds by environment variables.
            added = self._added_headers(os.environ).keys() - self._added_headers({}).keys()
            default_headers = {**dict.fromkeys(added, package.Omit()), **(default_headers or {})}
        settings = {
            "api_key": key,
            "base_url": self.api_base,
            "organization": self.organization,
            "project": self.project,
            "default_headers": default_headers,
            "default_query": self.default_query,
        }
        return package.AsyncOpenAI(**{**settings, **(self.client_kwargs or {}), "max_retries": 0})

    async def _key(self) -> str:
        if isinstance(self.api_key, Secret):
            return self.api_key.reveal()
        return await call_key_function(self.api_key, "api_key")

    async def _credential(self) -> dict[str, str]:
        """Return the header with the key."""
        return {"Authorization": f"Bearer {await self._key()}"}

    async def _headers(self) -> dict[str, str]:
        """Return the headers of a call: the key, and those that settings and environment variables add."""
        return {**await self._credential(), **self._added_headers({} if self._is_another_service else os.environ)}

    @property
    def _is_another_service(self) -> bool:
        """Whether requests go to a service that is not OpenAI's, for which no `OPENAI_*` variable is meant.

        It is known by its address, or at another address by the variable of its key.
        """
        if isinstance(self.api_key, Secret) and self.api_key.env in _KEY_VARIABLES:
            return True
        address = (self.client_kwargs or {}).get("base_url") or self.api_base
        return bool(address) and service_at(str(address)) not in (None, "openai", "azure")

    def _added_headers(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that settings and environment variables add."""
        headers = {}
        for name, value in (
            ("OpenAI-Organization", self.organization or environment.get("OPENAI_ORG_ID")),
            ("OpenAI-Project", self.project or environment.get("OPENAI_PROJECT_ID")),
        ):
            if value:
                headers[name] = value
        for line in environment.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
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
