"""Sends requests through a client of the `openai` package: the caller's own, or one made from `client_kwargs`.

Requests go through the client's generic method `post`. The package's usual methods would convert every message and
chunk into typed objects, which modelport does not need. The client's own retries are switched off. `post` returns the
response unread, as in the package's `with_streaming_response`. modelport reads, decompresses and parses its body,
within the same limits as that of any other response.

The stack frames of the package's exceptions refer to the headers that were sent, and so to the API key. Therefore
modelport's error is raised after the `except` block: inside the block, Python would store the package's exception as
the error's `__context__`. Texts that a service sent are redacted before an error quotes them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeVar

from modelport.errors import ConnectionFailed, InvalidRequest, MissingDependency, ModelError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.bodies import (
    ACCEPT_ENCODING,
    MAX_RESPONSE_SIZE,
    MAX_STREAM_SIZE,
    BodyDecoder,
    Pieces,
    drain,
    read_body,
)
from modelport.remote.http.errors import error_from_httpx, is_encoding_error, is_httpx_exception, redirect_error
from modelport.remote.http.httpx_clients import install_response_hook, sends_for_modelport
from modelport.remote.http.interrupts import Interrupt
from modelport.remote.http.packages import no_fork_during_import
from modelport.remote.http.redaction import redact, secrets_in, with_hidden_repr
from modelport.remote.http.requests import check_headers, query_pairs
from modelport.remote.http.responses import EventReader, read_json
from modelport.remote.http.transport import HeaderSource, ServiceCall
from modelport.runtime.per_loop import PerLoop
from modelport.runtime.threads import in_thread, iterate_in_thread

T = TypeVar("T")


def openai_package() -> Any:
    """Return the `openai` package.

    Raises:
        MissingDependency: The package is not installed.
    """
    try:
        with no_fork_during_import():
            import openai
    except ImportError:
        raise MissingDependency("openai", "openai") from None
    return openai


class SDKTransport:
    """Sends requests through clients of the `openai` package.

    Args:
        client: A client of the caller, synchronous or asynchronous. The connections of an asynchronous client belong to
            the event loop that opened them, so all calls should run on one event loop.
        make_client: A function that returns an asynchronous client, if the caller passed none. It is called once for
            each event loop.
        headers: A function that returns the headers with the API key or token of a call. `None` if the client itself
            has the key. If the caller's `api_key` is a function, the client can't have it: some versions of the package
            accept no function, and none gives access to the returned key, which modelport must redact in errors.
    """

    def __init__(
        self, client: Any = None, make_client: Callable[[], Any] | None = None, headers: HeaderSource | None = None
    ) -> None:
        self._openai = openai_package()
        if client is not None and not (hasattr(client, "with_options") and hasattr(client, "post")):
            raise InvalidRequest(
                f"client must be an OpenAI or AsyncOpenAI of the openai package, not {type(client).__name__}"
            )
        self._client: Any = None if client is None else client.with_options(max_retries=0)
        _install_hook(self._client, is_callers=True)
        self._is_sync = client is not None and not inspect.iscoroutinefunction(client.post)
        self._make_client = make_client
        self._headers = headers
        self._clients: PerLoop[Any] = PerLoop(lambda client: client.close())

    async def call(self, call: ServiceCall, read: Callable[[Any], T]) -> T:
        """See `Transport.call`."""
        client, call = await self._client_of_loop(), await self._with_headers(call)
        received: list[Any] = []  # The response, and the pieces of its body.
        interrupt = Interrupt()
        try:
            if self._is_sync:  # Without a stream, a thread of the pool does it, which takes a third less time.
                await in_thread(
                    lambda: self._exchange_in_thread(client, call, MAX_RESPONSE_SIZE, received.append, interrupt)
                )
            else:
                async with aclosing(self._exchange(client, call, MAX_RESPONSE_SIZE)) as pieces:
                    received += [await anext(pieces), await read_body(pieces)]
            secrets = self._secrets(client, call, received.pop(0).request.headers)
            return read_json(_joined(received), read, secrets)
        except Exception as error:
            if (model_error := self._model_error(error, client, call)) is None:
                raise
        finally:
            interrupt.set()
            received.clear()  # Otherwise a traceback with local variables would show an API key in the body.
        raise model_error  # Raised outside of the `except` block, so that it has no `__context__`.

    async def stream(self, call: ServiceCall, read: Callable[[Any], T]) -> AsyncGenerator[T, None]:
        """See `Transport.stream`."""
        client, call = await self._client_of_loop(), await self._with_headers(call)
        try:
            async with aclosing(self._exchange(client, call, MAX_STREAM_SIZE)) as pieces:
                response = await anext(pieces)
                secrets = self._secrets(client, call, response.request.headers)
                reader = EventReader(read, secrets, response.headers.get("Content-Type", ""))
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
            return
        except Exception as error:
            if (model_error := self._model_error(error, client, call)) is None:
                raise
        raise model_error  # Raised outside of the `except` block, as in `call`.

    def close(self) -> None:
        """See `Transport.close`. A client of the caller is left open."""
        self._clients.close()

    async def _client_of_loop(self) -> Any:
        """Return the client for the running event loop.

        Raises:
            InvalidRequest: The package refuses the settings of the client.
        """
        if self._make_client is None:
            return self._client
        try:
            return await self._clients.get(self._new_client)
        except (self._openai.OpenAIError, TypeError) as error:
            raise InvalidRequest(f"the openai package refuses its settings: {error}") from None

    def _new_client(self) -> Any:
        assert self._make_client is not None
        client = self._make_client()
        _install_hook(client)
        return client

    async def _with_headers(self, call: ServiceCall) -> ServiceCall:
        """Return the call with the headers that the constructor's `headers` returns. The call's own take precedence.

        Raises:
            InvalidRequest: A header can't be sent.
        """
        if self._headers is not None:
            headers = (await self._headers()).items()
            call = replace(call, headers={**{name: with_hidden_repr(value) for name, value in headers}, **call.headers})
        check_headers(call.headers)
        return call

    def _post(self, client: Any, call: ServiceCall) -> Any:
        """Send a request, and return the package's object for a response whose body has not been read.

        For an asynchronous client, return an awaitable.
        """
        # Some versions of the package ignore `follow_redirects`; the hook of `httpx_clients` refuses redirects too.
        # With the first header, `post` returns the response unread, as `with_streaming_response` does.
        headers = {"X-Stainless-Raw-Response": "stream", "Accept-Encoding": ACCEPT_ENCODING, **call.headers}
        options: dict[str, Any] = {"follow_redirects": False, "headers": headers}
        if call.query:
            options["params"] = dict(call.query)
        # In a `ServiceCall`, a path with a leading slash is below the server's root. The package would append that path
        # to its base URL, so the package gets the complete URL instead.
        path = str(client.base_url.join(call.path)) if call.path[0] == "/" else f"/{call.path}"
        if call.method == "GET":
            return client.get(path, cast_to=object, options=options)
        return client.post(path, body=call.body, cast_to=object, options=options)

    async def _exchange(self, client: Any, call: ServiceCall, max_size: int) -> AsyncGenerator[Any, None]:
        """Send a request, and yield its HTTP response, and then the pieces of the response's body."""
        if self._is_sync:
            interrupt = Interrupt()
            exchange: AsyncGenerator[Any, None] = iterate_in_thread(
                lambda emit: self._exchange_in_thread(client, call, max_size, emit, interrupt), max_items=64
            )
            try:
                async with aclosing(exchange) as items:
                    async for item in items:
                        yield item
            finally:
                interrupt.set()
            return
        sends_for_modelport.set(True)
        try:
            response = (await self._post(client, call)).http_response
        finally:
            sends_for_modelport.set(False)
        chunks = response.aiter_raw()
        try:
            yield response
            if response.is_stream_consumed:  # The caller's client has read it, or no network was involved.
                yield response.content
                return
            async for piece in Pieces(chunks, BodyDecoder(response.headers, max_size)):
                yield piece
        finally:
            await response.aclose()
            # The stream consists of nested generators of the HTTP library. Reading on ends the inner ones before the
            # outer ones. The garbage collector could end them in another order, for which Python may print warnings.
            with suppress(Exception):
                async for _ in chunks:
                    pass

    def _exchange_in_thread(
        self, client: Any, call: ServiceCall, max_size: int, emit: Callable[[Any], Any], interrupt: Interrupt
    ) -> None:
        """Emit what `_exchange` yields, for a synchronous client.

        If `emit` returns `True`, or `interrupt` is set, nobody reads any more.
        """
        sends_for_modelport.set(True)  # This thread has its own context.
        response = self._post(client, call).http_response
        interrupt.watch(response)
        try:
            if emit(response):
                return
            if response.is_stream_consumed:
                emit(response.content)
                return
            decoder = BodyDecoder(response.headers, max_size)
            for chunk in response.iter_raw():
                if interrupt.is_set:  # A chunk may complete no piece, and then nothing is emitted.
                    return
                for piece in decoder.decode(chunk):
                    if emit(piece):
                        return
        finally:
            response.close()

    def _model_error(self, error: Exception, client: Any, call: ServiceCall) -> ModelError | None:
        """Return modelport's error for an exception of the package, or `None` for any other exception."""
        openai = self._openai
        for candidate in (error, error.__cause__):
            if isinstance(candidate, ModelError):  # The hook of `install_response_hook` raised it.
                return candidate.with_traceback(None)  # The frames of the traceback refer to what was sent.
        if (response := _response_without_body(error)) is not None:
            return error_from(response.status_code, "the reason did not arrive completely", response.headers)
        if isinstance(error, openai.APIStatusError) and error.status_code < 400:
            secrets = self._secrets(client, call, error.request.headers)
            return redirect_error(error.status_code, error.response.headers, secrets)
        if isinstance(error, openai.APIStatusError):
            payload = error.body if error.body is not None else error.response.text
            payload = redact(payload, self._secrets(client, call, error.request.headers))
            return error_from(error.status_code, payload, error.response.headers)
        if isinstance(error, openai.APITimeoutError):
            return ConnectionFailed("The service did not answer within the client's timeout.")
        if isinstance(error, openai.APIConnectionError):
            return error_from_httpx(error.__cause__ or error)
        if isinstance(error, TypeError) or is_encoding_error(error):
            return InvalidRequest(f"The request holds a value that can't be sent ({type(error).__name__}: {error}).")
        # In some versions of the package, an error in the middle of a stream is an exception of the HTTP library.
        if is_httpx_exception(error):
            return error_from_httpx(error)
        return None

    def _secrets(
        self, client: Any, call: ServiceCall, sent_headers: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """Return the secrets of a call, which no error may show."""
        query = {**getattr(client, "default_query", {}), **call.query}
        credential = {"authorization": getattr(client, "api_key", "")}
        return secrets_in(
            credential, client.default_headers, call.headers, sent_headers or {}, dict(query_pairs(query))
        )


def _joined(pieces: list[bytes]) -> bytes:
    """Empty a list of pieces, and return them as one."""
    body = b"".join(pieces)
    pieces.clear()
    return body


def _install_hook(client: Any, is_callers: bool = False) -> None:
    """Add the hook of `httpx_clients` to the HTTP client inside a client of the package."""
    if hasattr(http_client := getattr(client, "_client", None), "event_hooks"):
        install_response_hook(http_client, is_callers=is_callers)


def _response_without_body(error: BaseException) -> Any:
    """Return the error response whose body the caller's client could not read, or `None` if something else failed.

    The package reads the body while it handles `HTTPStatusError`. So this exception is the context of the failure.
    """
    cause: BaseException | None = error if is_httpx_exception(error) else None
    while cause is not None:
        if type(cause).__name__ == "HTTPStatusError":
            return getattr(cause, "response", None)
        cause = cause.__context__
    return None
