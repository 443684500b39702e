"""Sends JSON to a service and returns parsed JSON.

A `Transport` has three methods, so that the code above it does not depend on an HTTP library. `HTTPTransport` uses
aiohttp. A call passes through these steps:

1. The backend returns the headers of the call, which are checked and merged with the default headers (`requests`). The
   secrets in headers and query are collected (`redaction`).
2. The body is encoded, and the request is sent over a connection of the running event loop (`connections`).
3. A response with a status of 300 or more becomes an error (`errors`), which quotes the part of its body that arrives
   (`bodies`).
4. The body of any other response is read within limits of size (`bodies`) and parsed; a stream is parsed event by event
   (`responses`).

Every exception of aiohttp becomes one of modelport's errors. Some tools show the local variables of each frame in a
traceback. So no local variable shows an API key, except as a `HiddenStr`, whose `repr` is `'***'`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import urljoin

from modelport import __version__
from modelport.remote.http.bodies import (
    ACCEPT_ENCODING,
    MAX_RESPONSE_SIZE,
    MAX_STREAM_SIZE,
    BodyDecoder,
    Pieces,
    drain,
    read_body,
    read_error_body,
)
from modelport.remote.http.connections import open_session, post
from modelport.remote.http.errors import error_from_aiohttp, error_from_response
from modelport.remote.http.packages import aiohttp_package
from modelport.remote.http.redaction import secrets_in, with_hidden_repr
from modelport.remote.http.requests import check_headers, check_url, merge_headers, query_pairs, to_json
from modelport.remote.http.responses import EventReader, read_json
from modelport.runtime.per_loop import PerLoop

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
_DEFAULT_HEADERS = {
    "Accept": "application/json", "Accept-Encoding": ACCEPT_ENCODING, "Content-Type": "application/json",
    "User-Agent": f"modelport/{__version__}",
}  # fmt: skip

#: A function that returns the headers of a call, including the API key.
HeaderSource = Callable[[], Awaitable[Mapping[str, str]]]


@dataclass(frozen=True, slots=True, repr=False)
class ServiceCall:
    """One request to a service.

    Args:
        path: The path below the base URL, or below the server's root if it begins with a slash.
        body: The body, which is sent as JSON. A GET request has none.
        headers: The headers of this call. They override those of the transport.
        query: The query parameters of this call. They override those of the transport.
        method: The HTTP method.
    """

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    method: Literal["GET", "POST"] = "POST"

    @property
    def payload(self) -> Mapping[str, Any] | None:
        """The body; `None` for a GET request."""
        return self.body if self.method == "POST" else None


class Transport(Protocol):
    """Sends JSON and reads JSON. It raises only modelport's errors.

    The argument `read` is a function that reads parsed JSON. If it raises a `ModelError`, which may quote the JSON, the
    transport calls it again with redacted JSON.
    """

    async def call(self, call: ServiceCall, read: Callable[[Any], T]) -> T:
        """Send a request and return what `read` makes of the body of its response."""
        ...

    def stream(self, call: ServiceCall, read: Callable[[Any], T]) -> AsyncGenerator[T, None]:
        """Send a request and yield what `read` makes of each event of its response, until the response ends."""
        ...

    def close(self) -> None:
        """Close the connections of all event loops; see `PerLoop.close`."""
        ...


class HTTPTransport:
    """Sends requests with aiohttp.

    Args:
        base_url: The address of the service, such as `https://api.openai.com/v1`.
        headers: A function that returns the headers of a call, including the API key. It is called for each call.
        query: Query parameters for every call.
        verify: Whether the server's certificate is verified, or the context that verifies it.
        timeout: The most seconds to connect, and between two reads. By default connecting is limited to 5 seconds, and
            reading only by the layer `retry`.
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
        self._query = {name: with_hidden_repr(value) for name, value in (query or {}).items()}
        #: The last merge of headers: the mappings that were merged, the result, and the secrets in it and in the query.
        self._last_merge: tuple[Any, dict[str, str], tuple[str, ...]] = None, {}, ()
        self._sessions: PerLoop[aiohttp.ClientSession] = PerLoop(lambda session: session.close())

    def _open_session(self) -> aiohttp.ClientSession:
        return open_session(self.base_url, self._verify, self._timeout)

    async def call(self, call: ServiceCall, read: Callable[[Any], T]) -> T:
        """See `Transport.call`."""
        url, body, headers = await self._request(call)
        secrets = self._secrets(headers, call.query)
        try:
            response = await self._send(url, body, headers, call.query, secrets)
            try:
                return read_json(await read_body(_pieces(response)), read, secrets)
            finally:
                response.close()
        except (aiohttp_package().ClientError, TimeoutError) as error:
            raise error_from_aiohttp(error) from None

    async def stream(self, call: ServiceCall, read: Callable[[Any], T]) -> AsyncGenerator[T, None]:
        """See `Transport.stream`."""
        url, body, headers = await self._request(call)
        secrets = self._secrets(headers, call.query)
        try:
            response = await self._send(url, body, headers, call.query, secrets)
            try:
                reader = EventReader(read, secrets, response.content_type)
                pieces = _pieces(response, MAX_STREAM_SIZE)
                async for piece in pieces:
                    reader.feed(piece)
                    del piece  # Otherwise a traceback with local variables would show an API key in the piece.
                    for event in reader.events():
                        yield event
                    if reader.done:
                        await drain(pieces)
                        return
                for answer in reader.body():  # The server answers without streaming.
                    yield answer
            finally:
                # Nothing may be awaited here. When an event loop ends, it closes all generators concurrently. If this
                # one were suspended here, the generator that iterates over it could not close it and would raise.
                response.close()
        except (aiohttp_package().ClientError, TimeoutError) as error:
            raise error_from_aiohttp(error) from None

    def close(self) -> None:
        """See `Transport.close`."""
        self._sessions.close()

    async def _request(self, call: ServiceCall) -> tuple[str, Mapping[str, Any] | None, dict[str, str]]:
        """Return URL, body and headers of a call."""
        aiohttp_package()  # A missing package is reported before any other error.
        url = urljoin(self.base_url, call.path) if call.path[0] == "/" else f"{self.base_url}/{call.path}"
        return url, call.payload, self._merge_headers(await self._headers(), call.headers)

    def _merge_headers(self, *mappings: Mapping[str, Any]) -> dict[str, str]:
        """Check and merge headers. If they are those of the last call, as nearly always, return its merged headers."""
        last_mappings, headers, _ = self._last_merge
        if mappings != last_mappings:
            mappings = tuple({name: with_hidden_repr(value) for name, value in mapping.items()} for mapping in mappings)
            for mapping in mappings:
                check_headers(mapping)
            headers = merge_headers(_DEFAULT_HEADERS, *mappings)
            self._last_merge = mappings, headers, secrets_in(headers, dict(query_pairs(self._query)))
        return headers

    def _secrets(self, headers: Mapping[str, str], query: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the secrets of a call, which no error may show."""
        _, last_headers, secrets = self._last_merge
        if headers is last_headers and not query:
            return secrets
        return secrets_in(headers, dict(query_pairs({**self._query, **query})))

    async def _send(
        self,
        url: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        query: Mapping[str, Any],
        secrets: tuple[str, ...],
    ) -> aiohttp.ClientResponse:
        """Send a request and return its response. The connection is reused only if the response is read to its end.

        Raises:
            ModelError: The status is 300 or more.
        """
        # The body is not encoded in `stream`, because `stream` would keep the payload in memory until the last event.
        payload = None if body is None else to_json(body)
        session = await self._sessions.get(self._open_session)
        # The encoded query is not assigned to a variable: a traceback with local variables would show a key in it.
        response = await post(
            session,
            url,
            query=([*query_pairs({**self._query, **query})] or None) if query or self._query else None,
            payload=payload,
            headers=headers,
        )
        if response.status >= 300:
            try:
                error = error_from_response(
                    response.status, response.headers, await read_error_body(_pieces(response)), secrets
                )
            finally:
                response.close()
            del response  # Otherwise a traceback with local variables would show a key that a redirect repeats.
            raise error
        return response


def _pieces(response: aiohttp.ClientResponse, max_size: int = MAX_RESPONSE_SIZE) -> Pieces:
    """Return the body of a response, decompressed in small pieces."""
    return Pieces(response.content.iter_any(), BodyDecoder(response.headers, max_size))
