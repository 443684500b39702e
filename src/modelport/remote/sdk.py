"""The way to the wire through a client of the `openai` package: the user's own, or one made from `client_kwargs`.

It goes through the client's generic `post`, which skips the re-typing of every message and chunk.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import contextmanager
from typing import Any

from modelport.chat_completions import error_from
from modelport.errors import ConnectionFailed, MalformedResponse, MissingDependency, ModelError
from modelport.remote.pools import PerLoop
from modelport.remote.transport import Call
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
        with self._errors():
            return await self._post(call)

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """See `Transport.stream`."""
        with self._errors():
            if self._sync:
                events: AsyncGenerator[Any, None] = iterate_in_thread(lambda emit: self._read(call, emit))
                async for event in events:
                    yield event
                return
            stream = await self._post(call, stream=True, stream_cls=self._openai.AsyncStream[object])
            try:
                async for event in stream:
                    yield event
            finally:
                await stream.close()

    async def aclose(self) -> None:
        """See `Transport.aclose`; a client of the user's is left open."""
        await self._clients.aclose()

    async def _post(self, call: Call, **how: Any) -> Any:
        client = self._client if self._make is None else await self._clients.get(self._make)
        arguments = {"body": call.body, "cast_to": object, "options": _options(call), **how}
        if self._sync:
            return await in_thread(lambda: client.post(f"/{call.path}", **arguments))
        return await client.post(f"/{call.path}", **arguments)

    def _read(self, call: Call, emit: Callable[[Any], bool]) -> None:
        stream = self._client.post(
            f"/{call.path}",
            body=call.body, cast_to=object, options=_options(call), stream=True, stream_cls=self._openai.Stream[object],
        )  # fmt: skip
        with stream:
            for event in stream:
                if emit(event):
                    return

    @contextmanager
    def _errors(self) -> Any:
        openai = self._openai
        try:
            yield
        except ModelError:
            raise
        except openai.APIStatusError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            payload = error.body if error.body is not None else error.response.text
            raise error_from(error.status_code, payload, headers) from None
        except openai.APITimeoutError:
            raise ConnectionFailed("The service did not answer within the client's time-out.") from None
        except openai.APIConnectionError as error:
            raise ConnectionFailed(
                f"No connection to the service: {type(error.__cause__ or error).__name__}."
            ) from None
        except openai.APIError as error:  # an error frame inside a stream
            raise error_from(getattr(error, "code", None), error.body or str(error)) from None
        except ValueError as error:
            raise MalformedResponse(f"The service sent broken JSON ({type(error).__name__}).") from None
        except Exception as error:
            # Faults in the middle of a stream come as the HTTP library's own in some versions of the SDK.
            if not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            if type(error).__name__ == "RemoteProtocolError":
                raise MalformedResponse("The service's answer was cut short.") from None
            raise ConnectionFailed(f"The connection to the service broke ({type(error).__name__}).") from None


def _options(call: Call) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if call.headers:
        options["headers"] = dict(call.headers)
    if call.query:
        options["params"] = dict(call.query)
    return options
