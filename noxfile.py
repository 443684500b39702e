"""All checks, each in its own environment. `nox` runs all of them, `nox -s unit` the fast ones; `nox -l` lists them."""

from __future__ import annotations

import hashlib
import json
import os
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

#: What each lock pins besides the package's own dependencies: groups and extras of pyproject.toml.
LOCKS = {
    "core": ["--group", "core"],
    "unit": ["-c", "locks/tests.txt", "--group", "unit", "--extra", "llamacpp", "--extra", "openai",
             "--extra", "huggingface", "--extra", "bedrock", "--extra", "redis", "--extra", "images"],
    "lint": ["--group", "lint", "--extra", "llamacpp", "--extra", "openai", "--extra", "huggingface",
             "--extra", "bedrock"],
    "docs": ["--group", "docs"],
    "release": ["--group", "release", "--extra", "llamacpp"],
    "tests": ["--group", "test", "--group", "langchain", "--group", "examples", "--extra", "all", "--extra", "mlx-lm",
              "--extra", "langchain"],
    "litellm": ["--group", "test", "--extra", "litellm", "--extra", "openai", "--extra", "llamacpp",
                "--extra", "bedrock", "--extra", "huggingface"],
    "vllm-tests": ["-c", "locks/vllm.txt", "--group", "test", "--extra", "openai", "--extra", "bedrock",
                   "--extra", "huggingface"],
    "lowest": ["--group", "test-oldest", "--extra", "llamacpp", "--extra", "openai", "--extra", "huggingface",
               "--extra", "bedrock", "--extra", "transformers", "--extra", "redis", "--extra", "images",
               "--extra", "langchain"],
    "lowest-cli": ["--group", "test-oldest", "--extra", "llamacpp"],
    "lowest-mlx": ["--group", "test-oldest", "--extra", "mlx-lm", "--extra", "llamacpp"],
    "lowest-litellm": ["--group", "test-oldest", "--extra", "litellm", "--extra", "openai", "--extra", "llamacpp"],
}  # fmt: skip
#: Locks of a single group without the package, such as the installer and nox itself.
ALONE = ("uv", "nox", "audit", "build", "lowest-build", "vllm")
#: The conformance checks that run on the oldest supported versions.
OLDEST_VERSIONS_CHECKS = "stream or typed or required"
#: Two processes. Tests that share a model run in one of them.
IN_PARALLEL = ("-n", "2", "--dist", "loadgroup")
#: Three processes on two cores, for tests that wait for servers and engines a third of their time.
MOSTLY_WAITING = ("-n", "3", "--dist", "loadgroup")
#: Four processes, for tests that wait half of their time.
HALF_WAITING = ("-n", "4", "--dist", "loadgroup")
#: torch computes with one thread in each process. Several processes with two threads each wait for each other, and use
#: up to twice the processor time for the same output.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
#: Tests that need more than the light environment, or a machine that does nothing else.
MARKED = "engine or server or node or quiet"


def install(session: nox.Session, lock: str, package: str = "-e.") -> None:
    """Install what a lock pins, checked by hash, and this package. uv installs; pip is there to download weights."""
    session.install("--require-hashes", "-r", "locks/uv.txt")
    uv_install(session, "--no-deps", "--require-hashes", "-r", f"locks/{lock}.txt")
    if package:
        uv_install(session, "--no-deps", package)


def uv_install(session: nox.Session, *what: str) -> None:
    """Install packages with uv; packages that build them are checked by hash too."""
    session.run_install(
        "uv", "pip", "install", "--quiet", "--python", session.virtualenv.location,
        "--build-constraints", "locks/build.txt", "--require-build-hashes", *what, silent=True,
    )  # fmt: skip


def install_torch(session: nox.Session) -> None:
    """Install torch with pip: its CPU build if pip's configuration names an index with it, which uv would ignore."""
    session.install("--require-hashes", "-r", "locks/uv.txt")
    (torch,) = nox.project.dependency_groups(PROJECT, "torch")
    output = session.run_install("pip", "install", "--dry-run", "--ignore-installed", "--no-deps", torch, silent=True)
    lock = "torch" if re.search(r"Would install torch-[\d.]+\s*$", str(output), re.M) else "torch-cpu"
    session.install("--no-deps", "--require-hashes", "-r", f"locks/{lock}.txt")


