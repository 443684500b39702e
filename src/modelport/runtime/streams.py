"""Streams: the deltas of a response as callers read them, and the message so far."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Generic, NoReturn

from modelport.errors import ModelError, StreamInterrupted
from modelport.schema.json_text import json_size_problem
from modelport.types.deltas import ChatMessageStreamDelta, MessageBuilder
from modelport.types.messages import ChatMessage
from modelport.types.parsed import Parsed

if TYPE_CHECKING:
    from types import TracebackType

    from modelport.runtime.portal import SyncIteration


def raise_with_partial(
    error: ModelError, response: MessageBuilder, model_id: str | None, *, streamed: bool
) -> NoReturn:
    """Raise the error that ended a call, with the part of the response that had arrived as `error.partial`.

    An error about the content of the response, such as `InvalidOutput`, is raised unchanged (`interrupts` is False).

    Args:
        error: The error that ended the call.
        response: The part of the response that had arrived.
        model_id: The model that was called.
        streamed: Whether the caller reads a stream, and so has read that part already. If there is such a part, the
            exception is `StreamInterrupted`, with `error` as its cause.
    """
    error.model_id = error.model_id or model_id
    if error.partial is not None:
        error.partial.token_usage = error.token_usage or error.partial.token_usage
    if error.__suppress_context__:
        # `raise … from None` made the error from another library's exception, whose text and frames may contain an API
        # key.
        error.__context__ = None
    if not error.reported_as_interruption or isinstance(error, StreamInterrupted) or not response.has_output:
        raise error
    partial = response.message()
    partial.token_usage = error.token_usage = error.token_usage or partial.token_usage
    if not streamed:
        error.partial = partial
        raise error
    interrupted = StreamInterrupted(
        f"The response was interrupted: {error.message.rstrip('.')}. The error's `partial` holds what had arrived.",
        partial=partial,
        model_id=error.model_id,
        status=error.status,
        retry_after=error.retry_after,
    )
    interrupted.attempts, interrupted.token_usage = error.attempts, error.token_usage
    raise interrupted from error


class _ResponseStream(Generic[Parsed]):
    """What the streams for synchronous and asynchronous code have in common.

    Args:
        deltas: The deltas of the response; reading the first one sends the request.
        model_id: The model that is called.
    """

    def __init__(self, deltas: AsyncGenerator[ChatMessageStreamDelta, None], model_id: str | None) -> None:
        self._deltas = deltas
        self._model_id = model_id
        self._response = MessageBuilder(model_id)

    @property
    def message(self) -> ChatMessage[Parsed]:
        """The message made of the deltas that were read so far; the complete message once the stream has ended."""
        return self._response.message()

    @property
    def partial(self) -> Any:
        """The text so far, parsed as JSON. Strings, lists and objects that are incomplete end where the text ends.

        This is a JSON value, unlike the `partial` of an error, which is a message. It is `None` while the text is not
        the beginning of JSON, and if it is too large to be read. The text is parsed at each access and not validated;
        `message.parsed` holds the validated value at the end of the stream.
        """
        from pydantic_core import from_json

        text = self._response.text
        if json_size_problem(text) is not None:
            return None
        try:
            return from_json(text, allow_partial="trailing-strings")
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model_id!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a stream can't be pickled; pickle its message")


class Stream(_ResponseStream[Parsed]):
    """The deltas of a response, for synchronous code.

    The request is sent at the first `next`. `close()`, the end of a `with` block and the deletion of the stream each
    stop the engine and release the connection.
    """

    _iteration: SyncIteration[ChatMessageStreamDelta] | None = None
    _closed = False

    def __iter__(self) -> Stream[Parsed]:
        return self

    def __next__(self) -> ChatMessageStreamDelta:
        if self._closed:
            raise StopIteration
        if self._iteration is None:
            from modelport.runtime.portal import SyncIteration

            self._iteration = SyncIteration(self._deltas)
        try:
            delta = self._iteration.next()
        except ModelError as error:
            raise_with_partial(error, self._response, self._model_id, streamed=True)
        self._response.add(delta)
        return delta

    def close(self) -> None:
        """Stop the engine, and return when it has stopped."""
        self._closed = True
        if self._iteration is not None:
            self._iteration.close()

    def __enter__(self) -> Stream[Parsed]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._iteration is not None:
            self._iteration.drop()


class AsyncStream(_ResponseStream[Parsed]):
    """The deltas of a response, for asynchronous code; see `Stream`."""

    def __aiter__(self) -> AsyncStream[Parsed]:
        return self

    async def __anext__(self) -> ChatMessageStreamDelta:
        try:
            delta = await self._deltas.__anext__()
        except ModelError as error:
            raise_with_partial(error, self._response, self._model_id, streamed=True)
        self._response.add(delta)
        return delta

    async def close(self) -> None:
        """Stop the engine, and return when it has stopped."""
        await self._deltas.aclose()

    aclose = close

    async def __aenter__(self) -> AsyncStream[Parsed]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._deltas.aclose()
