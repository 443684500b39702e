"""Sends JSON to a service and returns parsed JSON.

A `Transport` has three methods, so that the code above it does not depend on an HTTP library. `HTTPTransport` uses
aiohttp. A call passes through these steps:

1. The headers of the call are requested from the backend, merged and checked (`requests`). The secrets in headers and
   query are collected (`redaction`).
2. The body is encoded, and the request is sent over a connection of the running event loop (`connections`).
3. A status of 300 or more becomes an error (`errors`), with what arrives of its body (`bodies`).
4. A successful body is read within its limits (`bodies`) and parsed, event by event in a stream (`responses`).

Every exception of aiohttp becomes one of modelport's errors.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urljoin

from modelport import __version__
from modelport.remote.http.bodies import drain, read_body, read_error_body
from modelport.remote.http.connections import open_session, post
from modelport.remote.http.errors import error_from_aiohttp, error_from_response
from modelport.remote.http.packages import aiohttp_package
from modelport.remote.http.redaction import hide, secrets_in
from modelport.remote.http.requests import check_headers, check_url, merge_headers, query_pairs, to_json
from modelport.remote.http.responses import EventReader, parse_json
from modelport.runtime.per_loop import PerLoop

if TYPE_CHECKING:
    import aiohttp

_DEFAULT_HEADERS = {
    "Accept": "application/json", "Content-Type": "application/json", "User-Agent": f"modelport/{__version__}",
}  # fmt: skip

#: Returns the headers of a call, keys included.
HeaderSource = Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True, repr=False)
class ServiceCall:
    """One request to a service.

    Args:
        path: The path below the base URL, or below the server's root if it begins with a slash.
        body: The body, which is sent as JSON.
        headers: The headers of this call. They override those of the transport.
        query: The query parameters of this call. They override those of the transport.
    """

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)


class Transport(Protocol):
    """Sends JSON and returns parsed JSON. It raises only modelport's errors."""

    async def call(self, call: ServiceCall) -> Any:
        """Send a request and return the parsed body of its response."""
        ...

    def stream(self, call: ServiceCall) -> AsyncGenerator[Any, None]:
        """Send a request and yield the parsed events of its response, which is read to its end."""
        ...

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        ...


class HTTPTransport:
    """Sends requests with aiohttp.

    Args:
        base_url: The address of the service, such as `https://api.openai.com/v1`.
        headers: Returns the headers of a call, keys included. It is called for each call.
        query: Query parameters for every call.
        verify: Whether certificates are verified, or the context that verifies them.
        timeout: Seconds to connect, and between two reads. By default connecting is limited to 5 seconds, and the layer
            `retry` limits reading.
    """

    def __init__(
        self,
        base_url: str,
        headers: HeaderSource,
        query: Mapping[str, Any] | None = None,
        verify: ssl.SSLContext | bool = True,
        timeout: float | None = None,
    ) -> None:
        self.base_url = check_url(base_url).rstrip("/")
        self._headers, self._verify, self._timeout = headers, verify, timeout
        self._query = {name: hide(value) for name, value in (query or {}).items()}
        #: Of the last call: the layers of headers, the merged headers, and the secrets in them.
        self._last_headers: tuple[Any, dict[str, str], tuple[str, ...]] = None, {}, ()
        self._sessions: PerLoop[aiohttp.ClientSession] = PerLoop(lambda session: session.close())

    def _open_session(self) -> aiohttp.ClientSession:
        return open_session(self.base_url, self._verify, self._timeout)

    async def call(self, call: ServiceCall) -> Any:
        """See `Transport.call`."""
        url, body, headers = await self._request(call)
        secrets = self._secrets(headers, call.query)
        try:
            response = await self._send(url, body, headers, call.query, secrets)
            try:
                return parse_json(await read_body(response), secrets)
            finally:
                response.close()
        except (aiohttp_package().ClientError, TimeoutError) as error:
            raise error_from_aiohttp(error) from None

    async def stream(self, call: ServiceCall) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        url, body, headers = await self._request(call)
        secrets = self._secrets(headers, call.query)
        try:
            response = await self._send(url, body, headers, call.query, secrets)
            try:
                if response.content_type == "application/json":  # The server does not stream.
                    yield parse_json(await read_body(response), secrets)
                    return
                reader = EventReader(secrets)
                async for chunk in response.content.iter_any():
                    reader.feed(chunk)
                    del chunk  # Otherwise a traceback with local variables would show a key that the service quotes.
                    for event in reader.events():
                        yield event
                    if reader.done:
                        await drain(response)
                        return
            finally:
                # Nothing may be awaited here. An event loop that ends closes all its generators at once, in any order.
                response.close()
        except (aiohttp_package().ClientError, TimeoutError) as error:
            raise error_from_aiohttp(error) from None

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        await self._sessions.aclose()

    async def _request(self, call: ServiceCall) -> tuple[str, Mapping[str, Any], dict[str, str]]:
        """Return URL, body and headers of a call."""
        aiohttp_package()  # If the package is missing, that is the first error.
        url = urljoin(self.base_url, call.path) if call.path[0] == "/" else f"{self.base_url}/{call.path}"
        return url, call.body, self._merge_headers(await self._headers(), call.headers)

    def _merge_headers(self, *layers: Mapping[str, Any]) -> dict[str, str]:
        """Return the headers of all layers, checked. Nearly always they are those of the last call."""
        last_layers, headers, _ = self._last_headers
        if layers != last_layers:
            layers = tuple({name: hide(value) for name, value in layer.items()} for layer in layers)
            for layer in layers:
                check_headers(layer)
            headers = merge_headers(_DEFAULT_HEADERS, *layers)
            self._last_headers = layers, headers, secrets_in(headers, dict(query_pairs(self._query)))
        return headers

    def _secrets(self, headers: Mapping[str, str], query: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the secrets of a call, which no error may show."""
        _, last_headers, secrets = self._last_headers
        if headers is last_headers and not query:
            return secrets
        return secrets_in(headers, dict(query_pairs({**self._query, **query})))

    async def _send(
        self,
        url: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        query: Mapping[str, Any],
        secrets: tuple[str, ...],
    ) -> aiohttp.ClientResponse:
        """Send a request and return its response. Closing the response keeps its connection if it was read to its end.

        Raises:
            ModelError: The status is 300 or more.
        """
        payload = to_json(body)  # Encoded in this frame, so that a stream does not keep the payload while it is read.
        session = await self._sessions.get(self._open_session)
        # No local variable holds the query: a traceback with local variables would show a key in it.
        response = await post(
            session,
            url,
            ([*query_pairs({**self._query, **query})] or None) if query or self._query else None,
            payload,
            headers,
        )
        if response.status >= 300:
            try:
                error = error_from_response(response.status, response.headers, await read_error_body(response), secrets)
            finally:
                response.close()
            del response  # Otherwise a traceback with local variables would show a key that a redirect quotes.
            raise error
        return response