def pytest(session: nox.Session, *arguments: str, **options: Any) -> None:
    """Run pytest with a cache in the session's environment."""
    cache = Path(session.virtualenv.location).resolve() / "pytest"
    session.run("pytest", "-o", f"cache_dir={cache}", *arguments, *session.posargs, **options)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style, types, import rules and language."""
    install(session, "lint")  # without torch, which is large: mypy does not look into torch and transformers
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")
    session.run("mypy", "--config-file", "tests/mypy.ini")
    session.run("lint-imports")
    session.run("pytest", "-c", "tests/lint/pytest.ini", "tests/lint")


@nox.session
def unit(session: nox.Session) -> None:
    """Unit tests in a light environment, in parallel, with coverage: under two minutes on two cores."""
    install(session, "unit")
    selection = [] if session.posargs else ["tests", "-m", f"not ({MARKED})", "--cov", "--cov-report=term:skip-covered"]
    profile = {} if os.environ.get("CI") else {"HYPOTHESIS_PROFILE": "dev"}
    pytest(session, "-n", "auto", "--dist", "worksteal", *selection, env=profile)


@nox.session
def core(session: nox.Session) -> None:
    """The bare install: it imports in milliseconds, has no engine and no client, and errors name what to install."""
    install(session, "core", ".")
    pytest(session, "-c", "tests/bare/pytest.ini", "tests/bare")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, with warnings as errors. The code blocks of the pages run in `unit` and `tests`."""
    install(session, "docs", package="")
    session.run("mkdocs", "build", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Tests on real weights and real servers; then, alone, the tests that need a quiet machine."""
    install_torch(session)
    install(session, "tests")
    if session.posargs:
        pytest(session)
        return
    pytest(session, *MOSTLY_WAITING, "-m", f"({MARKED}) and not quiet", env=ONE_THREAD)
    pytest(session, "-m", "quiet")


@nox.session
def lowest(session: nox.Session) -> None:
    """The oldest versions that pyproject.toml allows, on some conformance checks. Other sessions use the newest."""
    install_torch(session)
    install(session, "lowest-cli")
    pytest(
        session, "tests/types/test_output_types.py", "tests/schema/test_validation.py", "tests/schema/test_regexes.py",
        "tests/constrained/test_lark.py", "tests/constrained/test_continuation.py",
    )  # fmt: skip
    pytest(session, "tests/cli", "-k", "(help or models or check) and not (report or service)")
    install(session, "lowest")
    backends = "--backends=llamacpp,transformers,openai,openai-sdk,huggingface,bedrock-strict"
    checks = ("tests/conformance/test_conformance.py", "-k", OLDEST_VERSIONS_CHECKS)
    pytest(session, *IN_PARALLEL, backends, *checks, env=ONE_THREAD)
    pytest(
        session, *IN_PARALLEL, "tests/local/weights", "tests/layers/test_shared_limit.py", "-k", "hub or shared_limit"
    )
    pytest(session, "tests/integrations/test_langchain.py")
    session.run(
        "uv", "build", "--quiet", "--build-constraints", "locks/lowest-build.txt", "--require-hashes",
        "--out-dir", str(Path(session.create_tmp()) / "dist"),
    )  # fmt: skip


@nox.session
@nox.parametrize("backend", ["mlx", "litellm"], ids=["mlx", "litellm"])
def lowest_of(session: nox.Session, backend: str) -> None:
    """The oldest versions of backends whose packages conflict with others. `vllm` tests the oldest vLLM itself."""
    backends = {"mlx": "mlx", "litellm": "litellm,litellm-router,openai-sdk-2"}[backend]
    install(session, f"lowest-{backend}")
    checks = ("tests/conformance/test_conformance.py", "-k", OLDEST_VERSIONS_CHECKS)
    pytest(session, *IN_PARALLEL, f"--backends={backends}", *checks)
    if backend == "litellm":
        pytest(session, "tests/remote/litellm/test_router.py", "-k", "redis")


@nox.session
def release(session: nox.Session) -> None:
    """Build the wheel and the sdist, check them, install the wheel alone, and run it as `uvx` and `pipx run` do."""
    folder = Path(session.create_tmp()).resolve()
    dist = folder / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    # Everything below is installed from this cache, which holds only packages whose hashes were checked.
    shutil.rmtree(folder / "cache", ignore_errors=True)
    session.env["UV_CACHE_DIR"] = str(folder / "cache")
    session.install("--require-hashes", "-r", "locks/uv.txt")
    uv_install(session, "--reinstall", "--require-hashes", "-r", "locks/release.txt")
    session.run(
        "uv", "build", "--quiet", "--build-constraints", "locks/build.txt", "--require-hashes", "--out-dir", str(dist)
    )  # fmt: skip
    session.run("twine", "check", "--strict", *map(str, dist.glob("modelport-*")))
    (wheel,) = dist.glob("*.whl")
    code = shutil.copy("tests/typing/user_code.py", folder)
    pins = Path("locks/release.txt").resolve()
    readme = Path("README.md").read_text()
    (question,) = re.findall(r"<!-- answer -->\n```sh\n.*?(modelport .*)\n```", readme)
    uv_install(session, "--no-deps", "--reinstall-package", "modelport", str(wheel))
    with session.chdir(folder):  # the sources can't be imported from here
        # A type checker finds the types that the wheel ships.
        session.run("mypy", "--config-file=", "--strict", code)
        # `uvx` and `pipx run` make an environment for one command.
        uvx = ["uvx", "--offline", "--constraints", str(pins)]
        session.run(*uvx, "--from", str(wheel), "modelport", "--help", silent=True)
        session.run(*uvx, "--from", f"modelport[llamacpp] @ {wheel.as_uri()}", *shlex.split(question))


@nox.session
def audit(session: nox.Session) -> None:
    """Look up known security advisories for the locked packages; skip if the advisory service can't be reached."""
    install(session, "audit", package="")
    for lock in (*ALONE, "torch", *LOCKS):
        if lock.startswith("lowest"):  # old versions have advisories that newer ones fix
            continue
        output = session.run(
            "pip-audit", "--disable-pip", "--require-hashes", "-r", f"locks/{lock}.txt", "--format", "json",
            "--progress-spinner", "off", "--timeout", "10", success_codes=[0, 1], silent=True, stderr=None,
        )  # fmt: skip
        start = str(output).find('{"dependencies"')
        packages = json.loads(str(output)[start:].splitlines()[0])["dependencies"] if start >= 0 else []
        known = [p for p in packages if "skip_reason" not in p]
        if not known:
            session.skip("no package was audited: the advisory service can't be reached from here")
        found = [f"{p['name']} {p['version']}: {v['id']}" for p in known for v in p["vulns"]]
        session.log(f"locks/{lock}.txt: {len(known)} of {len(packages)} packages audited, {len(found)} advisories")
        if found:
            session.error("\n".join(found))


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Pin what the checks install, with hashes, in the newest (or oldest) versions that pyproject.toml allows.

    `nox -s lock -- NAME …` updates only these locks, and keeps their pins where pyproject.toml still allows them.
    """
    session.install("--require-hashes", "-r", "locks/uv.txt")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    upgrade = () if session.posargs else ("--upgrade",)
    build = _lock_torch(session, folder / "torch", upgrade)
    for name in session.posargs or (*ALONE, *LOCKS):
        arguments = ["--group", name.removeprefix("lowest-")] if name in ALONE else ["pyproject.toml", *LOCKS[name]]
        if name == "vllm":  # it needs exactly this build of torch, and runs on Linux alone
            arguments += ["--python-platform", "x86_64-manylinux_2_28"]
        else:  # torch has a lock of its own
            arguments += ["--universal", "--no-emit-package", "torch"]
        if name.startswith("lowest"):
            arguments += ["--resolution", "lowest-direct"]
        # vLLM requires these packages, but does not use them for text on a CPU. Their builds don't match torch's.
        excluded = ["torchvision", "torchaudio", "torchcodec", "triton"]
        # Plugins of pytest that langchain-tests requires. Its tests of chat models don't need them, and they would take
        # part in every session.
        excluded += ["pytest-benchmark", "pytest-codspeed", "pytest-recording", "pytest-socket", "syrupy", "vcrpy"]
        if name == "lowest-cli":  # it requires a newer click than the oldest one that the command line supports
            excluded.append("huggingface_hub")
        overrides = folder / "overrides.txt"
        overrides.write_text("\n".join([build, *(f"{package}; python_version < '3'" for package in excluded)]))
        arguments += ["--find-links", str(folder / "torch"), "--override", str(overrides), "-c", "locks/refused.txt"]
        _compile(session, name, *upgrade, *arguments)
    if not session.posargs:
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--omit-lockfile-registry-resolved")
        command = ("npm", "install", "--package-lock-only", "--prefix", "locks/npm", *options)
        session.run(*command, silent=True, external=True)


def _lock_torch(session: nox.Session, folder: Path, upgrade: tuple[str, ...]) -> str:
    """Lock torch twice, without the packages of the other locks: its CPU build, which is returned, and PyPI's build."""
    (torch,) = nox.project.dependency_groups(PROJECT, "torch")
    session.run("pip", "download", "--quiet", "--no-deps", "--dest", str(folder), torch)
    (found,) = folder.iterdir()
    build = f"torch=={found.name.split('-')[1]}"
    if "+cpu" not in build:
        session.error("pip finds no CPU build of torch: set PIP_EXTRA_INDEX_URL to PyTorch's CPU index")
    digest = hashlib.sha256(found.read_bytes()).hexdigest()
    Path("locks/torch-cpu.txt").write_text(f"{build} \\\n    --hash=sha256:{digest}\n")
    _compile(session, "torch", *upgrade, "--universal", "--group", "torch")
    pins = Path("locks/torch.txt")
    entries = re.split(r"\n(?=\S)", pins.read_text().rstrip())
    # Besides torch only the packages for Linux alone are kept: CUDA.
    kept = [one for one in entries if one.startswith("torch==") or "sys_platform == 'linux'" in one]
    pins.write_text("\n".join([*kept, ""]))
    return build


def _compile(session: nox.Session, name: str, *arguments: str) -> None:
    session.run(
        "uv", "pip", "compile", "--quiet", "--python-version", "3.11", "--generate-hashes", "--no-header",
        "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *arguments, "-o", f"locks/{name}.txt",
        silent=True,
    )  # fmt: skip


# --- Backends whose packages can't be installed beside the others. Each session names its backends under test with
# `--backends=…`, and its folders of tests. tests/conformance/test_sessions.py checks that every backend has a session.


@nox.session
def litellm(session: nox.Session) -> None:
    """LiteLLM and its Router, with version 2 of the openai package, which LiteLLM requires."""
    install(session, "litellm")
    backends = "--backends=litellm,litellm-mocked,litellm-router,litellm-router-mocked,openai-sdk-2"
    pytest(session, *HALF_WAITING, backends, "tests/conformance/test_conformance.py", "tests/remote/litellm")
    if not session.posargs:  # modelport[openai] with version 2 of the package
        pytest(
            session, *HALF_WAITING, "tests/remote/test_faults.py", "tests/remote/test_rejected_parameters.py",
            "tests/remote/test_matrix.py", "tests/remote/test_retries.py", "tests/remote/test_settings.py",
            "-k", "sdk and (faults or rejected_parameters or matrix) or litellm and (retries or settings)",
        )  # fmt: skip


@nox.session
def vllm(session: nox.Session) -> None:
    """VLLMModel, with vLLM's environment (made once, in the user's cache) on the path of the session's environment."""
    # The lock has the versions of vLLM's environment. Every other package is found there.
    install(session, "vllm-tests")
    packages = "from tests.servers.vllm_env import *; print(vllm_environment().packages)"
    (own,) = Path(session.virtualenv.location).glob("lib/python*/site-packages")
    (own / "vllm-environment.pth").write_text(str(session.run("python", "-c", packages, silent=True)))
    backends = "--backends=vllm,vllm-tools,vllm-thinking"
    tests = ["tests/conformance/test_conformance.py", "tests/local/vllm"]
    session.run("modelport", "download", silent=True)  # The default weights, which are not looked up below either.
    # Model names are not looked up on the Hub. Each file runs in one of two processes, so that few engines are loaded.
    pytest(session, "-n", "2", "--dist", "loadfile", backends, *tests, env={"HF_HUB_OFFLINE": "1"})


if __name__ == "__main__":
    sys.exit(f"run it with nox: {Path(sys.executable).name} -m nox")
