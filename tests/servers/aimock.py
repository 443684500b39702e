"""The npm package @copilotkit/aimock: an OpenAI-compatible and Azure OpenAI server that answers from a fixture file.

What it does and does not is in README.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from .process import HOST, ServerProcess, request_json, serve

#: Its version, in package.json, and its hash, in package-lock.json. `nox -s lock` renews the second.
LOCK = Path(__file__).parents[2] / "locks" / "npm"
FIXTURES = Path(__file__).with_name("fixtures")
_PACKAGE = "@copilotkit/aimock"
VERSION: str = json.loads((LOCK / "package.json").read_text())["dependencies"][_PACKAGE]
_NODE_AT_LEAST = (20, 15)
_INSTALL_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class AimockServer:
    """A running aimock."""

    process: ServerProcess
    api_key: str

    @property
    def url(self) -> str:
        """Also Azure's endpoint: it serves /openai/deployments/NAME/chat/completions and /openai/v1."""
        return self.process.url

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def requests(self) -> list[dict[str, Any]]:
        """What reached it, oldest first: method, path, headers (the key is redacted), body, response.status.

        A body above 64 KB is replaced by a marker.
        """
        entries: list[dict[str, Any]] = self._admin("GET", "/journal")
        return entries

    def clear_requests(self) -> None:
        self._admin("POST", "/reset/journal")

    def _admin(self, method: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        return request_json(method, f"{self.url}/__aimock{path}", headers=headers)


@contextlib.contextmanager
def aimock(
    fixtures: Path | str = "openai",
    *,
    api_key: str = "test-key",
    chunk_size: int = 8,
    latency_ms: int = 20,
    deadline_s: float = 30.0,
) -> Iterator[AimockServer]:
    """Serve a fixture file: a path, or the name of one in tests/servers/fixtures.

    Streams come in pieces of `chunk_size` characters, `latency_ms` apart. A request that no fixture matches is answered
    by 404 "no_fixture_match", a wrong key by 401.
    """
    path = fixtures if isinstance(fixtures, Path) else FIXTURES / f"{fixtures}.json"
    node, package = _node(), install()

    def command(port: int) -> list[str]:
        options = ["-h", HOST, "-p", str(port), "-f", str(path), "--validate-on-load", "--log-level", "warn"]
        return [node, str(package / "dist/cli.js"), *options, "-c", str(chunk_size), "-l", str(latency_ms)]

    with serve(
        command, ready_path="/health", deadline_s=deadline_s, grace_s=1.0, env={"AIMOCK_API_KEYS": api_key}
    ) as process:
        yield AimockServer(process, api_key)


def install() -> Path:
    """The package's folder, installed into the user's cache on first use."""
    cache = platformdirs.user_cache_path("modelport-tests", ensure_exists=True)
    target = cache / f"aimock-{VERSION}"
    with (cache / f"aimock-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_installed(target):
            shutil.rmtree(target, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                _npm_install(Path(folder))
                Path(folder).rename(target)
                Path(folder).mkdir()  # for TemporaryDirectory to remove
    return target / "node_modules" / _PACKAGE


def _is_installed(target: Path) -> bool:
    try:
        manifest = json.loads((target / "node_modules" / _PACKAGE / "package.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("version") == VERSION


def _npm_install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"tests with {_PACKAGE} need npm (Node.js {_node_text()} or newer) on the PATH")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LOCK / name, folder)
    command = [npm, "ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    # In that folder: npm would otherwise read a package.json of whatever folder the tests run in.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    if done.returncode or not _is_installed(folder):
        raise RuntimeError(f"could not install {_PACKAGE} {VERSION} by npm:\n{done.stdout}{done.stderr}")


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise RuntimeError(f"tests with {_PACKAGE} need Node.js {_node_text()} or newer on the PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < _NODE_AT_LEAST:
        raise RuntimeError(f"tests with {_PACKAGE} need Node.js {_node_text()} or newer, found {version}")
    return node


def _node_text() -> str:
    return ".".join(map(str, _NODE_AT_LEAST))
