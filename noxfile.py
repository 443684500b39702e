"""Every check, each in an environment of its own. `nox` runs them all; `nox -l` lists them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PROJECT = nox.project.load_toml("pyproject.toml")
TEST = nox.project.dependency_groups(PROJECT, "test")


LOCKS = {
    "core": ["--group", "core"],
    "lint": ["--group", "lint", "--extra", "llamacpp", "--extra", "openai", "--extra", "huggingface",
             "--extra", "bedrock"],
    "docs": ["--group", "docs"],
    "release": ["--group", "release"],
    "tests": ["--group", "test", "--group", "examples", "--extra", "all", "--extra", "mlx-lm"],
    "litellm": ["--group", "test", "--extra", "litellm", "--extra", "openai", "--extra", "llamacpp",
                "--extra", "bedrock", "--extra", "huggingface"],
}  # fmt: skip
#: torch is installed apart, by pip: see the session `tests`.
APART = "torch"


def install(session: nox.Session, lock: str, package: str = "-e.") -> None:
    """Installs what `locks/` pins, held to its hashes, and this package. By uv; pip is there for the weights."""
    session.install("uv", "pip>=25.1")
    uv_install(session, "--no-deps", "--require-hashes", "-r", f"locks/{lock}.txt")
    uv_install(session, "--no-deps", package)


def uv_install(session: nox.Session, *what: str) -> None:
    session.run("uv", "pip", "install", "--quiet", "--python", session.virtualenv.location, *what, silent=True)


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
    session.run("pytest", "-p", "no:cacheprovider", "-c", "tests/bare/pytest.ini", "tests/bare", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors: links, anchors, and what it reads from docstrings. `tests` runs its code."""
    session.install("uv")
    uv_install(session, "--no-deps", "--require-hashes", "-r", "locks/docs.txt")
    session.run("mkdocs", "build", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def tests(session: nox.Session) -> None:
    """Everything on real weights and real servers."""
    # By exactly this version pip finds torch's CPU build, where there is one; uv does not look where pip does.
    session.install("torch==2.13.0")
    install(session, "tests")
    session.run("pytest", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """The oldest versions that pyproject allows, on a part of the contract; every other session has the newest.

    Not torch, whose older CPU builds are not where pip looks; nor mlx-lm, LiteLLM and vLLM: they hold others back.
    """
    session.install("uv", "pip>=25.1", "torch==2.13.0")
    place = Path(session.create_tmp())
    (place / "overrides.txt").write_text("torch; sys_platform == 'never'\n")  # it is there already
    # Not these, which want newer versions than the port does, of rich and pydantic.
    tests = [line for line in TEST if not line.startswith(("smolagents", "mcp", "langchain-core"))]
    oldest = ["--resolution=lowest-direct", "--upgrade", f"--override={place / 'overrides.txt'}", *tests]
    # huggingface_hub wants a newer click: first without it.
    llamacpp = PROJECT["project"]["optional-dependencies"]["llamacpp"]
    uv_install(session, *oldest, "-e", ".", *(line for line in llamacpp if not line.startswith("huggingface_hub")))
    session.run("pytest", "tests/test_grammar.py", *session.posargs)
    session.run("pytest", "tests/test_cli.py", "-k", "(help or models or check) and not report", *session.posargs)
    uv_install(session, *oldest, "-e", ".[llamacpp,openai,huggingface,bedrock,transformers]")
    columns = "llamacpp,transformers,openai,openai-sdk,huggingface,bedrock-strict"
    rows = "stream or typed or required"
    session.run("pytest", f"--columns={columns}", "tests/contract/test_contract.py", "-k", rows, *session.posargs)
    session.run("pytest", "tests/local/test_weights.py", "-k", "hub", *session.posargs)


@nox.session
def release(session: nox.Session) -> None:
    """Wheel and sdist as they would be published: built, checked, installed alone, and run without installing."""
    session.install("uv")
    uv_install(session, "--no-deps", "--require-hashes", "-r", "locks/release.txt")
    place = Path(session.create_tmp()).resolve()
    dist = place / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--installer", "uv", "--outdir", str(dist), silent=True)
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    code = shutil.copy("tests/typing/user_code.py", place)
    readme = Path("README.md").read_text()
    (question,) = re.findall(r"<!-- answer -->\n```sh\n.*?(modelport .*)\n```", readme)
    with session.chdir(place):  # where the sources can't be imported
        uv_install(session, "--reinstall-package", "modelport", str(wheel))
        # What the wheel ships types a user's program.
        session.run("mypy", "--config-file=", "--strict", code)
        # As `uvx` and `pipx run` do it: an environment of its own for one command.
        session.run("uvx", "--from", str(wheel), "modelport", "--help", silent=True)
        session.run("uvx", "--from", f"modelport[llamacpp] @ {wheel.as_uri()}", *shlex.split(question))


@nox.session
def audit(session: nox.Session) -> None:
    """Known advisories for what is locked. It says so where the advisory service can't be reached."""
    session.install("pip-audit")
    for lock in LOCKS:
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
    """Pins again, with hashes, what the checks install: the newest versions that pyproject.toml allows."""
    session.install("uv")
    override = Path(session.create_tmp()) / "apart.txt"
    override.write_text(f"{APART} ; sys_platform == 'none'\n")
    for name, what in LOCKS.items():
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--upgrade",
            "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
            "--no-emit-package", APART, "--override", str(override), "-c", "locks/refused.txt", "pyproject.toml",
            *what, "-o", f"locks/{name}.txt",
        )  # fmt: skip


# --- backends whose packages can't be installed beside the others. Each session names its columns of the contract as
# "--columns=…", and its folders of tests; tests/contract/test_sessions.py sees to it that every column has a session.


@nox.session
def litellm(session: nox.Session) -> None:
    """LiteLLM and its Router, with the version 2 of the openai package that LiteLLM forces."""
    install(session, "litellm")
    columns = "--columns=litellm,litellm-mocked,litellm-router,litellm-router-mocked,openai-sdk-2"
    session.run("pytest", columns, "tests/contract/test_contract.py", "tests/remote/litellm", *session.posargs)
    if not session.posargs:  # modelport[openai] on that version
        session.run("pytest", "tests/remote/test_faults.py", "tests/remote/test_matrix.py", "-k", "sdk")
        session.run("pytest", "tests/remote/test_retry_on_the_wire.py", "-k", "litellm")


@nox.session
def vllm(session: nox.Session) -> None:
    """VLLMModel, with vLLM's own environment (made once, kept in the user's cache) laid under the session's."""
    pins = Path(session.create_tmp()) / "vllm-pins.txt"
    pins.write_text(_told_by_vllm_env(session, "'\\n'.join(PINS.split())"))
    # What the tests need comes at the versions that vLLM's environment has; all else is found there.
    session.install("uv", "pip>=25.1")
    uv_install(session, "-e", ".[openai,bedrock,huggingface]", *TEST, "-c", str(pins), "-c", "locks/refused.txt")
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
