"""Opens connections with aiohttp, and sends requests over them.

The rules:

- Connections belong to the event loop that opened them. A transport has one aiohttp session for each event loop. The
  session is closed when its loop ends, or when the transport is closed or garbage-collected.
- A session opens up to 1000 connections, as many as the `openai` package. A model's `max_concurrency` may allow fewer.
- A server may close an idle connection at any time, even just when the next request is sent on it. If a request fails
  on a connection that had served a request before, and no byte of a response arrived, the request is sent once more,
  on a new connection. The retry policy does not count this second attempt.
- A request is sent at most twice in this way, however many idle connections there are. Otherwise a server that reads
  each request and then closes the connection would receive the request once for each idle connection.
- aiohttp opens a new connection only if no idle one is left. So before the second attempt, all idle connections to the
  server are closed.
- A failure on a new connection is not retried here, but by the layer `retry`.
"""

from __future__ import annotations

import functools
import os
import ssl
import weakref
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from modelport.remote.http.environment import environment_proxy, environment_tls
from modelport.remote.http.packages import aiohttp_package

if TYPE_CHECKING:
    import aiohttp

#: The most seconds to connect, as in the `openai` package.
CONNECT_TIMEOUT = 5.0
#: The most connections of a session, as in the `openai` package.
_MAX_CONNECTIONS = 1000

# aiohttp's code runs between `post` and the connector, so they pass these two values as context variables.
#: Whether the request of the running task was sent on a connection that had served a request before.
_was_reused: ContextVar[bool] = ContextVar("modelport_connection_was_reused", default=False)
#: Whether the request of the running task must be sent on a new connection.
_needs_new: ContextVar[bool] = ContextVar("modelport_needs_new_connection", default=False)


def open_session(base_url: str, verify: ssl.SSLContext | bool, timeout: float | None) -> aiohttp.ClientSession:
    """Open a session on the running event loop, with the proxy and the certificates of the environment.

    Args:
        base_url: The address of the service.
        verify: Whether the server's certificate is verified, or the context that verifies it.
        timeout: The most seconds to connect, and between two reads. `None` limits only the time to connect, to
            `CONNECT_TIMEOUT`.
    """
    aiohttp = aiohttp_package()
    if verify is True and base_url.startswith("https"):
        verify = environment_tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return aiohttp.ClientSession(  # type: ignore[no-any-return]
        response_class=_response_class(),
        connector=_connector_class()(limit=_MAX_CONNECTIONS, ssl=verify),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout or CONNECT_TIMEOUT, sock_read=timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=environment_proxy(base_url),
        read_bufsize=2**18,
        auto_decompress=False,  # `bodies.BodyDecoder` decompresses, in small pieces.
    )


async def post(
    session: aiohttp.ClientSession,
    url: str,
    query: list[tuple[str, str]] | None,
    payload: bytes | None,
    headers: Mapping[str, str],
) -> aiohttp.ClientResponse:
    """Send a request, and return its response when the headers have arrived. Redirects are not followed.

    Args:
        session: A session of the running event loop.
        url: The complete URL, without the query.
        query: The query parameters, as pairs of name and text.
        payload: The encoded body; `None` for a GET request.
        headers: The complete headers, merged and checked.

    Raises:
        aiohttp.ClientError: The request failed.
    """
    aiohttp = aiohttp_package()
    _needs_new.set(False)
    while True:
        _was_reused.set(False)
        try:
            if payload is None:
                return await session.get(url, headers=headers, params=query, allow_redirects=False)
            return await session.post(url, data=payload, headers=headers, params=query, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if not _was_reused.get() or isinstance(error, aiohttp.ClientConnectorError):
                raise
            _needs_new.set(True)


@functools.cache
def _connector_class() -> Any:
    """Return the class of connectors that record in `_was_reused` whether a connection had served a request before.

    aiohttp's tracing could report this instead, but would take a fifth of the time of a call.
    """
    aiohttp = aiohttp_package()

    class Connector(aiohttp.TCPConnector):  # type: ignore[misc,name-defined]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            #: The protocol objects of connections that have been used. aiohttp has one for each connection.
            self._used: weakref.WeakSet[Any] = weakref.WeakSet()

        async def connect(self, *args: Any, **kwargs: Any) -> Any:
            connection = await super().connect(*args, **kwargs)
            while _needs_new.get() and connection.protocol in self._used:
                connection.close()
                connection = await super().connect(*args, **kwargs)
            _was_reused.set(connection.protocol in self._used)
            self._used.add(connection.protocol)
            return connection

    return Connector


@functools.cache
def _response_class() -> Any:
    """Return a response class whose `repr` does not show URL and headers, which may hold keys."""

    class Response(aiohttp_package().ClientResponse):  # type: ignore[misc]
        def __repr__(self) -> str:
            return f"<Response {self.status}>"

    return Response
