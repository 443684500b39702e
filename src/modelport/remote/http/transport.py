"""The way to the wire, and back as parsed JSON: three methods, so that a translator need not know the HTTP library."""

from __future__ import annotations

import functools
import io
import os
import ssl
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin

from modelport import __version__
from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, MissingDependency, ModelError
from modelport.remote.http.environment import environment_proxy, environment_tls
from modelport.remote.http.errors import ADDRESS_HINT, CHECK_THE_WAY, service_error
from modelport.remote.http.outgoing import check_headers, checked_url, pairs, to_json
from modelport.remote.http.redaction import hidden, secrets_in
from modelport.remote.http.responses import ANSWER_SIZE, EventReader, parsed
from modelport.runtime.per_loop import PerLoop

if TYPE_CHECKING:
    import aiohttp

#: Seconds to connect, as in OpenAI's SDK. Reading is watched by the retry layer, which knows the caller's limits.
CONNECT_TIMEOUT = 5.0
#: Seconds to wait for the end of a response whose answer has already come.
DRAIN_TIMEOUT = 0.5
#: How much of an error's body is read, and for how many seconds: what it means is told by its status.
ERROR_SIZE, ERROR_TIMEOUT = 2**16, 2.0

_STANDING_HEADERS = {
    "Accept": "application/json", "Content-Type": "application/json", "User-Agent": f"modelport/{__version__}",
}  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class ServiceCall:
    """One request on the wire.

    Args:
        path: Below the base URL; with a leading slash, below the server's root.
        body: JSON.
        headers: Of this call; they go before the transport's own.
        query: Of this call.
    """

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)


class Transport(Protocol):
    """Sends JSON and yields parsed JSON; its errors are ours."""

    async def call(self, call: ServiceCall) -> Any:
        """The parsed body of one ordinary answer."""
        ...

    def stream(self, call: ServiceCall) -> AsyncGenerator[Any, None]:
        """The parsed events of a streamed answer, read to the true end of the response."""
        ...

    async def aclose(self) -> None:
        """Closes the connections of the running loop."""
        ...


def require(extra: str, *packages: str) -> None:
    """Looks whether packages are installed, without an import: a constructor says so before it asks for a key.

    Args:
        extra: Of this package, which brings them.
        *packages: Their top-level modules.

    Raises:
        MissingDependency: One is not.
    """
    for name in packages:
        if find_spec(name) is None:
            raise MissingDependency(name, extra)


HeaderSource = Callable[[], Awaitable[Mapping[str, str]]]


