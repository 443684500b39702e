"""The way to the wire through a client of the `openai` package: the user's own, or one made from `client_kwargs`.

It goes through the client's generic `post`, which skips the re-typing of every message and chunk.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, MissingDependency, ModelError
from modelport.protocols.chat_completions.errors import error_from
from modelport.remote.http.errors import httpx_error, is_of_httpx, is_unsendable, redirected
from modelport.remote.http.outgoing import check_headers, pairs
from modelport.remote.http.redaction import Hidden, hidden, secrets_in, without_secrets
from modelport.remote.http.responses import is_answer, is_readable
from modelport.remote.http.transport import HeaderSource, ServiceCall
from modelport.remote.http.vendor_clients import guard
from modelport.runtime.per_loop import PerLoop
from modelport.runtime.threads import in_thread, iterate_in_thread


def openai_package() -> Any:
    """The `openai` package.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import openai
    except ImportError:
        raise MissingDependency("openai", "openai") from None
    return openai


class SDKTransport:
    """The wire through an SDK client, its own retries switched off.

    Args:
        client: A client of the user's, synchronous or asynchronous; an asynchronous one is used on every loop that
            makes calls, as it is.
        make: Makes an asynchronous client, one for each loop, where there is no `client`.
        headers: Gives the headers of each call, where a function of the user's gives the key: not every version of the
            SDK takes one, and none shows what it gave.
    """

    def __init__(
        self, client: Any = None, make: Callable[[], Any] | None = None, headers: HeaderSource | None = None
    ) -> None:
        self._openai = openai_package()
        if client is not None and not (hasattr(client, "with_options") and hasattr(client, "post")):
            raise InvalidRequest(
                f"client must be an OpenAI or AsyncOpenAI of the openai package, not {type(client).__name__}"
            )
        self._client: Any = None if client is None else client.with_options(max_retries=0)
        self._sync = client is not None and not inspect.iscoroutinefunction(client.post)
        self._make = make
        self._headers = headers
        self._clients: PerLoop[Any] = PerLoop(lambda made: made.close())

    async def call(self, call: ServiceCall) -> Any:
        """See `Transport.call`."""
        client, call = await self._client_here(), await self._keyed(call)
        sent: dict[str, str] = {}
        raw = {"X-Stainless-Raw-Response": "true"} if self._make is None else {}  # shows what the client sent
        try:
            if self._sync:
                answer = await in_thread(lambda: self._post(client, call, raw))
            else:
                answer = await self._post(client, call, raw)
            if raw:
                _note(sent, answer.http_request)
                answer = answer.parse()
            return self._shown(answer, client, call, sent)
        except Exception as error:
            if (ours := self._translated(error, client, call)) is None:
                raise
        raise ours  # here, where the SDK's error is no more: the locals of its frames show what was sent

    async def stream(self, call: ServiceCall) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        client, call = await self._client_here(), await self._keyed(call)
        sent: dict[str, str] = {}
        if self._sync:
            events: AsyncGenerator[Any, None] = iterate_in_thread(lambda emit: self._read(client, call, emit, sent))
        else:
            events = self._events(client, call, sent)
        try:
            async with aclosing(events):
                async for event in events:
                    yield self._shown(event, client, call, sent)
            return
        except Exception as error:
            if (ours := self._translated(error, client, call)) is None:
                raise
        raise ours  # as above

    async def aclose(self) -> None:
        """See `Transport.aclose`; a client of the user's is left open."""
        await self._clients.aclose()

    async def _client_here(self) -> Any:
        if self._make is None:
            return self._client
        try:
            return await self._clients.get(self._made)
        except (self._openai.OpenAIError, TypeError) as error:
            raise InvalidRequest(f"the openai package refuses its settings: {error}") from None

    def _made(self) -> Any:
        assert self._make is not None
        client = self._make()
        if hasattr(wire := getattr(client, "_client", None), "event_hooks"):
            guard(wire)
        return client

    async def _keyed(self, call: ServiceCall) -> ServiceCall:
        if self._headers is not None:
            given = (await self._headers()).items()
            call = replace(call, headers={**{name: hidden(value) for name, value in given}, **call.headers})
        check_headers(call.headers)
        return call

    def _post(self, client: Any, call: ServiceCall, headers: Mapping[str, str] | None = None, **how: Any) -> Any:
        # Versions of the SDK that don't know this option follow, but for a client that is made here.
        options: dict[str, Any] = {"follow_redirects": False}
        if call.headers or headers:
            options["headers"] = {**call.headers, **(headers or {})}
        if call.query:
            options["params"] = dict(call.query)
        path = str(client.base_url.join(call.path)) if call.path[0] == "/" else f"/{call.path}"
        return client.post(path, body=call.body, cast_to=object, options=options, **how)

    async def _events(self, client: Any, call: ServiceCall, sent: dict[str, str]) -> AsyncGenerator[Any, None]:
        stream = await self._post(client, call, stream=True, stream_cls=self._openai.AsyncStream[object])
        _note(sent, stream.response.request)
        events = aiter(stream)
        try:
            async for event in events:
                yield event
        finally:
            await stream.close()
            with suppress(Exception):  # ends the client's generators in order; Python would in any, and may complain
                async for _ in events:
                    pass

    def _read(self, client: Any, call: ServiceCall, emit: Callable[[Any], bool], sent: dict[str, str]) -> None:
        with self._post(client, call, stream=True, stream_cls=self._openai.Stream[object]) as stream:
            _note(sent, stream.response.request)
            for event in stream:
                if emit(event):
                    return

    def _translated(self, error: Exception, client: Any, call: ServiceCall) -> ModelError | None:
        """What an error of the SDK means; `None` for one that is not the SDK's."""
        openai = self._openai
        for ours in (error, error.__cause__):
            if isinstance(ours, ModelError):  # of our own `guard`
                return ours.with_traceback(None)  # whose frames hold what was sent
        if (found := _without_body(error)) is not None:
            return error_from(found.status_code, "its reason did not come whole", found.headers)
        if isinstance(error, openai.APIStatusError) and error.status_code < 400:
            secrets = self._secrets(client, call, error.request.headers)
            return redirected(error.status_code, error.response.headers, secrets)
        if isinstance(error, openai.APIStatusError):
            payload = error.body if error.body is not None else error.response.text
            return error_from(
                error.status_code, self._clean(payload, client, call, error.request.headers), error.response.headers
            )
        if isinstance(error, openai.APITimeoutError):
            return ConnectionFailed("The service did not answer within the client's time-out.")
        if isinstance(error, openai.APIConnectionError):
            return httpx_error(error.__cause__ or error)
        if isinstance(error, openai.APIError):  # an error frame inside a stream
            sent = getattr(getattr(error, "request", None), "headers", None)
            return error_from(getattr(error, "code", None), self._clean(error.body or str(error), client, call, sent))
        if isinstance(error, TypeError) or is_unsendable(error):
            return InvalidRequest(f"The request holds what can't be sent ({type(error).__name__}: {error}).")
        if isinstance(error, ValueError | RecursionError):
            return MalformedResponse(f"The service sent broken JSON ({type(error).__name__}).")
        # Faults in the middle of a stream come as the HTTP library's own in some versions of the SDK.
        if is_of_httpx(error):
            return httpx_error(error)
        return None

    def _secrets(self, client: Any, call: ServiceCall, sent: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """What a call was sent with and no error may show."""
        query = {**getattr(client, "default_query", {}), **call.query}
        key = {"authorization": getattr(client, "api_key", "")}
        return secrets_in(key, client.default_headers, call.headers, sent or {}, dict(pairs(query)))

    def _clean(self, payload: Any, client: Any, call: ServiceCall, headers: Mapping[str, str] | None = None) -> Any:
        """What the service says, without the keys that it was sent."""
        return without_secrets(payload, self._secrets(client, call, headers))

    def _shown(self, event: Any, client: Any, call: ServiceCall, sent: Mapping[str, str]) -> Any:
        """The event; cleaned where it is no part of an answer, and so about to be quoted."""
        return event if is_answer(event) and is_readable(event) else self._clean(event, client, call, sent)


def _without_body(error: BaseException) -> Any:
    """The response with an error's status whose body could not be read, if that is what failed in a user's client."""
    cause: BaseException | None = error if is_of_httpx(error) else None
    while cause is not None:
        if type(cause).__name__ == "HTTPStatusError":
            return getattr(cause, "response", None)
        cause = cause.__context__
    return None


def _note(sent: dict[str, str], request: Any) -> None:
    """Keeps the headers of a request: a client of the user's may have got its token from a function."""
    sent.update({name: Hidden(value) for name, value in request.headers.items()})
