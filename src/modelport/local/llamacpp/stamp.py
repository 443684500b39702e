"""The stamp of a verified file, which saves computing its hash again.

A stamp is a small file next to a verified file. It contains the hash, the size and the modification time. Somebody who
may write to the folder could write a matching stamp next to a file of theirs. So a stamp is neither believed nor
written if anybody but this user and root could have changed or replaced it, the file, or a folder above them. The file
is then hashed at each start. It is not refused, because the home folders and volumes of containers often belong to
another user or a group.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def has_stamp(path: Path, sha256: str) -> bool:
    """Return whether a stamp says that the file has this hash, and nobody else can have changed either."""
    stamp = _stamp_of(path)
    try:
        return stamp.read_bytes() == _content(path, sha256) and _is_private(path) and _is_private(stamp)
    except OSError:
        return False


def write_stamp(path: Path, sha256: str) -> None:
    """Note that the file has this hash. In a folder that others may write to, or that is read-only, do nothing."""
    stamp = _stamp_of(path)
    with contextlib.suppress(OSError):
        if _is_private(path):
            stamp.unlink(missing_ok=True)  # If it is a symbolic link, its target must not be overwritten.
            stamp.touch(mode=0o644, exist_ok=False)
            stamp.write_bytes(_content(path, sha256))


def _stamp_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _content(path: Path, sha256: str) -> bytes:
    info = path.stat()
    return f"{sha256} {info.st_size} {info.st_mtime_ns}".encode()


def _is_private(path: Path) -> bool:
    """Return whether only this user and root can change or replace a file. On Windows, that is unknown: False."""
    if not hasattr(os, "geteuid"):
        return False
    target = path.resolve()
    for part in {path, *path.parents, target, *target.parents}:
        info = part.lstat()
        # In a folder with the sticky bit, such as /tmp, others can add files, but neither remove nor rename this one.
        is_sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX
        others_may_write = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky
        if info.st_uid not in (0, os.geteuid()) or (others_may_write and not stat.S_ISLNK(info.st_mode)):
            return False
    return True
