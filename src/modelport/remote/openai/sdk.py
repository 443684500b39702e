"""Sends requests through a client of the `openai` package: the caller's own, or one made from `client_kwargs`.

Requests go through the client's generic method `post`. The package's usual methods would convert every message and
chunk into typed objects, which modelport does not need. The client's own retries are switched off.

The stack frames of the package's exceptions refer to the headers that were sent, and so to the API key. Therefore
modelport's error is raised after the `except` block: inside the block, Python would store the package's exception as
the error's `__context__`. Texts that a service sent are redacted before an error quotes them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, MissingDependency, ModelError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.errors import error_from_httpx, is_encoding_error, is_httpx_exception, redirect_error
from modelport.remote.http.httpx_clients import install_response_hook
from modelport.remote.http.redaction import HiddenStr, redact, secrets_in, with_hidden_repr
from modelport.remote.http.requests import check_headers, query_pairs
from modelport.remote.http.responses import is_readable_completion, may_be_completion
from modelport.remote.http.transport import HeaderSource, ServiceCall
from modelport.runtime.per_loop import PerLoop
from modelport.runtime.threads import in_thread, iterate_in_thread


def openai_package() -> Any:
    """Return the `openai` package.

    Raises:
        MissingDependency: The package is not installed.
    """
    try:
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
        self._is_sync = client is not None and not inspect.iscoroutinefunction(client.post)
        self._make_client = make_client
        self._headers = headers
        self._clients: PerLoop[Any] = PerLoop(lambda client: client.close())

    async def call(self, call: ServiceCall) -> Any:
        """See `Transport.call`."""
        client, call = await self._client_of_loop(), await self._with_headers(call)
        sent_headers: dict[str, str] = {}
        # This header makes `post` return the raw response, which shows the headers that the caller's client sent.
        raw_response_header = {"X-Stainless-Raw-Response": "true"} if self._make_client is None else {}
        try:
            if self._is_sync:
                response = await in_thread(lambda: self._post(client, call, raw_response_header))
            else:
                response = await self._post(client, call, raw_response_header)
            if raw_response_header:
                _add_sent_headers(sent_headers, response.http_request)
                response = response.parse()
            return self._redact_unless_completion(response, client, call, sent_headers)
        except Exception as error:
            if (model_error := self._model_error(error, client, call)) is None:
                raise
        raise model_error  # Raised outside of the `except` block, so that it has no `__context__`.

    async def stream(self, call: ServiceCall) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        client, call = await self._client_of_loop(), await self._with_headers(call)
        sent_headers: dict[str, str] = {}
        if self._is_sync:
            events: AsyncGenerator[Any, None] = iterate_in_thread(
                lambda emit: self._read_events(client, call, emit, sent_headers)
            )
        else:
            events = self._events(client, call, sent_headers)
        try:
            async with aclosing(events):
                async for event in events:
                    yield self._redact_unless_completion(event, client, call, sent_headers)
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
        if hasattr(httpx_client := getattr(client, "_client", None), "event_hooks"):
            install_response_hook(httpx_client)
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

    def _post(
        self, client: Any, call: ServiceCall, headers: Mapping[str, str] | None = None, **stream_arguments: Any
    ) -> Any:
        # Some versions of the package ignore this option. In a client that modelport makes, a hook refuses redirects. A
        # client of the caller gets no hook, so with these versions it may follow redirects.
        options: dict[str, Any] = {"follow_redirects": False}
        if call.headers or headers:
            options["headers"] = {**call.headers, **(headers or {})}
        if call.query:
            options["params"] = dict(call.query)
        # In a `ServiceCall`, a path with a leading slash is below the server's root. The package would append that path
        # to its base URL, so the package gets the complete URL instead.
        path = str(client.base_url.join(call.path)) if call.path[0] == "/" else f"/{call.path}"
        return client.post(path, body=call.body, cast_to=object, options=options, **stream_arguments)

    async def _events(self, client: Any, call: ServiceCall, sent_headers: dict[str, str]) -> AsyncGenerator[Any, None]:
        """Yield the events of an asynchronous client's stream."""
        stream = await self._post(client, call, stream=True, stream_cls=self._openai.AsyncStream[object])
        _add_sent_headers(sent_headers, stream.response.request)
        events = aiter(stream)
        try:
            async for event in events:
                yield event
        finally:
            await stream.close()
            # The stream consists of nested generators of the package. Reading on ends the inner ones before the outer
            # ones. The garbage collector could end them in another order, for which Python may print warnings.
            with suppress(Exception):
                async for _ in events:
                    pass

    def _read_events(
        self, client: Any, call: ServiceCall, emit: Callable[[Any], bool], sent_headers: dict[str, str]
    ) -> None:
        """Emit the events of a synchronous client's stream. If `emit` returns `True`, nobody reads them any more."""
        with self._post(client, call, stream=True, stream_cls=self._openai.Stream[object]) as stream:
            _add_sent_headers(sent_headers, stream.response.request)
            for event in stream:
                if emit(event):
                    return

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
        if isinstance(error, openai.APIError):  # An error event inside a stream.
            sent_headers = getattr(getattr(error, "request", None), "headers", None)
            payload = redact(error.body or str(error), self._secrets(client, call, sent_headers))
            return error_from(getattr(error, "code", None), payload)
        if isinstance(error, TypeError) or is_encoding_error(error):
            return InvalidRequest(f"The request holds a value that can't be sent ({type(error).__name__}: {error}).")
        if isinstance(error, ValueError | RecursionError):
            return MalformedResponse(f"The service sent broken JSON ({type(error).__name__}).")
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

    def _redact_unless_completion(
        self, data: Any, client: Any, call: ServiceCall, sent_headers: Mapping[str, str]
    ) -> Any:
        """Return a chat completion unchanged, and anything else redacted, because an error will quote it."""
        # The quick check comes first, because `is_readable_completion` makes an exception for each error that it reads.
        if may_be_completion(data) and is_readable_completion(data):
            return data
        return redact(data, self._secrets(client, call, sent_headers))


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


def _add_sent_headers(sent_headers: dict[str, str], request: Any) -> None:
    """Add the headers of a request, for redaction: a client of the caller may have got its key from a function."""
    sent_headers.update({name: HiddenStr(value) for name, value in request.headers.items()})
