"""The way to the wire by huggingface_hub's addresses, headers and forms."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

from modelport.errors import AuthenticationError, ConnectionFailed, InvalidRequest, NotFoundError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.errors import httpx_error, is_of_httpx
from modelport.remote.http.redaction import Hidden
from modelport.remote.http.transport import HTTPTransport, ServiceCall, require
from modelport.runtime.threads import in_thread
from modelport.secrets import Secret

#: Seconds for which a token that huggingface_hub has found is used without asking it again; it renews them far earlier.
FRESH = 60.0
#: How the name of a model begins that is a server's address.
URL = ("http://", "https://")


class HubTransport(HTTPTransport):
    """The wire through aiohttp, with the addresses, headers and forms that huggingface_hub makes.

    The package's own `chat_completion` looks models up on the running loop, keeps every stream's connection until the
    client is closed, replaces broken UTF-8, and re-types each chunk.

    Args:
        client: A `huggingface_hub.AsyncInferenceClient`, without a token.
        token: Of the user; where there is none, huggingface_hub looks for one.
    """

    def __init__(self, client: Any, token: Secret) -> None:
        self._client, self._token = client, token
        self._at_url = client.model.startswith(URL)
        self._found: tuple[Hidden, float] | None = None  # the token, and until when
        base = client.model if self._at_url else hub_package().constants.INFERENCE_PROXY_TEMPLATE
        super().__init__(base, self._no_headers, timeout=client.timeout)

    async def _no_headers(self) -> dict[str, str]:
        return {}

    async def _request(self, call: ServiceCall) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        if hub_package().constants.is_offline_mode():
            raise ConnectionFailed("HF_HUB_OFFLINE is set, so nothing is sent.", retryable=False)
        found = self._found
        if found is not None and time.monotonic() < found[1]:
            return self._prepared(call, found[0])
        # It may ask the Hub where the provider has the model, or renew the user's token; it keeps what it got.
        with _faults():
            return await in_thread(lambda: self._first_prepared(call))

    async def _open(self, *what: Any) -> Any:
        try:
            return await super()._open(*what)
        except AuthenticationError as error:
            if error.status == 401:
                self._found = None
            raise

    def _first_prepared(self, call: ServiceCall) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        token = Hidden((self._token.reveal() if self._token else hub_package().get_token()) or "")
        if not token.isascii():
            raise InvalidRequest("a header's value must be of ASCII characters (is that the key?)")
        prepared = self._prepared(call, token)
        self.base_url = prepared[0]  # whose proxy it is that the environment names
        self._found = token, time.monotonic() + FRESH
        return prepared

    def _prepared(self, call: ServiceCall, token: Hidden) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        """URL, body and headers, as huggingface_hub makes them for the provider."""
        client, body = self._client, dict(call.body)
        if client.provider in (None, "auto") and not self._at_url and token and not token.startswith("hf_"):
            raise AuthenticationError(
                "Hugging Face's router takes a token that begins with 'hf_'. With a provider's own key, name the "
                "provider: provider='novita'."
            )
        if not token and not self._at_url and client.provider != "hf-inference":
            raise AuthenticationError(
                "No token was given. Pass token=…, set the environment variable HF_TOKEN, or run: hf auth login",
                hint="The command line takes tokens from the environment only: export HF_TOKEN=…",
            )
        if token and not token.startswith("hf_") and not self._at_url and "X-HF-Bill-To" in client.headers:
            raise InvalidRequest("bill_to goes with a token of Hugging Face; this key's bills are the provider's own.")
        with _mapping_faults(client.model):
            made = provider_helper(client).prepare_request(
                inputs=body["messages"],
                parameters={name: value for name, value in body.items() if name != "messages"},
                headers=client.headers,
                model=client.model,
                api_key=token or None,
            )
        cookies = "; ".join(f"{name}={value}" for name, value in (client.cookies or {}).items())
        url, form = made.url, made.json
        headers = self._joined({"Cookie": cookies} if cookies else {}, made.headers, call.headers)
        del made  # or a traceback with locals would show its headers
        if self._at_url:
            # For a URL it writes a JSON schema in one kind of server's form, which others pass over in silence.
            form = {**form, **call.body}
        if call.path[0] == "/":
            url, form = urljoin(url, call.path), call.body
        return url, form, headers


@functools.cache
def hub_package() -> Any:
    """The `huggingface_hub` package.

    Raises:
        MissingDependency: It, or what the transport needs beside it, is not installed.
    """
    require("huggingface", "huggingface_hub", "aiohttp", "orjson")  # the transport would name another extra
    import huggingface_hub

    return huggingface_hub


def provider_helper(client: Any) -> Any:
    """What knows a provider's address and its forms.

    Raises:
        ValueError: There is no such provider, or it has no chat.
    """
    from huggingface_hub.inference._providers import get_provider_helper

    return get_provider_helper(client.provider, task="conversational", model=client.model)


@contextmanager
def _faults() -> Iterator[None]:
    """Errors of huggingface_hub's own HTTP library, by which it asks the Hub, become ours."""
    try:
        yield
    except Exception as error:
        if is_of_httpx(error):
            raise httpx_error(error) from None
        raise


@contextmanager
def _mapping_faults(model: str) -> Iterator[None]:
    """What can go wrong when the Hub is asked where a provider has the model."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, GatedRepoError):
            raise AuthenticationError(f"{model} is gated: ask for access on the Hub.", status=status) from None
        if isinstance(error, RepositoryNotFoundError):
            raise NotFoundError(f"The Hub has no model {model!r} that your token may see.", status=status) from None
        raise error_from(status, error.server_message, dict(error.response.headers)) from None
    except ValueError as error:
        raise NotFoundError(str(error)) from None
