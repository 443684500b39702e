"""Imported by vLLM's processes as they begin, in place of the caller's script."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Has this process told to end when its parent dies, killed for instance: it would hold its memory for ever.

    On Linux alone; see prctl(2).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__mp_main__":
    end_with_parent()
