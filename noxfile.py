"""Every check, each in an environment of its own. `nox` runs them all; `nox -l` lists them."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
TEST = nox.project.dependency_groups(PROJECT, "test")
LINT = nox.project.dependency_groups(PROJECT, "lint")


def install(session: nox.Session, *packages: str) -> None:
    """Installs by uv, which resolves in seconds where pip takes minutes; pip is there for the weights."""
    session.install("uv", "pip>=25.1")
    session.run("uv", "pip", "install", "--quiet", "--python", session.virtualenv.location, *packages, silent=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, style and types."""
    # Not torch, which is large: mypy passes over it and transformers.
    install(session, "-e", ".[llamacpp,openai,huggingface,bedrock]", *LINT)
    session.run("ruff", "format", "--check")
    session.run("ruff", "check")
    session.run("mypy")


@nox.session
def core(session: nox.Session) -> None:
    """The bare install: it imports in milliseconds, pulls no engine and no client, and names what to install."""
    install(session, ".", "pytest", "pytest-timeout")
    session.run("pytest", "-p", "no:cacheprovider", "-c", "tests/bare/pytest.ini", "tests/bare", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything on real weights and real servers."""
    # By exactly this version pip finds torch's CPU build, where there is one; uv does not look where pip does.
    session.install("torch==2.13.0")
    install(session, "-e", ".[all,mlx-lm]", *TEST)
    session.run("pytest", *session.posargs)


# --- backends whose packages can't be installed beside the others. Each session names its columns of the contract as
# "--columns=…", and its folders of tests; tests/contract/test_sessions.py sees to it that every column has a session.


@nox.session
def litellm(session: nox.Session) -> None:
    """LiteLLM and its Router, with the version 2 of the openai package that LiteLLM forces."""
    install(session, "-e", ".[litellm,openai,llamacpp,bedrock,huggingface]", *TEST)
    columns = "--columns=litellm,litellm-mocked,litellm-router,litellm-router-mocked,openai-sdk-2"
    # In two processes: LiteLLM keeps clients for the process, and with them connections that the fault matrix counts.
    for folder in ("tests/contract/test_contract.py", "tests/remote/litellm"):
        session.run("pytest", columns, folder, *session.posargs)
    if not session.posargs:  # modelport[openai] on that version
        session.run("pytest", "tests/remote/test_faults.py", "tests/remote/test_matrix.py", "-k", "sdk")


@nox.session
def vllm(session: nox.Session) -> None:
    """VLLMModel, with vLLM's own environment (made once, kept in the user's cache) laid under the session's."""
    pins = Path(session.create_tmp()) / "vllm-pins.txt"
    pins.write_text(_told_by_vllm_env(session, "'\\n'.join(PINS.split())"))
    # What the tests need comes at the versions that vLLM's environment has; all else is found there.
    install(session, "-e", ".[openai,bedrock,huggingface]", *TEST, "-c", str(pins))
    (own,) = Path(session.virtualenv.location).glob("lib/python*/site-packages")
    (own / "vllm-environment.pth").write_text(_told_by_vllm_env(session, "vllm_environment().packages"))
    columns = "--columns=vllm,vllm-tools,vllm-thinking"
    tests = ["tests/contract/test_contract.py", "tests/local/vllm"]
    session.run("pytest", columns, *tests, *session.posargs, env={"HF_HUB_OFFLINE": "1"})  # no Hub is asked for a name


def _told_by_vllm_env(session: nox.Session, expression: str) -> str:
    code = f"from tests.servers.vllm_env import *; print({expression})"
    return str(session.run("python", "-c", code, silent=True))


if __name__ == "__main__":
    sys.exit(f"run it with nox: {Path(sys.executable).name} -m nox")
