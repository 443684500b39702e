"""Sends requests whose URLs, headers and bodies the `huggingface_hub` package builds.

The package has a helper object for each provider. The helper builds the URL, the headers and the body of a request, and
modelport's HTTP transport sends them. The package's own `chat_completion` is not used: it blocks the running event loop
while it looks a model up, keeps the connection of every stream until the client is closed, replaces invalid UTF-8, and
parses each chunk into its own classes.

The rules for these requests:

- While a request is built, the package may send blocking requests of its own: to renew the user's token, and to ask the
  Hub for the name by which the provider knows the model. The package caches the results. So the first request is built
  in a thread.
- For 60 seconds after that, requests use the same token, and are built on the event loop. After these 60 seconds, or
  after a response with status 401, the next request is built in a thread, like the first.
- For a server at a URL, the package writes a JSON schema in the format of one kind of server. Other kinds of servers
  ignore that schema without an error. So modelport's own fields override those of the package in such a request.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

from modelport.errors import AuthenticationError, ConnectionFailed, InvalidRequest, NotFoundError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.errors import error_from_httpx, is_httpx_exception
from modelport.remote.http.packages import require
from modelport.remote.http.redaction import HiddenStr
from modelport.remote.http.transport import HTTPTransport, ServiceCall
from modelport.runtime.threads import in_thread
from modelport.secrets import Secret

#: Seconds for which a token is used before huggingface_hub is asked for it again. The package renews tokens long before
#: they expire, so no token expires within this time.
TOKEN_LIFETIME = 60.0
#: A model name that starts with one of these is a server's URL.
URL_SCHEMES = ("http://", "https://")


class HubTransport(HTTPTransport):
    """Sends requests with aiohttp that the `huggingface_hub` package has built.

    Args:
        client: A `huggingface_hub.AsyncInferenceClient`, without a token.
        token: The token of the user. If it is empty, `huggingface_hub.get_token` is called instead.
    """

    def __init__(self, client: Any, token: Secret) -> None:
        self._client, self._token = client, token
        #: Whether requests go to a server at a URL, and not to a provider.
        self._sends_to_url = client.model.startswith(URL_SCHEMES)
        #: The token, and the time on the monotonic clock until which it is used. `None` if it must be looked up.
        self._known_token: tuple[HiddenStr, float] | None = None
        base_url = client.model if self._sends_to_url else hub_package().constants.INFERENCE_PROXY_TEMPLATE
        super().__init__(base_url, self._no_headers, timeout=client.timeout)

    async def _no_headers(self) -> dict[str, str]:
        """Return no headers: `_prepare` adds those that the package builds."""
        return {}

    async def _request(self, call: ServiceCall) -> tuple[str, Mapping[str, Any] | None, dict[str, str]]:
        if hub_package().constants.is_offline_mode():
            raise ConnectionFailed("HF_HUB_OFFLINE is set, so nothing is sent.", retryable=False)
        known = self._known_token
        if known is not None and time.monotonic() < known[1]:
            return self._prepare(call, known[0])
        with _translate_httpx_errors():
            return await in_thread(lambda: self._prepare_with_new_token(call))

    async def _send(self, *args: Any) -> Any:
        try:
            return await super()._send(*args)
        except AuthenticationError as error:
            if error.status == 401:
                self._known_token = None
            raise

    def _prepare_with_new_token(self, call: ServiceCall) -> tuple[str, Mapping[str, Any] | None, dict[str, str]]:
        """Look up the token, and return URL, body and headers of a request. This may block, so it runs in a thread."""
        token = HiddenStr((self._token.reveal() if self._token else hub_package().get_token()) or "")
        if not token.isascii():
            raise InvalidRequest("token: must consist of ASCII characters; is this the complete token?")
        prepared = self._prepare(call, token)
        self.base_url = prepared[0]  # `open_session` chooses the proxy by this address.
        self._known_token = token, time.monotonic() + TOKEN_LIFETIME
        return prepared

    def _prepare(self, call: ServiceCall, token: HiddenStr) -> tuple[str, Mapping[str, Any] | None, dict[str, str]]:
        """Return URL, body and headers of a request, as huggingface_hub builds them for the provider."""
        client, body = self._client, dict(call.body)
        self._check_token(token)
        with _translate_hub_errors(client.model):
            prepared = provider_helper(client).prepare_request(
                inputs=body.get("messages", []),
                parameters={name: value for name, value in body.items() if name != "messages"},
                headers=client.headers,
                model=client.model,
                api_key=token or None,
            )
        cookies = "; ".join(f"{name}={value}" for name, value in (client.cookies or {}).items())
        url, prepared_body = prepared.url, prepared.json
        headers = self._merge_headers({"Cookie": cookies} if cookies else {}, prepared.headers, call.headers)
        del prepared  # Otherwise a traceback with local variables would show its headers.
        if self._sends_to_url:  # The server may ignore a JSON schema in the format that the package writes.
            prepared_body = {**prepared_body, **call.body}
        if call.path[0] == "/":  # Another endpoint of the server, for which the package has no format.
            url, prepared_body = urljoin(url, call.path), call.payload
        return url, prepared_body, headers

    def _check_token(self, token: HiddenStr) -> None:
        """Check that the provider accepts this kind of token.

        Raises:
            AuthenticationError: There is no token, or the request would send another provider's key to Hugging Face.
            InvalidRequest: The token cannot be used with `bill_to`.
        """
        client = self._client
        if self._sends_to_url:
            return
        is_hub_token = token.startswith("hf_")
        if client.provider in (None, "auto") and token and not is_hub_token:
            raise AuthenticationError(
                "Hugging Face's router takes a token that begins with 'hf_'. With a provider's own key, name the "
                "provider: provider='novita'."
            )
        if not token and client.provider != "hf-inference":
            raise AuthenticationError(
                "No token was given. Pass token=…, set the environment variable HF_TOKEN, or run: hf auth login",
                hint="The command line takes tokens from the environment only: export HF_TOKEN=…",
            )
        if token and not is_hub_token and "X-HF-Bill-To" in client.headers:
            raise InvalidRequest(
                "bill_to needs a token of Hugging Face; with its own key, the provider sends the bill."
            )


@functools.cache
def hub_package() -> Any:
    """Return the `huggingface_hub` package.

    Raises:
        MissingDependency: The package, or a package that the transport needs, is not installed.
    """
    # If aiohttp or orjson is missing, `HTTPTransport` would name the extra `openai`. So they are checked here.
    require("huggingface", "huggingface_hub", "aiohttp", "orjson")
    import huggingface_hub

    return huggingface_hub


def provider_helper(client: Any) -> Any:
    """Return the object of huggingface_hub that builds the requests for a client's provider.

    Args:
        client: A `huggingface_hub.AsyncInferenceClient`.

    Raises:
        ValueError: There is no such provider, or the provider does not offer chat completions.
    """
    from huggingface_hub.inference._providers import get_provider_helper

    return get_provider_helper(client.provider, task="conversational", model=client.model)


@contextmanager
def _translate_httpx_errors() -> Iterator[None]:
    """Turn exceptions of httpx, which huggingface_hub uses for its own requests, into modelport's errors."""
    try:
        yield
    except Exception as error:
        if is_httpx_exception(error):
            raise error_from_httpx(error) from None
        raise


@contextmanager
def _translate_hub_errors(model: str) -> Iterator[None]:
    """Turn errors of huggingface_hub's own requests, which look the model up on the Hub, into modelport's errors."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            raise AuthenticationError(f"{model} is gated: request access on the Hub.", status=status) from None
        if isinstance(error, RepositoryNotFoundError):
            raise NotFoundError(f"The Hub has no model {model!r} that your token may see.", status=status) from None
        raise error_from(status, error.server_message, dict(error.response.headers)) from None
    except ValueError as error:  # The provider does not offer the model.
        raise NotFoundError(str(error)) from None
