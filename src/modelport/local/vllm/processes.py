"""How vLLM's processes start: without the caller's script, without Ctrl-C from the terminal, and without log output.

- A process that vLLM spawns would import the caller's script first. A script without `if __name__ == "__main__"` would
  load the model again there. `without_caller_script` has the process import the module `process_main` instead. The
  script is imported only if `model_kwargs` contains one of its classes (`needs_caller_script`).
- A terminal sends Ctrl-C to every process, and a vLLM process that receives it ends the engine. So the processes start
  with that signal blocked (`without_interrupts`).
- The processes log only errors (`quiet`), and write the error that ends them to a file (`raise_process_errors`).
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

    Worker processes that those processes have started are not included; they end when those processes end.
    """
    return {p for p in multiprocessing.active_children() if "EngineCore" in p.name or "Coordinator" in p.name}


def needs_caller_script(settings: Mapping[str, Any]) -> bool:
    """Return whether vLLM's processes must import the caller's script: the settings contain a class of the script.

    The result is also True if the settings can't be pickled.
    """
    try:
        return b"__main__" in pickle.dumps(dict(settings))
    except Exception:
        return True


@contextlib.contextmanager
def raise_process_errors() -> Iterator[None]:
    """If a process that starts in this context fails, raise an exception with that process's own error.

    The exception that vLLM raises in this process says only that a process has ended.
    """
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
    """Limit the log of the processes that start in this context to errors."""
    set_here = {name: value for name, value in _QUIET_VARIABLES.items() if name not in os.environ}
    os.environ.update(set_here)
    try:
        yield
    finally:
        for name in set_here:
            os.environ.pop(name, None)


@contextlib.contextmanager
def without_caller_script() -> Iterator[None]:
    """Have the processes that this thread spawns in this context import `process_main`, not the caller's script."""
    from multiprocessing import spawn

    original_function, this_thread = spawn.get_preparation_data, threading.get_ident()

    def preparation_data(name: str) -> dict[str, Any]:
        data = original_function(name)
        if threading.get_ident() == this_thread:
            data.pop("init_main_from_path", None)
            data["init_main_from_name"] = process_main.__name__
        return data

    spawn.get_preparation_data = preparation_data
    try:
        yield
    finally:
        spawn.get_preparation_data = original_function


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Block Ctrl-C (SIGINT) in the processes that this thread starts in this context.

    A terminal sends Ctrl-C to every process. It must end the caller's current call, and not the engine.
    """
    from multiprocessing import resource_tracker

    # Starting a process may start multiprocessing's resource tracker, which unblocks SIGINT in this thread. So it is
    # started before SIGINT is blocked.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
