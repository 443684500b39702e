"""Gives MLX a fast product of matrices, where its wheel has a slow one.

MLX's wheel for Linux brings the reference implementation of BLAS, which does 3 to 5 GFLOPS. It calls the product by its
public name `sgemm_`. torch's wheel has MKL's function of this name, which does 60 GFLOPS on the same core. A library
that is loaded before MLX's, for all libraries of the process, provides the name.
"""

from __future__ import annotations

import contextlib
import ctypes
from importlib.util import find_spec
from pathlib import Path


def preload() -> dict[str, str]:
    """Return the environment variable for a program that uses MLX; nothing if torch is not installed."""
    library = _library()
    return {"LD_PRELOAD": str(library)} if library else {}


def use_fast_products() -> None:
    """Let MLX use the fast product in this process. MLX must not have computed anything before."""
    if library := _library():
        # Loaded later, llama.cpp's library would find torch's functions in the place of its own, and abort.
        with contextlib.suppress(ImportError):
            import xllamacpp  # noqa: F401
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _library() -> Path | None:
    torch = find_spec("torch")
    path = Path(str(torch.origin)).parent / "lib" / "libtorch_cpu.so" if torch else None
    return path if path and path.exists() else None
