"""The module that vLLM's processes import when they start, instead of the caller's script.

`processes.without_caller_script` sets this module as the main module of the processes that multiprocessing spawns. A
spawned process imports its main module under the name `__mp_main__`.
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
    """Arrange that this process ends with its parent, and that a fatal error is written to the report file.

    Otherwise a process whose parent was killed would never end, and never free its memory. Only Linux can end a process
    with its parent; see prctl(2).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    original = BaseProcess.run

    def run(self: BaseProcess) -> None:
        try:
            original(self)
        except Exception as error:
            with contextlib.suppress(OSError, KeyError):
                Path(os.environ[REPORT_VARIABLE]).write_text(f"{type(error).__name__}: {error}")
            raise

    BaseProcess.run = run  # type: ignore[method-assign]


if __name__ == "__mp_main__":
    prepare_process()
