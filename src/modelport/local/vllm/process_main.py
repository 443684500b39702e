"""The module that vLLM's processes import when they start, instead of the caller's script.

A process that multiprocessing spawns imports the main module of its parent first, under the name `__mp_main__`.
`processes.without_caller_script` has vLLM's processes import this module in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

#: The environment variable with the path of the file to which a process writes the error that ended it.
REPORT_VARIABLE = "MODELPORT_VLLM_REPORT"
#: The option of prctl(2) that sends a process a signal when its parent ends.
_PR_SET_PDEATHSIG = 1


def prepare_process() -> None:
    """Have this process end when its parent ends, and have it write the error that ends it to the report file.

    Otherwise a process whose parent was killed would never end, and never free its memory. Only Linux can end a process
    when its parent ends, by prctl(2).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    original_run = BaseProcess.run

    def run(self: BaseProcess) -> None:
        try:
            original_run(self)
        except Exception as error:
            with contextlib.suppress(OSError, KeyError):
                Path(os.environ[REPORT_VARIABLE]).write_text(f"{type(error).__name__}: {error}")
            raise

    BaseProcess.run = run  # type: ignore[method-assign]


if __name__ == "__mp_main__":
    prepare_process()
