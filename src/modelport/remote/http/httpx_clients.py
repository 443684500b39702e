"""Makes clients of httpx and httpx2 follow modelport's rules for redirects, and for the size of bodies.

Vendors' packages, such as `openai` and `litellm`, send requests with such clients. Some of these packages follow
redirects. Some lose the HTTP status of an error response if its body does not arrive completely. All of them read and
decompress bodies of any size. So modelport adds a hook to the client. The hook receives each response before the
package does:

- The hook refuses a redirect.
- The hook reads the body of an error response as far as it arrives, within the limits of `bodies`. The package then
  takes this part for the complete body.
- If the package reads the body of any other response itself, the hook replaces the response's stream by one that
  decompresses, and raises `MalformedResponse` if the body is too large (`bound_body`).

A client of the caller gets a hook too. In requests that modelport does not send, this hook does nothing.
"""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from modelport.remote.http import bodies
from modelport.remote.http.errors import redirect_error
from modelport.remote.http.interrupts import time_limit
from modelport.remote.http.redaction import secrets_in
from modelport.remote.http.streams import StreamLimits

#: Whether the running code sends a request of modelport through a client of the caller.
sends_for_modelport: ContextVar[bool] = ContextVar("modelport_sends_by_httpx", default=False)


def install_response_hook(
    client: Any, *, bound_body: Callable[[], bool] | None = None, is_callers: bool = False
) -> None:
    """Add the hook to a client, unless the client has it already.

    Args:
        client: A `Client` or an `AsyncClient` of httpx or httpx2.
        bound_body: Whether the package that uses the client reads bodies itself. The function is called when a response
            has arrived, and returns whether the package reads it as a stream. `None` if modelport reads all bodies.
        is_callers: Whether the client is the caller's. The hook then acts only while `sends_for_modelport` is set.
    """
    hooks = client.event_hooks["response"]
    if any(isinstance(hook, _HOOKS) for hook in hooks):
        return
    is_async = inspect.iscoroutinefunction(client.send)
    hooks.append((_AsyncHook if is_async else _Hook)(bound_body, is_callers))


class _Hook:
    """The hook of a synchronous client."""

    def __init__(self, bound_body: Callable[[], bool] | None, is_callers: bool) -> None:
        self._bound_body, self._is_callers = bound_body, is_callers

    def __call__(self, response: Any) -> None:
        if not self._needs_error_body(response):
            return
        body = io.BytesIO()
        decoder = bodies.BodyDecoder(response.headers)
        # Whatever interrupts the body, the package can report the status.
        with suppress(Exception), time_limit(response, bodies.ERROR_BODY_TIMEOUT) as interrupt:
            for chunk in response.iter_raw():
                for piece in decoder.decode(chunk):
                    body.write(piece)
                if interrupt.is_set or body.tell() >= bodies.MAX_ERROR_BODY_SIZE:
                    break
        _set_body(response, body.getvalue()[: bodies.MAX_ERROR_BODY_SIZE])
        response.close()

    def _needs_error_body(self, response: Any) -> bool:
        """Refuse a redirect, bound the body of a successful response, and return whether it is an error response.

        Raises:
            InvalidRequest: The service redirects.
        """
        if self._is_callers and not sends_for_modelport.get():
            return False
        if response.status_code < 300:
            if self._bound_body is not None:
                _bound(response, reads_stream=self._bound_body())
            return False
        if response.status_code < 400:
            request = response.request
            secrets = secrets_in(request.headers, dict(request.url.params))
            raise redirect_error(response.status_code, response.headers, secrets)
        return not response.is_stream_consumed


class _AsyncHook(_Hook):
    """The hook of an asynchronous client."""

    async def __call__(self, response: Any) -> None:  # type: ignore[override]
        if self._needs_error_body(response):
            pieces = bodies.Pieces(response.aiter_raw(), bodies.BodyDecoder(response.headers))
            _set_body(response, await bodies.read_error_body(pieces))
            await response.aclose()


_HOOKS = (_Hook, _AsyncHook)


def _set_body(response: Any, body: bytes) -> None:
    # httpx sets `_content` in `read`, which can't be used here: it decompresses without a limit, and it raises and
    # drops what has arrived if the body is interrupted.
    response._content = body


def _bound(response: Any, reads_stream: bool) -> None:
    """Let a response decompress its body in small pieces, and raise `MalformedResponse` if it is too large."""
    if response.is_stream_consumed:
        return  # It did not come over the network.
    limits = StreamLimits(response.headers, reads_stream)
    # The caller's package must not decompress what has been decompressed.
    response.headers.pop("Content-Encoding", None)
    package = sys.modules[type(response).__module__.partition(".")[0]]
    response.stream = _bounded_stream_class(package)(response.stream, limits)


@functools.cache
def _bounded_stream_class(package: Any) -> Any:
    """Return a class of streams for httpx or httpx2."""

    class BoundedStream(package.AsyncByteStream, package.SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, limits: StreamLimits) -> None:
            self._stream, self._limits = stream, limits

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in bodies.Pieces(aiter(self._stream), self._limits):
                yield piece

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._stream:
                yield from self._limits.decode(chunk)

        async def aclose(self) -> None:
            await self._stream.aclose()

        def close(self) -> None:
            self._stream.close()

    return BoundedStream