class HTTPTransport:
    """The wire through aiohttp.

    Args:
        base_url: Such as `https://api.openai.com/v1`.
        headers: Gives the headers of each call, keys included, at the last moment.
        query: Parameters for every URL.
        verify: Whether to check certificates, or the context to check them with.
        timeout: Seconds to connect, and between two reads; by default no limit but that of connecting.
    """

    def __init__(
        self,
        base_url: str,
        headers: HeaderSource,
        query: Mapping[str, Any] | None = None,
        verify: ssl.SSLContext | bool = True,
        timeout: float | None = None,
    ) -> None:
        self.base_url = checked_url(base_url).rstrip("/")
        self._headers, self._verify, self._timeout = headers, verify, timeout
        self._query = {name: hidden(value) for name, value in (query or {}).items()}
        self._known: tuple[Any, dict[str, str], tuple[str, ...]] = None, {}, ()
        self._sessions: PerLoop[aiohttp.ClientSession] = PerLoop(lambda session: session.close())

    def _open_session(self) -> aiohttp.ClientSession:
        aiohttp = _aiohttp()
        verify = self._verify
        if verify is True and self.base_url.startswith("https"):
            verify = environment_tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        return aiohttp.ClientSession(  # type: ignore[no-any-return]
            response_class=_response_class(),
            # As many connections as OpenAI's SDK allows; how many are used is for max_concurrency to say.
            connector=_connector_class()(limit=1000, ssl=verify),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._timeout or CONNECT_TIMEOUT, sock_read=self._timeout
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=environment_proxy(self.base_url),
            read_bufsize=2**18,
        )

    async def call(self, call: ServiceCall) -> Any:
        """See `Transport.call`."""
        url, body, headers = await self._request(call)
        secrets = self._secrets(headers, call.query)
        with _faults():
            response = await self._open(url, body, headers, call.query, secrets)
            try:
                return parsed(await _whole(response), secrets)
            finally:
                response.close()

    async def stream(self, call: ServiceCall) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        url, body, headers = await self._request(call)
        secrets = self._secrets(headers, call.query)
        with _faults():
            response = await self._open(url, body, headers, call.query, secrets)
            try:
                if response.content_type == "application/json":
                    yield parsed(await _whole(response), secrets)  # the server does not stream
                    return
                reader = EventReader(secrets)
                async for chunk in response.content.iter_any():
                    reader.feed(chunk)
                    del chunk  # or a traceback with locals would show a key that the service quotes
                    for event in reader.events():
                        yield event
                    if reader.done:
                        await _drain(response)
                        return
            finally:
                # Nothing is awaited here: a loop that ends closes all its generators at once, whichever uses which.
                response.close()

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await self._sessions.aclose()

    async def _request(self, call: ServiceCall) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        """URL, body and headers of a call."""
        _aiohttp()  # A missing one is named before the request is looked at.
        url = urljoin(self.base_url, call.path) if call.path[0] == "/" else f"{self.base_url}/{call.path}"
        return url, call.body, self._joined(await self._headers(), call.headers)

    def _joined(self, *layers: Mapping[str, Any]) -> dict[str, str]:
        """The headers of all layers, checked. Nearly always they are those of the call before."""
        known, headers, _ = self._known
        if layers != known:
            layers = tuple({name: hidden(value) for name, value in layer.items()} for layer in layers)
            for layer in layers:
                check_headers(layer)
            headers = _merged(_STANDING_HEADERS, *layers)
            self._known = layers, headers, secrets_in(headers, dict(pairs(self._query)))
        return headers

    def _secrets(self, headers: Mapping[str, str], query: Mapping[str, Any]) -> tuple[str, ...]:
        """What of a call no error may show."""
        _, known, secrets = self._known
        if headers is known and not query:
            return secrets
        return secrets_in(headers, dict(pairs({**self._query, **query})))

    async def _open(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        query: Mapping[str, Any],
        secrets: tuple[str, ...],
    ) -> aiohttp.ClientResponse:
        """The response; closing it keeps its connection where it was read to its end."""
        payload = to_json(body)  # here, and not where the answer is read: a stream need not keep what it has sent
        session = await self._sessions.get(self._open_session)
        response = await self._send(session, url, [*pairs({**self._query, **query})] or None, payload, headers)
        if response.status >= 300:
            try:
                error = service_error(response.status, response.headers, await _error_body(response), secrets)
            finally:
                response.close()
            del response  # or a traceback with locals would show its headers: a redirect may quote a key
            raise error
        return response

    async def _send(
        self,
        session: aiohttp.ClientSession,
        url: str,
        query: list[tuple[str, str]] | None,
        payload: bytes,
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        aiohttp = _aiohttp()
        _fresh.set(False)
        while True:
            _kept.set(False)
            try:
                return await session.post(
                    url,
                    data=payload,
                    headers=headers,
                    params=query,
                    allow_redirects=False,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # A kept connection that the server had closed meanwhile, and not one byte came back: once more is free.
                if not _kept.get() or isinstance(error, aiohttp.ClientConnectorError):
                    raise
                _fresh.set(True)  # Only once: a server that reads each request and hangs up would get one for each.


#: Whether this task's request went out on a connection that had served before.
_kept: ContextVar[bool] = ContextVar("modelport_kept_connection", default=False)
#: Whether it must not go out on one.
_fresh: ContextVar[bool] = ContextVar("modelport_fresh_connection", default=False)


@functools.cache
def _connector_class() -> Any:
    """aiohttp's connector, which says so; its tracing, which would too, costs a fifth of a call."""
    aiohttp = _aiohttp()

    class Connector(aiohttp.TCPConnector):  # type: ignore[misc,name-defined]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self._known: weakref.WeakSet[Any] = weakref.WeakSet()

        async def connect(self, *args: Any, **more: Any) -> Any:
            connection = await super().connect(*args, **more)
            while _fresh.get() and connection.protocol in self._known:  # as old as the one that was stale
                connection.close()
                connection = await super().connect(*args, **more)
            _kept.set(connection.protocol in self._known)
            self._known.add(connection.protocol)
            return connection

    return Connector


@functools.cache
def _response_class() -> Any:
    """aiohttp's response, which a traceback with locals shows without its URL and headers: they may hold keys."""

    class Response(_aiohttp().ClientResponse):  # type: ignore[misc]
        def __repr__(self) -> str:
            return f"<Response {self.status}>"

    return Response


@contextmanager
def _faults() -> Iterator[None]:
    """Errors of the HTTP library become ours."""
    aiohttp = _aiohttp()
    try:
        yield
    except aiohttp.ClientError as error:
        raise fault_of(error) from None
    except TimeoutError:
        raise ConnectionFailed("The connection could not be made in time.") from None


@functools.cache
def _aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError:
        raise MissingDependency("aiohttp", "openai") from None
    return aiohttp


def _merged(*layers: Mapping[str, Any]) -> dict[str, str]:
    """The headers of all layers; a later one replaces an earlier one of its name, whatever the case."""
    result: dict[str, tuple[str, Any]] = {}
    for layer in layers:
        for name, value in layer.items():
            result.pop(name.lower(), None)
            if type(value).__name__ != "Omit":  # the SDK's way to take a header away
                result[name.lower()] = (name, hidden(value))
    return dict(result.values())


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """A body; not one without an end, or that swells as it is unpacked.

    Raises:
        MalformedResponse: It is larger than any answer.
    """
    body, size = io.BytesIO(), 0
    async for chunk in response.content.iter_any():
        size += body.write(chunk)
        del chunk  # or a traceback with locals would show a key that the service quotes
        if size > ANSWER_SIZE:
            raise MalformedResponse(f"The service's answer is larger than {ANSWER_SIZE >> 20} MiB.")
    return body.getvalue()


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    """As much of an error's body as comes: one that is cut, broken or stalled does not hide its status."""
    import asyncio

    aiohttp = _aiohttp()
    body = io.BytesIO()  # which a traceback with locals does not show: the service may quote a key
    try:
        async with asyncio.timeout(ERROR_TIMEOUT):
            while body.tell() < ERROR_SIZE and not response.content.at_eof():
                body.write(await response.content.readany())
    except (aiohttp.ClientError, TimeoutError):
        pass
    return body.getvalue()[:ERROR_SIZE]


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Reads on to the true end, or the connection could not be kept. The answer has come, so nothing here fails."""
    import asyncio

    aiohttp = _aiohttp()
    try:
        async with asyncio.timeout(DRAIN_TIMEOUT):
            async for _ in response.content.iter_any():
                pass
    except (aiohttp.ClientError, TimeoutError):
        pass


def fault_of(error: aiohttp.ClientError) -> ModelError:
    """What a fault of aiohttp means."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return ConnectionFailed(f"The service's certificate was not accepted: {error}.", retryable=False)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return ConnectionFailed(f"The proxy refused to connect (HTTP {error.status}).", retryable=error.status >= 500)
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectionFailed(
            f"No connection to {error.host}:{error.port}: {error.os_error.strerror or error.os_error}. {CHECK_THE_WAY}",
            hint=ADDRESS_HINT,
        )
    if isinstance(error, aiohttp.ServerTimeoutError):
        return ConnectionFailed(f"The service did not answer within the client's time-out ({type(error).__name__}).")
    if isinstance(error, aiohttp.InvalidURL):
        return InvalidRequest("api_base is no valid URL.")
    if isinstance(error, aiohttp.ClientPayloadError):
        # A body that just ends was cut by something that thinks it is whole; where the connection broke, the text says
        # so at its end, and nothing else does.
        if error.__cause__ is None or str(error).endswith(repr(error.__cause__)):
            return MalformedResponse("The service's answer was cut short: its body ended before its length said so.")
        return ConnectionFailed("The connection broke while the answer was read.")
    if isinstance(error, aiohttp.ClientResponseError):
        return MalformedResponse(f"The service's answer is no valid HTTP: {error.message}.")
    return ConnectionFailed(f"The connection to the service broke ({type(error).__name__}).")
