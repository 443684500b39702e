"""What every model with an engine in this process shares: one engine per process, closed once."""

from __future__ import annotations

import os
import threading
from typing import Any, Generic, Protocol, TypeVar

from modelport.errors import ModelError
from modelport.loop import close_at_exit
from modelport.model import Model


class Engine(Protocol):
    """An engine, in the process that made it."""

    pid: int

    def close(self) -> None:
        """Frees it; requests under way end with an error."""

    def leak(self) -> None:
        """Keeps the engine of the parent process from ever being destroyed in this one."""


E = TypeVar("E", bound=Engine)


class EngineModel(Model, Generic[E]):
    """A model whose engine runs in this process. A backend writes `_load`."""

    _loaded: E | None = None
    _closed = False

    def __init__(self, model_id: str | None = None, **settings: Any) -> None:
        super().__init__(model_id, **settings)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key not in ("_loaded", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _load(self) -> E:
        """Makes the engine; called at construction, and again in a process that was forked or that unpickles."""
        raise NotImplementedError

    def _engine(self) -> E:
        if self._closed:
            raise ModelError("this model has been closed; make a new one")
        engine = self._loaded
        if engine is None or engine.pid != os.getpid():
            if engine is not None:
                # A fork copies no threads: the parent's engine is dead here, and destroying it would wait for them.
                engine.leak()
                self._lock = threading.Lock()
            with self._lock:
                engine = self._loaded
                if engine is None or engine.pid != os.getpid():
                    engine = self._load()
                    close_at_exit(engine)
                    self._loaded = engine
        return engine

    def close(self) -> None:
        """Frees the engine and its memory; requests under way end with an error."""
        self._closed = True
        engine, self._loaded = self._loaded, None
        if engine is not None:
            engine.close()
