"""The way to the wire through huggingface_hub, and back as parsed JSON."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any
from urllib.parse import urlencode, urljoin

from modelport.chat_errors import error_from
from modelport.errors import AuthenticationError, ConnectionFailed, InvalidRequest, MissingDependency, NotFoundError
from modelport.remote.pools import PerLoop
from modelport.remote.transport import CONNECT_TIMEOUT, DRAIN_TIMEOUT, Call
from modelport.remote.wire import (
    EventReader,
    Hidden,
    httpx_error,
    is_of_httpx,
    pairs,
    parsed,
    service_error,
    to_json,
)
from modelport.secrets import Secret
from modelport.threads import in_thread

#: Seconds for which a token that huggingface_hub has found is used without asking it again; it renews them far earlier.
FRESH = 60.0
#: How the name of a model begins that is a server's address.
URL = ("http://", "https://")


class HubTransport:
    """The wire through huggingface_hub: its routes, headers and sessions.

    It goes below `chat_completion`, which looks models up on the running loop, keeps every stream's connection until
    the client is closed, replaces broken UTF-8, and re-types each chunk.

    Args:
        client: A `huggingface_hub.AsyncInferenceClient`, without a token.
        token: Of the user; where there is none, huggingface_hub looks for one.
    """

    def __init__(self, client: Any, token: Secret) -> None:
        self._client, self._token = client, token
        self._at_url = client.model.startswith(URL)
        self._known: tuple[Hidden, float] | None = None  # the token, and until when
        self._sessions: PerLoop[Any] = PerLoop(lambda session: session.aclose())

    async def call(self, call: Call) -> Any:
        """See `Transport.call`."""
        with _faults():
            response, headers = await self._open(call)
            try:
                return parsed(await response.aread(), headers)
            finally:
                await response.aclose()

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        with _faults():
            response, headers = await self._open(call)
            try:
                if response.headers.get("content-type", "").startswith("application/json"):
                    yield parsed(await response.aread(), headers)  # the server does not stream
                    return
                reader = EventReader(headers)
                async with aclosing(response.aiter_bytes()) as chunks:
                    async for chunk in chunks:
                        reader.feed(chunk)
                        del chunk  # or a traceback with locals would show a key that the service quotes
                        for event in reader.events():
                            yield event
                        if reader.done:
                            await _drain(chunks)
                            return
            finally:
                await response.aclose()

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await self._sessions.aclose()

    async def _open(self, call: Call) -> tuple[Any, Mapping[str, str]]:
        """The response, not yet read, and the headers that were sent."""
        known = self._known
        if known is not None and time.monotonic() < known[1]:
            url, payload, headers = self._prepared(call, known[0])
        else:  # It may ask the Hub where the provider has the model, or renew the user's token; it keeps what it got.
            url, payload, headers = await in_thread(lambda: self._first_prepared(call))
        session = await self._sessions.get(hub_package().get_async_session)
        timeout = self._client.timeout
        if timeout is None:  # The caller's limits are kept by the retry layer.
            timeout = type(session.timeout)(None, connect=CONNECT_TIMEOUT)
        try:
            request = session.build_request(
                "POST", url, content=payload, headers=headers, cookies=self._client.cookies, timeout=timeout
            )
        except UnicodeError:
            raise InvalidRequest("a header's value must be of ASCII characters (is that the key?)") from None
        response = await session.send(request, stream=True, follow_redirects=False)
        if response.status_code >= 300:
            if response.status_code == 401:
                self._known = None
            try:
                raise service_error(response.status_code, response.headers, await response.aread(), headers)
            finally:
                await response.aclose()
        return response, headers

    def _first_prepared(self, call: Call) -> tuple[str, bytes, dict[str, str]]:
        token = Hidden((self._token.reveal() if self._token else hub_package().get_token()) or "")
        prepared = self._prepared(call, token)
        self._known = token, time.monotonic() + FRESH
        return prepared

    def _prepared(self, call: Call, token: Hidden) -> tuple[str, bytes, dict[str, str]]:
        """URL, body and headers, as huggingface_hub makes them for the provider."""
        client, body = self._client, dict(call.body)
        if client.provider in (None, "auto") and not self._at_url and token and not token.startswith("hf_"):
            raise AuthenticationError(
                "Hugging Face's router takes a token that begins with 'hf_'. With a provider's own key, name the "
                "provider: provider='novita'."
            )
        if not token and not self._at_url and client.provider != "hf-inference":
            raise AuthenticationError(
                "No token was given. Pass token=…, set the environment variable HF_TOKEN, or run: hf auth login"
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
        url, form, headers = made.url, made.json, {**made.headers, **{k.lower(): v for k, v in call.headers.items()}}
        headers = {name: Hidden(value) for name, value in headers.items()}
        del made  # or a traceback with locals would show its headers
        if self._at_url:
            # For a URL it writes a JSON schema in one kind of server's form, which others pass over in silence.
            form = {**form, **body}
        if call.path[0] == "/":
            url, form = urljoin(url, call.path), body
        if call.query:
            url += ("&" if "?" in url else "?") + urlencode([*pairs(call.query)])
        return url, to_json(form), headers


def hub_package() -> Any:
    """The `huggingface_hub` package.

    Raises:
        MissingDependency: It, or what the transport needs beside it, is not installed.
    """
    try:
        import huggingface_hub
        import orjson  # noqa: F401  # for the transport, which would name another extra
    except ImportError as error:
        raise MissingDependency(error.name or "huggingface_hub", "huggingface") from None
    return huggingface_hub


def provider_helper(client: Any) -> Any:
    """What knows a provider's address and its forms.

    Raises:
        ValueError: There is no such provider, or it has no chat.
    """
    from huggingface_hub.inference._providers import get_provider_helper

    return get_provider_helper(client.provider, task="conversational", model=client.model)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Reads on to the true end, or the connection could not be kept. The answer has come, so nothing here fails."""
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT):
            async for _ in chunks:
                pass
    except Exception as error:
        if not isinstance(error, TimeoutError) and not is_of_httpx(error):
            raise


@contextmanager
def _faults() -> Iterator[None]:
    """Errors of huggingface_hub and of its HTTP library become ours."""
    try:
        yield
    except Exception as error:
        if is_of_httpx(error):
            raise httpx_error(error) from None
        if type(error).__name__ == "OfflineModeIsEnabled":
            raise ConnectionFailed("HF_HUB_OFFLINE is set, so nothing is sent.", retryable=False) from None
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
