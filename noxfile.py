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
    install(session, "-e", ".[all]", *LINT)
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
    install(session, "-e", ".[all]", *TEST)
    session.run("pytest", *session.posargs)


# --- backends whose packages can't be installed beside the others. Each session names its columns of the contract as
# "--columns=…", and its folders of tests; tests/contract/test_sessions.py sees to it that every column has a session.


if __name__ == "__main__":
    sys.exit(f"run it with nox: {Path(sys.executable).name} -m nox")
