"""The user's cache for files that the tests download or make once."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache() -> Path:
    """Return the folder of the cache."""
    import platformdirs

    return platformdirs.user_cache_path("modelport-tests", ensure_exists=True)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep other test runs from making this file or folder at the same time."""
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(name: str, make: Callable[[Path], Path]) -> Path:
    """Return a file or folder of the cache, and make it if it does not exist.

    Args:
        name: Its name, which contains a hash of what decides its content.
        make: Makes it in a folder that it is given, and returns its path.
    """
    target = cache() / name
    with locked(target):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                make(Path(folder)).rename(target)
    return target
