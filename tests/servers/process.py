"""Servers in processes of their own: start one, wait until it responds, and stop it in any case.

A server is stopped by its pid: SIGTERM, a wait, then SIGKILL. It runs in a session of its own, for two reasons: Ctrl-C
in a terminal reaches only the tests, which then stop the server; and the processes that the server started are killed
with it. If the test process dies without cleaning up (SIGKILL, a crash), a watchdog process at the other end of a pipe
kills the server.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

HOST = "127.0.0.1"
_POLL_S = 0.03
_TAIL_CHARS = 4000
#: The watchdog reads its standard input. A line means that the server was stopped; the end of the file means that the
#: tests died.
_WATCHDOG = 'read -r line || kill -KILL "-$1" 2>/dev/null || kill -KILL "$1"'


class ServerError(RuntimeError):
    """The server did not start. The message ends with the last part of its output."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that runs and responds."""

    port: int
    pid: int
    _output: IO[bytes]

    @property
    def url(self) -> str:
        """The URL of the server, without a path."""
        return f"http://{HOST}:{self.port}"

    def output(self) -> str:
        """Return everything that the server has printed so far."""
        return _read(self._output)


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serve(
    command: Callable[[int], Sequence[str]],
    *,
    ready_path: str | None = "/",
    ready_headers: Mapping[str, str] | None = None,
    deadline_s: float = 60.0,
    grace_s: float = 5.0,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    attempts: int = 3,
) -> Iterator[ServerProcess]:
    """Run a server on a free port, and stop it at the end.

    A server that ends while it starts, because another process took its port meanwhile, is started again on another
    port.

    Args:
        command: Returns the command for a port.
        ready_path: The path of a GET request; the server is ready when it responds with a status below 500. `None`
            means that the server is ready when it accepts a connection.
        ready_headers: The headers of that request.
        deadline_s: The seconds in which the server must be ready.
        grace_s: The seconds between SIGTERM and SIGKILL.
        env: Environment variables that are added to those of this process.
        cwd: The working directory of the server.
        attempts: The number of ports to try.

    Yields:
        The server, once it is ready.

    Raises:
        ServerError: The server did not start.
    """
    for attempt in range(1, attempts + 1):
        port = free_port()
        with tempfile.TemporaryFile() as output, _running(command(port), output, env, cwd, grace_s) as process:
            try:
                _wait_until_ready(process, port, ready_path, ready_headers or {}, deadline_s, output)
            except ServerError as error:
                if attempt < attempts and "address already in use" in str(error).lower():
                    continue
                raise
            yield ServerProcess(port, process.pid, output)
            return


def request_json(
    method: str,
    url: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> Any:
    """Send an HTTP request and return the JSON of the response, for the admin endpoints of servers."""
    status, text = _request(method, url, body, headers or {}, timeout_s)
    if not 200 <= status < 300:
        raise RuntimeError(f"{method} {url} answered {status}: {text[:_TAIL_CHARS]}")
    return json.loads(text) if text else None


def request_text(url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 30.0) -> str:
    """Send a GET request and return the text of the response."""
    status, text = _request("GET", url, None, headers or {}, timeout_s)
    if not 200 <= status < 300:
        raise RuntimeError(f"GET {url} answered {status}: {text[:_TAIL_CHARS]}")
    return text


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    output: IO[bytes],
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    grace_s: float,
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )
    watchdog: subprocess.Popen[bytes] | None = None
    try:
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        yield process
    finally:
        _stop(process, grace_s)
        if watchdog is not None and watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                watchdog.stdin.write(b"stopped\n")
                watchdog.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                watchdog.stdin.close()
            watchdog.wait()


def _stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    # What it started itself is in its process group, whose id is its pid.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    port: int,
    path: str | None,
    headers: Mapping[str, str],
    deadline_s: float,
    output: IO[bytes],
) -> None:
    deadline = time.monotonic() + deadline_s
    while True:
        if process.poll() is not None:
            raise ServerError(_failure(process, f"ended with status {process.returncode} while starting", output))
        if _answers(port, path, headers):
            return
        if time.monotonic() > deadline:
            raise ServerError(_failure(process, f"did not answer on port {port} within {deadline_s:g} s", output))
        time.sleep(_POLL_S)


def _answers(port: int, path: str | None, headers: Mapping[str, str]) -> bool:
    try:
        if path is None:
            with socket.create_connection((HOST, port), timeout=1.0):
                return True
        status, _ = _request("GET", f"http://{HOST}:{port}{path}", None, headers, 2.0)
    except (OSError, http.client.HTTPException):
        return False
    return status < 500


def _request(method: str, url: str, body: object, headers: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    authority, slash, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(authority, timeout=timeout_s)
    try:
        payload = None if body is None else json.dumps(body).encode()
        connection.request(method, slash + path or "/", payload, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def _failure(process: subprocess.Popen[bytes], what: str, output: IO[bytes]) -> str:
    command = process.args if isinstance(process.args, str) else " ".join(map(str, process.args))  # type: ignore[arg-type]
    return f"{command}\n{what}; it printed:\n{_read(output)[-_TAIL_CHARS:]}"


def _read(output: IO[bytes]) -> str:
    size = os.fstat(output.fileno()).st_size
    return os.pread(output.fileno(), size, 0).decode(errors="replace")
