"""A streamed answer, as callers hold it: an iterator, a context manager, and the message so far."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from typing import TYPE_CHECKING, Any

from modelport.errors import ModelError, StreamInterrupted
from modelport.types.deltas import ChatMessageStreamDelta, accumulate
from modelport.types.messages import ChatMessage

if TYPE_CHECKING:
    from types import TracebackType

    from modelport.runtime.portal import SyncIteration


async def interruptible(
    deltas: AsyncGenerator[ChatMessageStreamDelta, None],
    seen: list[ChatMessageStreamDelta],
    model_id: str | None,
    whole: bool = False,
) -> AsyncGenerator[ChatMessageStreamDelta, None]:
    """The deltas, noted in `seen`; a fault after the first part of an answer becomes `StreamInterrupted`.

    Where the caller waits for the `whole` answer and so has seen nothing of it, the fault stays what it is.
    """
    try:
        async for delta in deltas:
            seen.append(delta)
            yield delta
    except ModelError as error:
        error.model_id = error.model_id or model_id
        if error.__suppress_context__:
            # It was made of another library's exception, whose text and frames may hold a key: not even on request.
            error.__context__ = None
        if not error.interrupts or isinstance(error, StreamInterrupted) or not any(d.delivers for d in seen):
            raise
        partial = accumulate(seen, model_id)
        if whole:
            error.partial = partial
            raise
        cut = StreamInterrupted(
            f"The answer broke off: {error.message.rstrip('.')}. What had arrived is in the error's `partial`.",
            partial=partial,
            model_id=error.model_id,
            status=error.status,
            retry_after=error.retry_after,
        )
        cut.attempts = error.attempts
        raise cut from error
    finally:
        await deltas.aclose()


class _Answer:
    def __init__(self, deltas: AsyncGenerator[ChatMessageStreamDelta, None], model_id: str | None) -> None:
        self._read: list[ChatMessageStreamDelta] = []
        self._model_id = model_id
        self._deltas = interruptible(deltas, self._read, model_id)

    @property
    def message(self) -> ChatMessage:
        """The message so far, as it has been read; the whole one once the stream has ended."""
        return accumulate(self._read, self._model_id)

    @property
    def partial(self) -> Any:
        """The JSON of the answer so far: what is open yet ends where it is. `None` while there is none.

        It is parsed anew each time, and held against nothing; `message.parsed` is, at the end.
        """
        from pydantic_core import from_json

        try:
            return from_json(self.message.text, allow_partial="trailing-strings")
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._read)} deltas of {self._model_id!r})"


class Stream(_Answer):
    """The deltas of an answer, for synchronous code.

    The request is sent at the first `next`. `close()`, leaving a `with` block or dropping the stream stops the engine
    and returns the connection.
    """

    _reading: SyncIteration[ChatMessageStreamDelta] | None = None
    _closed = False

    def __init__(self, deltas: AsyncGenerator[ChatMessageStreamDelta, None], model_id: str | None) -> None:
        super().__init__(deltas, model_id)
        self._read = []  # The loop may be ahead of who reads here.

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> ChatMessageStreamDelta:
        if self._closed:
            raise StopIteration
        if self._reading is None:
            from modelport.runtime.portal import SyncIteration

            self._reading = SyncIteration(self._deltas)
        delta = self._reading.next()
        self._read.append(delta)
        return delta

    def close(self) -> None:
        """Stops the engine; returns when it has stopped."""
        self._closed = True
        if self._reading is not None:
            self._reading.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if self._reading is not None:
            self._reading.drop()

    def __reduce__(self) -> Any:
        raise TypeError("a stream can't be pickled; pickle its message")


class AsyncStream(_Answer):
    """The deltas of an answer, for asynchronous code; see `Stream`."""

    def __aiter__(self) -> AsyncStream:
        return self

    def __anext__(self) -> Awaitable[ChatMessageStreamDelta]:
        return self._deltas.__anext__()

    async def close(self) -> None:
        """Stops the engine; returns when it has stopped."""
        await self._deltas.aclose()

    aclose = close

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._deltas.aclose()

    def __reduce__(self) -> Any:
        raise TypeError("a stream can't be pickled; pickle its message")
