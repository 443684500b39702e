"""Servers in processes of their own start, report failures, and never outlive the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from .process import ServerError, serve

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]


def test_server_that_ends_while_starting_raises_error_with_its_output() -> None:
    program = "import sys; print('no such model', file=sys.stderr); sys.exit(3)"
    with (
        pytest.raises(ServerError, match=r"status 3(?s:.)*no such model"),
        serve(lambda port: [sys.executable, "-c", program]),
    ):
        pass


def test_server_that_never_answers_is_stopped() -> None:
    with (
        pytest.raises(ServerError, match="did not answer") as caught,
        serve(lambda port: ["/bin/sh", "-c", "echo pid=$$; exec sleep 60"], deadline_s=0.5),
    ):
        pass
    assert not is_alive(int(str(caught.value).split()[-1].removeprefix("pid=")))


def test_server_that_ignores_sigterm_is_killed_with_its_children() -> None:
    program = """
        import http.server, signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
        http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with serve(lambda port: [*command, str(port)], grace_s=0.2) as server:
        child = int(server.output().split()[0])
        assert is_alive(child)
    assert not is_alive(server.pid)
    wait_until_dead(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_ends_when_the_tests_are_killed(number: signal.Signals) -> None:
    program = """
        import sys, time
        from tests.servers.process import serve
        with serve(lambda port: [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]) as server:
            print(server.pid, flush=True)
            time.sleep(60)
    """
    tests = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert tests.stdout is not None
    pid = int(tests.stdout.readline())
    assert is_alive(pid)
    tests.send_signal(number)
    tests.wait(10)
    tests.stdout.close()
    wait_until_dead(pid)


def is_alive(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie, which waits for its parent to read its status, is dead.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_dead(pid: int) -> None:
    """Wait until a process has ended."""
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} is still alive"
        time.sleep(0.02)
