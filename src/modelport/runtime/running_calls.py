"""The calls of a model that run, and how closing the model ends them.

Theory of operation:

- A call registers (`RunningCalls.start`) when its first delta is read, and is removed when its generator ends. A model
  that is closed refuses the call.
- A call has readers: objects such as the timer of an attempt, which know the task that reads at the moment. Ending the
  call (`RunningCall.end`) cancels these tasks, and the readers turn the cancellation into `ModelClosed`. So a call that
  waits for a service, an engine, a rate limit or its next attempt ends at once, and frees what it used as any cancelled
  call does.
- Between two deltas of a stream, no task reads, and its consumer may never read again. Then the generator is closed,
  which releases the engine or the connection, and the next read raises the error.
- `RunningCalls.close` may be called in any thread. It waits until the calls have ended, except for those that cannot
  end meanwhile: calls on the event loop that this thread runs, or on a loop that stands still, and the call that itself
  is closing the model.
- Registering a call adds no work to its deltas.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from modelport.errors import InvalidRequest, ModelClosed, ModelError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from modelport.types.request import Timeouts

#: Seconds between two checks whether the calls have ended.
_POLL_SECONDS = 0.005

#: The longest time that calls get to end by themselves, in seconds: a day.
_MAX_DRAIN = 86_400


def check_drain(drain: Any) -> None:
    """Check the time for which `close` waits for calls.

    Raises:
        InvalidRequest: It is not a number of seconds, or is too long.
    """
    if isinstance(drain, bool) or not isinstance(drain, int | float) or not 0 <= drain <= _MAX_DRAIN:
        shown = repr(drain) if not isinstance(drain, int) or abs(drain) < 10**20 else "a larger number"
        raise InvalidRequest(f"drain={shown}: must be a number of seconds, at least 0 and at most {_MAX_DRAIN} (a day)")


#: The task that awaits `aclose`, in the thread that closes the model for it.
_closing_task: ContextVar[asyncio.Task[Any] | None] = ContextVar("modelport_closing_task", default=None)


class Reader(Protocol):
    """Something that reads deltas for a call, and can end the read."""

    @property
    def reader(self) -> asyncio.Task[Any] | None:
        """The task that reads at the moment; `None` if none does."""
        ...

    def end(self, error: ModelError, spared: asyncio.Task[Any] | None) -> None:
        """Raise the error in the current read and in later ones. The task `spared` is not cancelled."""
        ...


class RunningCall:
    """A call that runs.

    Args:
        loop: The event loop on which it runs.
        deltas: The generator from which its deltas are read.

    Attributes:
        process_id: The process in which it began.
        readers: What reads its deltas at the moment.
        error: The error that has ended the call; `None` while it goes on.
    """

    __slots__ = (
        "loop",
        "deltas",
        "process_id",
        "close_deltas",
        "readers",
        "error",
        "reference",
        "_closing",
        "__weakref__",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, deltas: Any) -> None:
        self.loop, self.deltas, self.process_id = loop, deltas, os.getpid()
        #: Closes the generators of the call.
        self.close_deltas: Callable[[], Any] | None = None
        self.readers: list[Reader] = []
        self.error: ModelError | None = None
        self.reference: weakref.ref[RunningCall] | None = None
        self._closing: asyncio.Task[None] | None = None

    def end(self, spared: asyncio.Task[Any] | None, calls: RunningCalls) -> None:
        """End the call with an error. This method runs on the call's event loop."""
        if self.error is not None:
            return
        self.error = ModelClosed("this model was closed while the call was in progress")
        for reader in reversed(self.readers):  # The innermost is last.
            reader.end(self.error, spared)
        if not getattr(self.deltas, "ag_running", True):
            self._closing = self.loop.create_task(self._close(calls))

    async def _close(self, calls: RunningCalls) -> None:
        try:
            await (self.deltas.aclose() if self.close_deltas is None else self.close_deltas())
        finally:
            calls.remove(self)

    def __reduce__(self) -> Any:
        return type(None), ()  # A copy of a request is no running call.

    async def raise_error(self) -> None:
        """Raise the error that has ended the call, when its generators are closed."""
        import asyncio

        if self._closing is not None:
            await asyncio.wait([self._closing])
        if self.error is not None:
            raise self.error


