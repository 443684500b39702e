"""The way to the wire through a client of the `openai` package: the user's own, or one made from `client_kwargs`.

It goes through the client's generic `post`, which skips the re-typing of every message and chunk.
"""

from __future__ import annotations

import inspect
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from modelport.chat_completions import error_from
from modelport.errors import ConnectionFailed, InvalidRequest, MalformedResponse, MissingDependency, ModelError
from modelport.remote.pools import PerLoop
from modelport.remote.transport import Call, without_secrets
from modelport.threads import in_thread, iterate_in_thread


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
    """

    def __init__(self, client: Any = None, make: Callable[[], Any] | None = None) -> None:
        self._openai = openai_package()
        self._client: Any = None if client is None else client.with_options(max_retries=0)
        self._sync = client is not None and not inspect.iscoroutinefunction(client.post)
        self._make = make
        self._clients: PerLoop[Any] = PerLoop(lambda made: made.close())

    async def call(self, call: Call) -> Any:
        """See `Transport.call`."""
        client = await self._client_here()
        try:
            if self._sync:
                answer = await in_thread(lambda: self._post(client, call))
            else:
                answer = await self._post(client, call)
        except Exception as error:
            if (ours := self._translated(error, client, call)) is None:
                raise
            raise ours from None
        return _shown(answer, client, call)

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        client = await self._client_here()
        if self._sync:
            events: AsyncGenerator[Any, None] = iterate_in_thread(lambda emit: self._read(client, call, emit))
        else:
            events = self._events(client, call)
        try:
            async with aclosing(events):
                async for event in events:
                    yield _shown(event, client, call)
        except Exception as error:
            if (ours := self._translated(error, client, call)) is None:
                raise
            raise ours from None

    async def aclose(self) -> None:
        """See `Transport.aclose`; a client of the user's is left open."""
        await self._clients.aclose()

    async def _client_here(self) -> Any:
        if self._make is None:
            return self._client
        try:
            return await self._clients.get(self._make)
        except self._openai.OpenAIError as error:
            raise InvalidRequest(f"the openai package refuses its settings: {error}") from None

    def _post(self, client: Any, call: Call, **how: Any) -> Any:
        options: dict[str, Any] = {}
        if call.headers:
            options["headers"] = dict(call.headers)
        if call.query:
            options["params"] = dict(call.query)
        return client.post(f"/{call.path}", body=call.body, cast_to=object, options=options, **how)

    async def _events(self, client: Any, call: Call) -> AsyncGenerator[Any, None]:
        stream = await self._post(client, call, stream=True, stream_cls=self._openai.AsyncStream[object])
        try:
            async for event in stream:
                yield event
        finally:
            await stream.close()

    def _read(self, client: Any, call: Call, emit: Callable[[Any], bool]) -> None:
        with self._post(client, call, stream=True, stream_cls=self._openai.Stream[object]) as stream:
            for event in stream:
                if emit(event):
                    return

    def _translated(self, error: Exception, client: Any, call: Call) -> ModelError | None:
        """What an error of the SDK means; `None` for one that is not the SDK's."""
        openai = self._openai
        if isinstance(error, ModelError):
            return error
        if isinstance(error, openai.APIStatusError):
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            payload = error.body if error.body is not None else error.response.text
            return error_from(error.status_code, _clean(payload, client, call), headers)
        if isinstance(error, openai.APITimeoutError):
            return ConnectionFailed("The service did not answer within the client's time-out.")
        if isinstance(error, openai.APIConnectionError):
            return connection_error(error.__cause__ or error)
        if isinstance(error, openai.APIError):  # an error frame inside a stream
            return error_from(getattr(error, "code", None), _clean(error.body or str(error), client, call))
        if isinstance(error, ValueError):
            return MalformedResponse(f"The service sent broken JSON ({type(error).__name__}).")
        # Faults in the middle of a stream come as the HTTP library's own in some versions of the SDK.
        if type(error).__module__.startswith(("httpx", "httpcore")):
            return connection_error(error)
        return None


def connection_error(error: BaseException) -> ModelError:
    """What a fault of the HTTP library (httpx or httpx2) means."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = cause.verify_message
            return ConnectionFailed(f"The service's certificate was not accepted: {why}.", retryable=False)
        cause = cause.__cause__ or cause.__context__
    kind = type(error).__name__
    if kind == "LocalProtocolError":
        return InvalidRequest("The request can't be sent: a header's value must be one line of text.")
    # One class for two faults: an answer that was cut short, and none at all.
    if kind == "RemoteProtocolError" and "complete message body" in str(error):
        return MalformedResponse("The service's answer was cut short: its body ended before its length said so.")
    return ConnectionFailed(f"The connection to the service failed ({kind}).")


def _clean(payload: Any, client: Any, call: Call) -> Any:
    """What the service says, without the keys that it was sent."""
    sent = {"authorization": getattr(client, "api_key", ""), **client.default_headers, **call.headers}
    headers = {name: value for name, value in sent.items() if isinstance(value, str)}
    return json.loads(without_secrets(json.dumps(payload, ensure_ascii=False, default=str).encode(), headers))


def _shown(event: Any, client: Any, call: Call) -> Any:
    """The event; cleaned where it is no part of an answer, and so about to be quoted."""
    is_answer = isinstance(event, dict) and "choices" in event and "error" not in event
    return event if is_answer else _clean(event, client, call)
