"""The npm package @copilotkit/aimock: an OpenAI and Azure OpenAI server that responds from a fixture file.

README.md says what it covers.
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

#: The folder with the package's version (package.json) and hash (package-lock.json, which `nox -s lock` updates).
LOCK = Path(__file__).parents[2] / "locks" / "npm"
FIXTURES = Path(__file__).with_name("fixtures")
_PACKAGE = "@copilotkit/aimock"
VERSION: str = json.loads((LOCK / "package.json").read_text())["dependencies"][_PACKAGE]
_NODE_AT_LEAST = (20, 15)
_INSTALL_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class AimockServer:
    """A running aimock server."""

    process: ServerProcess
    api_key: str

    @property
    def url(self) -> str:
        """The URL of the server, which is also an Azure endpoint.

        It serves /openai/deployments/NAME/chat/completions and /openai/v1.
        """
        return self.process.url

    @property
    def base_url(self) -> str:
        """The base URL for clients of OpenAI's API."""
        return f"{self.url}/v1"

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests, oldest first: method, path, headers (the key is redacted), body, response.status.

        A body above 64 KB is replaced by a marker.
        """
        entries: list[dict[str, Any]] = self._admin("GET", "/journal")
        return entries

    def clear_requests(self) -> None:
        """Delete the recorded requests."""
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
    """Serve a fixture file.

    A request that no fixture matches gets status 404 "no_fixture_match", a wrong key 401.

    Args:
        fixtures: The path of the file, or the name of a file in tests/servers/fixtures.
        api_key: The key that requests must have.
        chunk_size: The number of characters in each event of a stream.
        latency_ms: The milliseconds between two events.
        deadline_s: The seconds in which the server must start.

    Yields:
        The running server.
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
    """Install the package into the user's cache on first use, and return its folder."""
    cache = platformdirs.user_cache_path("modelport-tests", ensure_exists=True)
    target = cache / f"aimock-{VERSION}"
    with (cache / f"aimock-{VERSION}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_installed(target):
            shutil.rmtree(target, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                _npm_install(Path(folder))
                Path(folder).rename(target)
                Path(folder).mkdir()  # TemporaryDirectory removes this folder.
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
    # npm runs in that folder, because it would also read a package.json of the current folder.
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