class RunningCalls:
    """The calls of a model that run. Any thread may use it.

    Attributes:
        closed: Whether the model has been closed.
    """

    def __init__(self) -> None:
        self.closed = False
        # A generator whose event loop has ended may be garbage-collected without ever ending. So the references are
        # weak. The operations of a set are atomic, so there is no lock that a fork could leave locked in the child.
        self._calls: set[weakref.ref[RunningCall]] = set()

    def start(self, timeouts: Timeouts, loop: asyncio.AbstractEventLoop, deltas: Any) -> RunningCall:
        """Register a call that begins.

        Raises:
            ModelClosed: The model has been closed.
        """
        call = timeouts.call = RunningCall(loop, deltas)
        call.reference = reference = weakref.ref(call, self._calls.discard)
        self._calls.add(reference)
        if self.closed:  # This is checked last. Otherwise `close` in another thread could miss the call.
            self._calls.discard(reference)
            raise model_closed()
        return call

    def remove(self, call: RunningCall) -> None:
        """Remove a call that has ended."""
        assert call.reference is not None
        self._calls.discard(call.reference)

    def close(self, drain: float) -> None:
        """Refuse new calls, wait for those that run, and then end those that still run.

        Args:
            drain: How long to wait for them, in seconds.
        """
        check_drain(drain)
        self.closed = True
        if not self._running():
            return
        from modelport.runtime.lifecycle import CLOSE_TIMEOUT

        spared, own_loop = _closing_task.get(), running_loop()
        self._wait(drain, spared, own_loop)
        by_loop: dict[asyncio.AbstractEventLoop, list[RunningCall]] = {}
        for call in self._running():
            by_loop.setdefault(call.loop, []).append(call)
        for loop, calls in by_loop.items():
            try:
                # All calls of a loop are ended in one step, because one call may have begun another.
                loop.call_soon_threadsafe(_end_all, calls, spared, self)
            except RuntimeError:
                pass  # The loop is closed, and its calls can never go on.
        self._wait(CLOSE_TIMEOUT, spared, own_loop)

    def _running(self) -> list[RunningCall]:
        """Return the calls that run. In a forked process, those of its parent don't."""
        calls = [reference() for reference in list(self._calls)]
        return [call for call in calls if call is not None and call.process_id == os.getpid()]

    def _wait(self, seconds: float, spared: asyncio.Task[Any] | None, own_loop: Any) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(
            call.loop is not own_loop and call.loop.is_running() and not _is_read_by(call, spared)
            for call in self._running()
        ):
            time.sleep(_POLL_SECONDS)


def calls_of(model: Any) -> RunningCalls:
    """Return the running calls of a model. All objects and threads that share its state have one `RunningCalls`."""
    calls: RunningCalls = vars(model).setdefault("_running_calls", RunningCalls())
    return calls


def model_closed(model_id: str | None = None) -> ModelError:
    """Return the error of a call on a model that has been closed."""
    return ModelClosed("this model has been closed; make a new one", model_id=model_id)


async def close_in_thread(close: Callable[[], None]) -> None:
    """Close a model in a thread, while the event loop goes on.

    The call that awaits this, if it is a call of the model itself, is not waited for. It is ended when it reads on.
    """
    import asyncio

    from modelport.runtime.threads import in_thread

    task = asyncio.current_task()

    def work() -> None:
        _closing_task.set(task)  # In the copy of the context in which this function runs.
        close()

    await in_thread(work)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or `None`."""
    import asyncio

    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _end_all(calls: Iterable[RunningCall], spared: asyncio.Task[Any] | None, registry: RunningCalls) -> None:
    for call in calls:
        call.end(spared, registry)


def _is_read_by(call: RunningCall, task: asyncio.Task[Any] | None) -> bool:
    return task is not None and any(reader.reader is task for reader in list(call.readers))
