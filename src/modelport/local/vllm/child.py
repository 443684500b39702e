"""Imported by vLLM's processes as they begin, in place of the caller's script."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

#: Names the file to which a process writes what it dies of.
REPORT = "MODELPORT_VLLM_REPORT"
_PR_SET_PDEATHSIG = 1


def begin() -> None:
    """Has this process end when its parent does, and leave word of what it dies of.

    One whose parent was killed would hold its memory for ever; only Linux can tell it, see prctl(2).
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
                Path(os.environ[REPORT]).write_text(f"{type(error).__name__}: {error}")
            raise

    BaseProcess.run = run  # type: ignore[method-assign]


if __name__ == "__mp_main__":
    begin()
