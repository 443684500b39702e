"""How vLLM's processes start: without the caller's script, without Ctrl-C from the terminal, and without log output.

The rules:

- Where vLLM spawns a process, Python imports the caller's script in it first, and a script without
  `if __name__ == "__main__"` would load the model again. `without_caller_script` has the process import `process_main`
  instead.
- Only if `model_kwargs` contains a class of the script, the script is imported (`needs_caller_script`).
- A terminal sends Ctrl-C to every process, and vLLM takes it as the end of the engine. So the signal is masked in the
  processes (`without_interrupts`).
"""

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

from modelport.local.vllm import process_main

#: Environment variables that limit the log of vLLM's processes to errors. Each is set only if the user has not set it.
_QUIET_VARIABLES = {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_LOGS": "-all"}


def engine_processes() -> set[Any]:
    """Return the processes that vLLM has started from this process.

    The workers that those processes started are not included; they end together with them.
    """
    return {p for p in multiprocessing.active_children() if "EngineCore" in p.name or "Coordinator" in p.name}


def needs_caller_script(settings: Mapping[str, Any]) -> bool:
    """Return whether vLLM's processes need the caller's script, because the settings contain a class of it."""
    try:
        return b"__main__" in pickle.dumps(dict(settings))
    except Exception:
        return True


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Raise the error that ended a process started meanwhile, instead of an error that only says that it ended."""
    with tempfile.TemporaryDirectory(prefix="modelport-") as folder:
        report = Path(folder) / "report"
        os.environ[process_main.REPORT_VARIABLE] = str(report)
        try:
            yield
        except Exception as error:
            if report.exists():
                raise RuntimeError(report.read_text()) from error
            raise
        finally:
            os.environ.pop(process_main.REPORT_VARIABLE, None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Limit the log of the processes that start meanwhile to errors."""
    set_here = {name: value for name, value in _QUIET_VARIABLES.items() if name not in os.environ}
    os.environ.update(set_here)
    try:
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)


@contextlib.contextmanager
def without_caller_script() -> Iterator[None]:
    """Have the processes that this thread spawns import `process_main` instead of the caller's script."""
    from multiprocessing import spawn

    original, this_thread = spawn.get_preparation_data, threading.get_ident()

    def preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if threading.get_ident() == this_thread:
            data.pop("init_main_from_path", None)
            data["init_main_from_name"] = process_main.__name__
        return data

    spawn.get_preparation_data = preparation_data
    try:
        yield
    finally:
        spawn.get_preparation_data = original


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Have the processes that this thread starts inherit a signal mask that blocks Ctrl-C.

    A terminal sends Ctrl-C to every process. It is to end a call, and not the engine.
    """
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # Started later, it would clear the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
