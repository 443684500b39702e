"""How vLLM's processes start: apart from the caller's script, out of reach of the terminal, and quiet."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelport.local.vllm import child

#: What keeps vLLM's processes from chatting on standard error; each only where the user has not set it.
_QUIET = {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_LOGS": "-all"}


def processes() -> set[Any]:
    """Those that vLLM has started here; their own workers are not among them, and end with them."""
    return {p for p in multiprocessing.active_children() if "EngineCore" in p.name or "Coordinator" in p.name}


def begins_apart(settings: Mapping[str, Any]) -> bool:
    """Whether the engine's processes need nothing of the caller's script: no class of it is in the settings."""
    try:
        return b"__main__" not in pickle.dumps(dict(settings))
    except Exception:
        return False


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Says what a process that starts meanwhile has died of, in place of an error that only says that it has."""
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        report = Path(folder) / "report"
        os.environ[child.REPORT] = str(report)
        try:
            yield
        except Exception as error:
            if report.exists():
                raise RuntimeError(report.read_text()) from error
            raise
        finally:
            os.environ.pop(child.REPORT, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Has the processes that start meanwhile keep to their errors."""
    set_here = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(set_here)
    try:
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Has the processes that this thread spawns begin without the caller's script.

    They would import it first, and a script without `if __name__ == "__main__":` would load the model in them again.
    """
    from multiprocessing import spawn

    original, here = spawn.get_preparation_data, threading.get_ident()

    def prepared(name: str) -> dict[str, Any]:
        data = original(name)
        if threading.get_ident() == here:
            data.pop("init_main_from_path", None)
            data["init_main_from_name"] = child.__name__
        return data

    spawn.get_preparation_data = prepared
    try:
        yield
    finally:
        spawn.get_preparation_data = original


@contextlib.contextmanager
def out_of_reach_of_the_terminal() -> Iterator[None]:
    """Has the processes that this thread starts inherit a mask that keeps Ctrl-C from them.

    A terminal sends it to every process; it is to end a call, not the engine.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # else it is started on the way, which clears the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
