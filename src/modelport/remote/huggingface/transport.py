"""Sends requests whose URLs, headers and bodies the `huggingface_hub` package builds.

The package has a helper for each provider. It builds the URL, the headers and the body of a request, and modelport's
HTTP transport sends them. The package's own `chat_completion` is not used: it looks models up on the running event
loop, keeps the connection of every stream until the client is closed, replaces broken UTF-8, and parses each chunk into
its own classes.

The rules for tokens and lookups:

- A request without a fresh token is prepared in a thread. The package may ask the Hub how the provider calls the model,
  or renew the user's token. Both are blocking requests, and the package caches the results.
- For 60 seconds after that, the token is fresh: requests use it, and are prepared on the event loop. A response with
  status 401 ends this time early.
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

#: Seconds for which a token is used before huggingface_hub is asked again. The package renews tokens much earlier than
#: they expire.
TOKEN_LIFETIME = 60.0
#: A model name that starts with one of these is a server's URL.
URL_SCHEMES = ("http://", "https://")


class HubTransport(HTTPTransport):
    """Sends requests with aiohttp, as the `huggingface_hub` package makes them.

    Args:
        client: A `huggingface_hub.AsyncInferenceClient`, without a token.
        token: The token of the user. If there is none, huggingface_hub looks for one.
    """

    def __init__(self, client: Any, token: Secret) -> None:
        self._client, self._token = client, token
        self._is_url = client.model.startswith(URL_SCHEMES)
        #: The token, and the time on the monotonic clock until which it is used.
        self._known_token: tuple[HiddenStr, float] | None = None
        base_url = client.model if self._is_url else hub_package().constants.INFERENCE_PROXY_TEMPLATE
        super().__init__(base_url, self._no_headers, timeout=client.timeout)

    async def _no_headers(self) -> dict[str, str]:
        return {}

    async def _request(self, call: ServiceCall) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        if hub_package().constants.is_offline_mode():
            raise ConnectionFailed("HF_HUB_OFFLINE is set, so nothing is sent.", retryable=False)
        known = self._known_token
        if known is not None and time.monotonic() < known[1]:
            return self._prepare(call, known[0])
        with _httpx_errors():
            return await in_thread(lambda: self._prepare_with_new_token(call))

    async def _send(self, *args: Any) -> Any:
        try:
            return await super()._send(*args)
        except AuthenticationError as error:
            if error.status == 401:
                self._known_token = None
            raise

    def _prepare_with_new_token(self, call: ServiceCall) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        """Look up the token, and return URL, body and headers of a request. This may block, so it runs in a thread."""
        token = HiddenStr((self._token.reveal() if self._token else hub_package().get_token()) or "")
        if not token.isascii():
            raise InvalidRequest("a header's value must consist of ASCII characters (is that the key?)")
        prepared = self._prepare(call, token)
        self.base_url = prepared[0]  # Which proxy of the environment applies depends on this address.
        self._known_token = token, time.monotonic() + TOKEN_LIFETIME
        return prepared

    def _prepare(self, call: ServiceCall, token: HiddenStr) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        """Return URL, body and headers of a request, as huggingface_hub makes them for the provider."""
        client, body = self._client, dict(call.body)
        self._check_token(token)
        with _modelport_errors(client.model):
            prepared = provider_helper(client).prepare_request(
                inputs=body["messages"],
                parameters={name: value for name, value in body.items() if name != "messages"},
                headers=client.headers,
                model=client.model,
                api_key=token or None,
            )
        cookies = "; ".join(f"{name}={value}" for name, value in (client.cookies or {}).items())
        url, prepared_body = prepared.url, prepared.json
        headers = self._merge_headers({"Cookie": cookies} if cookies else {}, prepared.headers, call.headers)
        del prepared  # Otherwise a traceback with local variables would show its headers.
        if self._is_url:  # The module's docstring says why modelport's own fields override the package's.
            prepared_body = {**prepared_body, **call.body}
        if call.path[0] == "/":  # An absolute path is another endpoint of the server, and gets its own body unchanged.
            url, prepared_body = urljoin(url, call.path), call.body
        return url, prepared_body, headers

    def _check_token(self, token: HiddenStr) -> None:
        """Check that the provider can take this token.

        Raises:
            AuthenticationError: There is no token, or the token is not one of Hugging Face.
            InvalidRequest: The token cannot be used with `bill_to`.
        """
        client = self._client
        if self._is_url:
            return
        is_own_token = token.startswith("hf_")
        if client.provider in (None, "auto") and token and not is_own_token:
            raise AuthenticationError(
                "Hugging Face's router takes a token that begins with 'hf_'. With a provider's own key, name the "
                "provider: provider='novita'."
            )
        if not token and client.provider != "hf-inference":
            raise AuthenticationError(
                "No token was given. Pass token=…, set the environment variable HF_TOKEN, or run: hf auth login",
                hint="The command line takes tokens from the environment only: export HF_TOKEN=…",
            )
        if token and not is_own_token and "X-HF-Bill-To" in client.headers:
            raise InvalidRequest(
                "bill_to needs a token of Hugging Face; with its own key, the provider sends the bill."
            )


@functools.cache
def hub_package() -> Any:
    """Return the `huggingface_hub` package.

    Raises:
        MissingDependency: The package, or a package that the transport needs, is not installed.
    """
    require("huggingface", "huggingface_hub", "aiohttp", "orjson")  # The transport would name another extra.
    import huggingface_hub

    return huggingface_hub


def provider_helper(client: Any) -> Any:
    """Return the object of huggingface_hub that makes the requests for a provider.

    Args:
        client: A `huggingface_hub.AsyncInferenceClient`.

    Raises:
        ValueError: There is no such provider, or the provider has no chat completions.
    """
    from huggingface_hub.inference._providers import get_provider_helper

    return get_provider_helper(client.provider, task="conversational", model=client.model)


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """Turn exceptions of the HTTP library that sends requests to the Hub into modelport's errors."""
    try:
        yield
    except Exception as error:
        if is_httpx_exception(error):
            raise error_from_httpx(error) from None
        raise


@contextmanager
def _modelport_errors(model: str) -> Iterator[None]:
    """Turn errors from looking up how the provider calls the model into modelport's errors."""
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
    except ValueError as error:
        raise NotFoundError(str(error)) from None
