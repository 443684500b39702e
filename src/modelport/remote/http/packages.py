"""The optional packages that the HTTP transport needs. They are imported at the first call, not with modelport."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from modelport.errors import MissingDependency

#: Held during the import of a large package. A process that forks waits for it: in the child, the thread that imports
#: does not exist, and the package would stay half imported, so that each call of the child would fail.
_import_lock = threading.RLock()
#: The longest wait of a fork, in seconds. LiteLLM's import takes about 3 s, or 10 s on a busy machine.
_LONGEST_WAIT = 30.0
#: Whether the fork in progress has the lock.
_locked_for_fork = [False]


@contextmanager
def no_fork_during_import() -> Iterator[None]:
    """Let other threads fork only before or after this block, which imports a package."""
    with _import_lock:
        yield


def _before_fork() -> None:
    _locked_for_fork[0] = _import_lock.acquire(timeout=_LONGEST_WAIT)


def _after_fork() -> None:
    if _locked_for_fork[0]:
        _import_lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def require(extra: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Backends call this in their constructor, so that a missing package is reported before a missing API key.

    Args:
        extra: The extra of modelport that installs the packages, for the error message.
        *packages: The names of the packages' top-level modules.

    Raises:
        MissingDependency: A package is not installed.
    """
    for name in packages:
        if find_spec(name) is None:
            raise MissingDependency(name, extra)


@functools.cache
def aiohttp_package() -> Any:
    """Return the `aiohttp` package.

    Raises:
        MissingDependency: The package is not installed.
    """
    try:
        with no_fork_during_import():
            import aiohttp
    except ImportError:
        raise MissingDependency("aiohttp", "openai") from None
    return aiohttp


@functools.cache
def orjson_package() -> Any:
    """Return the `orjson` package.

    Raises:
        MissingDependency: The package is not installed.
    """
    try:
        with no_fork_during_import():
            import orjson
    except ImportError:
        raise MissingDependency("orjson", "openai") from None
    return orjson
