"""What every model with an engine in this process shares: one engine per process, closed once."""

from __future__ import annotations

import os
import threading
from difflib import get_close_matches
from inspect import signature
from typing import Any, Generic, Protocol, TypeVar

from modelport.errors import ModelError, UnsupportedFeature
from modelport.inputs.parameters import CALL_OPTIONS
from modelport.model import Model
from modelport.runtime.lifecycle import close_at_exit


class Engine(Protocol):
    """An engine, in the process that made it."""

    pid: int

    def close(self) -> None:
        """Frees it; requests under way end with an error."""

    def detach_after_fork(self) -> None:
        """Keeps the engine of the parent process from ever being destroyed in this one."""


E = TypeVar("E", bound=Engine)


class EngineModel(Model, Generic[E]):
    """A model whose engine runs in this process. A backend writes `_load`."""

    _loaded: E | None = None
    _closed = False

    def __init__(self, model_id: str | None = None, **settings: Any) -> None:
        super().__init__(model_id, **settings)
        self._lock = threading.Lock()
        self._check_parameters()

    def _check_parameters(self) -> None:
        """Refuses what is neither a setting of this class nor a parameter of its engine: here, not at the first call.

        Raises:
            UnsupportedFeature: It was given to the constructor.
        """
        extra = self.declared_capabilities.merged_with(self._given_capabilities).extra_parameters
        if extra is None:
            return
        for name in self._options or ():
            if name not in (known := CALL_OPTIONS | extra):
                settings = {*signature(type(self)).parameters, *signature(Model).parameters}
                close = get_close_matches(name, known | settings, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                cls = type(self).__name__
                raise UnsupportedFeature(
                    f"{cls}({name}=…): {name!r} is no setting of {cls} and no parameter of its engine{hint}",
                    parameter=name,
                )

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
                engine.detach_after_fork()
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
