"""The lifetime of an engine in this process: each model has one engine per process.

`EngineModel` makes its engine at construction. After a fork, or after unpickling, the model makes a new engine at its
first use, because an engine's threads exist only in the process that started them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any, Generic, Protocol, TypeVar

from modelport.errors import InvalidRequest, ModelError
from modelport.local.bounds import check_bounds
from modelport.model import Model
from modelport.runtime.lifecycle import close_at_exit
from modelport.runtime.running_calls import model_closed as model_closed  # Engines import it from here.
from modelport.types.request import Request

#: How many tokens an engine collects before it passes them to the caller's event loop, unless `tokens_per_notification`
#: returns 1. Waking the loop takes 55 µs, which is too long to do so for each token.
TOKENS_PER_NOTIFICATION = 4


class Engine(Protocol):
    """The object that computes a model's output. It works only in the process that made it."""

    #: The id of the process that made the engine.
    pid: int

    def close(self) -> None:
        """Free the engine. Requests in progress end with an error.

        There are two exceptions: llama.cpp completes them first, and vLLM's engine runs as long as other models share
        it.
        """

    def detach_after_fork(self) -> None:
        """Make the parent's engine harmless in this process, a forked child.

        If the engine's destructor would wait for the parent's threads, ensure that it never runs in this process.
        """


E = TypeVar("E", bound=Engine)


class EngineModel(Model, Generic[E]):
    """A model whose engine runs in this process. A backend implements `_load_engine`."""

    #: Set by `_engine`; `None` before that, and after `close`. In a forked child, it is the parent's engine at first.
    _loaded_engine: E | None = None
    _closed = False

    def __init__(self, model_id: str | None = None, **settings: Any) -> None:
        super().__init__(model_id, **settings)
        check_bounds(settings)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_loaded_engine", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _load_engine(self) -> E:
        """Make the engine: at construction, and again in a process that was forked or that unpickles the model."""
        raise NotImplementedError

    def _engine(self) -> E:
        """Return this process's engine of the model; make it first if there is none.

        Raises:
            ModelClosed: The model has been closed.
        """
        if self._closed:
            raise model_closed()
        engine = self._loaded_engine
        if engine is None or engine.pid != os.getpid():
            if engine is not None:
                # This process is a forked child. A fork copies no threads, so the parent's engine does not run here,
                # and on most backends its destructor would wait for its threads for ever.
                engine.detach_after_fork()
                self._lock = threading.Lock()  # Another thread of the parent may have held the lock during the fork.
            with self._lock:
                engine = self._loaded_engine
                if engine is None or engine.pid != os.getpid():
                    engine = self._load_or_explain()
                    close_at_exit(engine)
                    self._loaded_engine = engine
        return engine

    def _load_or_explain(self) -> E:
        """Make the engine. Damaged files raise exceptions of many libraries, which become the cause of one error.

        Raises:
            ModelError: The engine can't be made.
        """
        try:
            return self._load_engine()
        except ModelError:
            raise
        except Exception as error:
            raise InvalidRequest(
                f"{self.model_id} could not be loaded ({type(error).__name__}: {error}). Are its files complete?"
            ) from error

    def release(self) -> None:
        """Free the engine and its memory. `close` calls this method: users call `close`, authors override this."""
        self._closed = True
        engine, self._loaded_engine = self._loaded_engine, None
        if engine is not None:
            engine.close()


def never_destroy(target: object) -> None:
    """Ensure that an object's destructor never runs, by adding a reference that is never released."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(target))


def check_integers(minimum: int, **settings: Any) -> None:
    """Check settings that must be integers or `None`.

    Args:
        minimum: The least value that is allowed.
        **settings: The settings by name.

    Raises:
        InvalidRequest: A setting has another type, is less than `minimum`, or is more than `bounds` allows.
    """
    check_bounds(settings)
    for name, value in settings.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < minimum):
            raise InvalidRequest(f"{name}={value!r}: must be an integer of at least {minimum}")


def tokens_per_notification(request: Request) -> int:
    """Return how many tokens an engine may collect before it passes them to the caller.

    Streams, stop sequences, and time limits between tokens need each token as soon as it is generated.
    """
    timeouts = request.timeouts
    needs_each_token = (
        request.stream
        or request.stop_sequences
        or timeouts.first_token_timeout is not None
        or timeouts.idle_timeout is not None
    )
    return 1 if needs_each_token else TOKENS_PER_NOTIFICATION
