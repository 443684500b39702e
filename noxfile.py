"""Every check, each in an environment of its own. `nox` runs them all; `nox -l` lists them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")

#: What each lock pins beside what the package itself needs, by the names of pyproject.toml.
LOCKS = {
    "core": ["--group", "core"],
    "lint": ["--group", "lint", "--extra", "llamacpp", "--extra", "openai", "--extra", "huggingface",
             "--extra", "bedrock"],
    "docs": ["--group", "docs"],
    "release": ["--group", "release", "--extra", "llamacpp"],
    "tests": ["--group", "test", "--group", "examples", "--extra", "all", "--extra", "mlx-lm"],
    "litellm": ["--group", "test", "--extra", "litellm", "--extra", "openai", "--extra", "llamacpp",
                "--extra", "bedrock", "--extra", "huggingface"],
    "vllm-tests": ["-c", "locks/vllm.txt", "--group", "test", "--extra", "openai", "--extra", "bedrock",
                   "--extra", "huggingface"],
    "lowest": ["--group", "test-oldest", "--extra", "llamacpp", "--extra", "openai", "--extra", "huggingface",
               "--extra", "bedrock", "--extra", "transformers", "--extra", "redis", "--extra", "images"],
    "lowest-cli": ["--group", "test-oldest", "--extra", "llamacpp"],
    "lowest-mlx": ["--group", "test-oldest", "--extra", "mlx-lm", "--extra", "llamacpp"],
    "lowest-litellm": ["--group", "test-oldest", "--extra", "litellm", "--extra", "openai", "--extra", "llamacpp"],
}  # fmt: skip
#: The locks of one group each, without the package: what installs all else, what runs the sessions, and so on.
ALONE = ("uv", "nox", "audit", "build", "lowest-build", "vllm")
#: The rows of the contract that old versions are tried with.
PART = "stream or typed or required"
#: With more failures than these it is the code, not the machine.
MOST_FAILED = 3


def install(session: nox.Session, lock: str, package: str = "-e.") -> None:
    """Installs what `locks/` pins, held to its hashes, and this package. By uv; pip is there for the weights."""
    session.install("--require-hashes", "-r", "locks/uv.txt")
    uv_install(session, "--no-deps", "--require-hashes", "-r", f"locks/{lock}.txt")
    if package:
        uv_install(session, "--no-deps", package)


def uv_install(session: nox.Session, *what: str) -> None:
    """Installs these; what builds them is held to its hashes too."""
    session.run_install(
        "uv", "pip", "install", "--quiet", "--python", session.virtualenv.location,
        "--build-constraints", "locks/build.txt", "--require-build-hashes", *what, silent=True,
    )  # fmt: skip


def install_torch(session: nox.Session) -> None:
    """Installs torch by pip: its CPU build where pip's configuration names a place of it; uv does not look there."""
    session.install("--require-hashes", "-r", "locks/uv.txt")
    (torch,) = nox.project.dependency_groups(PROJECT, "torch")
    told = session.run_install("pip", "install", "--dry-run", "--ignore-installed", "--no-deps", torch, silent=True)
    lock = "torch" if re.search(r"Would install torch-[\d.]+\s*$", str(told), re.M) else "torch-cpu"
    session.install("--no-deps", "--require-hashes", "-r", f"locks/{lock}.txt")


