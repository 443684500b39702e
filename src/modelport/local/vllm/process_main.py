"""The module that vLLM's processes import when they start, instead of the caller's script."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

#: The environment variable with the path of the file to which a process writes the error that ended it.
REPORT_VARIABLE = "MODELPORT_VLLM_REPORT"
_PR_SET_PDEATHSIG = 1


def prepare_process() -> None:
    """End this process when its parent ends, and report the error that ends this process.

    Without this, a process whose parent was killed would hold its memory for ever. Only Linux supports it, see
    prctl(2).
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
