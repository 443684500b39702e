"""Streams: the deltas of a response as callers read them, and the message so far."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from modelport.errors import ModelError, StreamInterrupted
from modelport.types.deltas import ChatMessageStreamDelta, MessageBuilder
from modelport.types.messages import ChatMessage

if TYPE_CHECKING:
    from types import TracebackType

    from modelport.runtime.portal import SyncIteration

#: Runs a call: it yields the deltas of the response, and adds each to the builder.
Run = Callable[[MessageBuilder], AsyncGenerator[ChatMessageStreamDelta, None]]


def with_partial(error: ModelError, response: MessageBuilder, model_id: str | None, *, stream: bool) -> ModelError:
    """Return the error that the caller gets, with what had arrived of the response.

    Args:
        error: The error that ended the call.
        response: What had arrived.
        model_id: The model that was called.
        stream: Whether the caller has received what had arrived. The error then becomes `StreamInterrupted`, with the
            original as its cause; otherwise it stays what it is.
    """
    error.model_id = error.model_id or model_id
    if error.__suppress_context__:
        # The error was made from another library's exception, whose text and frames may hold a key.
        error.__context__ = None
    if not error.interrupts or isinstance(error, StreamInterrupted) or not response.delivered:
        return error
    if not stream:
        error.partial = response.message()
        return error
    interrupted = StreamInterrupted(
        f"The response was interrupted: {error.message.rstrip('.')}. The error's `partial` holds what had arrived.",
        partial=response.message(),
        model_id=error.model_id,
        status=error.status,
        retry_after=error.retry_after,
    )
    interrupted.attempts = error.attempts
    interrupted.__cause__ = error
    return interrupted


class _ResponseStream:
    """What the streams for synchronous and asynchronous code have in common.

    Args:
        run: Starts the call.
        model_id: The model that is called.
    """

    def __init__(self, run: Run, model_id: str | None) -> None:
        self._response = MessageBuilder(model_id)
        self._model_id = model_id
        self._deltas = run(self._response)

    @property
    def message(self) -> ChatMessage:
        """The message so far, as the caller has read it; the complete one once the stream has ended."""
        return self._response.message()

    @property
    def partial(self) -> Any:
        """The JSON of the response so far. Strings, lists and objects that are still open end where the text ends.

        The text is parsed at each access, and not validated; `message.parsed` is validated, at the end. `None` while
        there is no JSON.
        """
        from pydantic_core import from_json

        try:
            return from_json(self.message.text, allow_partial="trailing-strings")
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model_id!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a stream can't be pickled; pickle its message")


class Stream(_ResponseStream):
    """The deltas of a response, for synchronous code.

    The request is sent at the first `next`. `close()`, the end of a `with` block and the deletion of the stream each
    stop the engine and return the connection.
    """

    _iteration: SyncIteration[ChatMessageStreamDelta] | None = None
    _closed = False

    def __init__(self, run: Run, model_id: str | None) -> None:
        super().__init__(run, model_id)
        # The event loop may be ahead of the caller, so what the caller has read is added up apart.
        self._response = MessageBuilder(model_id)

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> ChatMessageStreamDelta:
        if self._closed:
            raise StopIteration
        if self._iteration is None:
            from modelport.runtime.portal import SyncIteration

            self._iteration = SyncIteration(self._deltas)
        delta = self._iteration.next()
        self._response.add(delta)
        return delta

    def close(self) -> None:
        """Stop the engine, and return when it has stopped."""
        self._closed = True
        if self._iteration is not None:
            self._iteration.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._iteration is not None:
            self._iteration.drop()


class AsyncStream(_ResponseStream):
    """The deltas of a response, for asynchronous code; see `Stream`."""

    def __aiter__(self) -> AsyncStream:
        return self

    def __anext__(self) -> Awaitable[ChatMessageStreamDelta]:
        return self._deltas.__anext__()

    async def close(self) -> None:
        """Stop the engine, and return when it has stopped."""
        await self._deltas.aclose()

    aclose = close

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._deltas.aclose()