def pytest(session: nox.Session, *arguments: str, **options: Any) -> None:
    """Runs tests; what fails is run once more, alone and in a new process, as CPython's own test runner does.

    Some tests measure what a busy machine disturbs. One that only passes the second time is named, and is to be mended.
    """
    cache = Path(session.virtualenv.location).resolve() / "pytest"
    shutil.rmtree(cache, ignore_errors=True)
    command = ("pytest", "-o", f"cache_dir={cache}", *arguments, *session.posargs)
    try:
        session.run(*command, **options)
    except nox.command.CommandFailed:
        noted = cache / "v" / "cache" / "lastfailed"
        failed = list(json.loads(noted.read_text())) if noted.exists() else []
        if session.posargs or not 0 < len(failed) <= MOST_FAILED:
            raise
        session.warn(f"once more, alone: {', '.join(failed)}")
        session.run(*command, "--last-failed", "--last-failed-no-failures=none", **options)
        session.warn(f"passed only the second time: {', '.join(failed)}")


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style and types."""
    install(session, "lint")  # not torch, which is large: mypy passes over it and transformers
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")


@nox.session
def core(session: nox.Session) -> None:
    """The bare install: it imports in milliseconds, pulls no engine and no client, and names what to install."""
    install(session, "core", ".")
    pytest(session, "-c", "tests/bare/pytest.ini", "tests/bare")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors: links, anchors, and what it reads from docstrings. `tests` runs its code."""
    install(session, "docs", package="")
    session.run("mkdocs", "build", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Everything on real weights and real servers."""
    install_torch(session)
    install(session, "tests")
    pytest(session)


@nox.session
def lowest(session: nox.Session) -> None:
    """The oldest versions that pyproject allows, on a part of the contract; every other session has the newest."""
    install_torch(session)
    install(session, "lowest-cli")
    pytest(
        session, "tests/types/test_output_types.py", "tests/schema/test_validation.py", "tests/schema/test_regexes.py",
        "tests/constrained/test_lark.py", "tests/constrained/test_continuation.py",
    )  # fmt: skip
    pytest(session, "tests/test_cli.py", "-k", "(help or models or check) and not report")
    install(session, "lowest")
    columns = "--columns=llamacpp,transformers,openai,openai-sdk,huggingface,bedrock-strict"
    pytest(session, columns, "tests/conformance/test_conformance.py", "-k", PART)
    pytest(session, "tests/local/test_weights.py", "-k", "hub")
    pytest(session, "tests/layers/test_shared_limit.py")
    session.run(
        "uv", "build", "--quiet", "--build-constraints", "locks/lowest-build.txt", "--require-hashes",
        "--out-dir", str(Path(session.create_tmp()) / "dist"),
    )  # fmt: skip


@nox.session
@nox.parametrize("backend", ["mlx", "litellm"], ids=["mlx", "litellm"])
def lowest_of(session: nox.Session, backend: str) -> None:
    """The same for backends that hold back, or push, what others are tried with. vLLM's oldest is what `vllm` tries."""
    columns = {"mlx": "mlx", "litellm": "litellm,litellm-router,openai-sdk-2"}[backend]
    install(session, f"lowest-{backend}")
    pytest(session, f"--columns={columns}", "tests/conformance/test_conformance.py", "-k", PART)
    if backend == "litellm":
        pytest(session, "tests/remote/litellm/test_router.py", "-k", "redis")


@nox.session
def release(session: nox.Session) -> None:
    """Wheel and sdist as they would be published: built, checked, installed alone, and run without installing."""
    place = Path(session.create_tmp()).resolve()
    dist = place / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    # All that is made below is made of this cache, which has nothing but what was held to its hashes.
    shutil.rmtree(place / "cache", ignore_errors=True)
    session.env["UV_CACHE_DIR"] = str(place / "cache")
    session.install("--require-hashes", "-r", "locks/uv.txt")
    uv_install(session, "--reinstall", "--require-hashes", "-r", "locks/release.txt")
    session.run(
        "uv", "build", "--quiet", "--build-constraints", "locks/build.txt", "--require-hashes", "--out-dir", str(dist)
    )  # fmt: skip
    session.run("twine", "check", "--strict", *map(str, dist.glob("modelport-*")))
    (wheel,) = dist.glob("*.whl")
    code = shutil.copy("tests/typing/user_code.py", place)
    pins = Path("locks/release.txt").resolve()
    readme = Path("README.md").read_text()
    (question,) = re.findall(r"<!-- answer -->\n```sh\n.*?(modelport .*)\n```", readme)
    uv_install(session, "--no-deps", "--reinstall-package", "modelport", str(wheel))
    with session.chdir(place):  # where the sources can't be imported
        # What the wheel ships types a user's program.
        session.run("mypy", "--config-file=", "--strict", code)
        # As `uvx` and `pipx run` do it: an environment of its own for one command.
        uvx = ["uvx", "--offline", "--constraints", str(pins)]
        session.run(*uvx, "--from", str(wheel), "modelport", "--help", silent=True)
        session.run(*uvx, "--from", f"modelport[llamacpp] @ {wheel.as_uri()}", *shlex.split(question))


@nox.session
def audit(session: nox.Session) -> None:
    """Known advisories for what is locked. It says so where the advisory service can't be reached."""
    install(session, "audit", package="")
    for lock in (*ALONE, "torch", *LOCKS):
        if lock.startswith("lowest"):  # old versions, whose advisories led to newer ones
            continue
        told = session.run(
            "pip-audit", "--disable-pip", "--require-hashes", "-r", f"locks/{lock}.txt", "--format", "json",
            "--progress-spinner", "off", "--timeout", "10", success_codes=[0, 1], silent=True, stderr=None,
        )  # fmt: skip
        start = str(told).find('{"dependencies"')
        packages = json.loads(str(told)[start:].splitlines()[0])["dependencies"] if start >= 0 else []
        known = [p for p in packages if "skip_reason" not in p]
        if not known:
            session.skip("nothing is audited: the advisory service can't be reached from here")
        found = [f"{p['name']} {p['version']}: {v['id']}" for p in known for v in p["vulns"]]
        session.log(f"locks/{lock}.txt: {len(known)} of {len(packages)} packages audited, {len(found)} advisories")
        if found:
            session.error("\n".join(found))


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pins again, with hashes, what the checks install: the newest (or oldest) versions that pyproject.toml allows."""
    session.install("--require-hashes", "-r", "locks/uv.txt")
    place = Path(session.create_tmp()).resolve()
    shutil.rmtree(place, ignore_errors=True)
    build = _lock_torch(session, place / "torch")
    for name in (*ALONE, *LOCKS):
        what = ["--group", name.removeprefix("lowest-")] if name in ALONE else ["pyproject.toml", *LOCKS[name]]
        if name == "vllm":  # this very build of torch; and neither Macs nor Windows
            what += ["--python-platform", "x86_64-manylinux_2_28"]
        else:  # torch has its own lock
            what += ["--universal", "--no-emit-package", "torch"]
        if name.startswith("lowest"):
            what += ["--resolution", "lowest-direct"]
        # What vLLM asks for and, serving text on a CPU, does without; their builds don't match that of torch.
        left_out = ["torchvision", "torchaudio", "torchcodec", "triton"]
        if name == "lowest-cli":  # it wants a newer click than the command line does
            left_out.append("huggingface_hub")
        overrides = place / "overrides.txt"
        overrides.write_text("\n".join([build, *(f"{package}; python_version < '3'" for package in left_out)]))
        what += ["--find-links", str(place / "torch"), "--override", str(overrides), "-c", "locks/refused.txt"]
        _compile(session, name, *what)
    quietly = ("--no-audit", "--no-fund", "--ignore-scripts", "--omit-lockfile-registry-resolved")
    session.run("npm", "install", "--package-lock-only", "--prefix", "locks/npm", *quietly, silent=True, external=True)


def _lock_torch(session: nox.Session, place: Path) -> str:
    """Locks torch twice, without what the other locks have: its CPU build, which is returned, and PyPI's builds."""
    (torch,) = nox.project.dependency_groups(PROJECT, "torch")
    session.run("pip", "download", "--quiet", "--no-deps", "--dest", str(place), torch)
    (found,) = place.iterdir()
    build = f"torch=={found.name.split('-')[1]}"
    if "+cpu" not in build:
        session.error("pip finds no CPU build of torch: name PyTorch's CPU index to it (PIP_EXTRA_INDEX_URL)")
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    Path("locks/torch-cpu.txt").write_text(f"{build} \\\n    --hash=sha256:{digest}\n")
    _compile(session, "torch", "--universal", "--group", "torch")
    pins = Path("locks/torch.txt")
    entries = re.split(r"\n(?=\S)", pins.read_text().rstrip())
    # Beside torch only what is for Linux alone: CUDA.
    kept = [one for one in entries if one.startswith("torch==") or "sys_platform == 'linux'" in one]
    pins.write_text("\n".join([*kept, ""]))
    return build


def _compile(session: nox.Session, name: str, *what: str) -> None:
    session.run(
        "uv", "pip", "compile", "--quiet", "--python-version", "3.11", "--upgrade", "--generate-hashes", "--no-header",
        "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *what, "-o", f"locks/{name}.txt", silent=True,
    )  # fmt: skip


# --- backends whose packages can't be installed beside the others. Each session names its columns of the contract as
# "--columns=…", and its folders of tests; tests/conformance/test_sessions.py sees to it that every column has a session.


@nox.session
def litellm(session: nox.Session) -> None:
    """LiteLLM and its Router, with the version 2 of the openai package that LiteLLM forces."""
    install(session, "litellm")
    columns = "--columns=litellm,litellm-mocked,litellm-router,litellm-router-mocked,openai-sdk-2"
    pytest(session, columns, "tests/conformance/test_conformance.py", "tests/remote/litellm")
    if not session.posargs:  # modelport[openai] on that version
        pytest(session, "tests/remote/test_faults.py", "tests/remote/test_matrix.py", "-k", "sdk")
        pytest(session, "tests/remote/test_retry_on_the_wire.py", "-k", "litellm")


@nox.session
def vllm(session: nox.Session) -> None:
    """VLLMModel, with vLLM's own environment (made once, kept in the user's cache) laid under the session's."""
    # What the tests need comes at the versions that vLLM's environment has; all else is found there.
    install(session, "vllm-tests")
    packages = "from tests.servers.vllm_env import *; print(vllm_environment().packages)"
    (own,) = Path(session.virtualenv.location).glob("lib/python*/site-packages")
    (own / "vllm-environment.pth").write_text(str(session.run("python", "-c", packages, silent=True)))
    columns = "--columns=vllm,vllm-tools,vllm-thinking"
    tests = ["tests/conformance/test_conformance.py", "tests/local/vllm"]
    pytest(session, columns, *tests, env={"HF_HUB_OFFLINE": "1"})  # no Hub is asked for a name


if __name__ == "__main__":
    sys.exit(f"run it with nox: {Path(sys.executable).name} -m nox")
