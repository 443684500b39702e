"""The npm package @copilotkit/aimock: an OpenAI and Azure OpenAI server that responds from a fixture file.

README.md says what it covers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .npm import node, npm_package
from .process import HOST, ServerProcess, request_json, serve

FIXTURES = Path(__file__).with_name("fixtures")
_PACKAGE = "@copilotkit/aimock"


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
    package = npm_package(_PACKAGE)

    def command(port: int) -> list[str]:
        options = ["-h", HOST, "-p", str(port), "-f", str(path), "--validate-on-load", "--log-level", "warn"]
        return [node(), str(package / "dist/cli.js"), *options, "-c", str(chunk_size), "-l", str(latency_ms)]

    with serve(
        command, ready_path="/health", deadline_s=deadline_s, grace_s=1.0, env={"AIMOCK_API_KEYS": api_key}
    ) as process:
        yield AimockServer(process, api_key)
