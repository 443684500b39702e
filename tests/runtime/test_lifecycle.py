"""What happens to calls and engines when the interpreter exits, and in a forked process."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.timeout(30)

PREAMBLE = """
import asyncio, os, sys, threading
from modelport.runtime.lifecycle import close_at_exit
from modelport.runtime.portal import SyncIteration, run

def say(*words):
    print(*words, flush=True)

class Engine:
    def close(self):
        say("engine closed")

    def detach_after_fork(self):
        say("engine detached")

async def endless():
    try:
        while True:
            yield 1
            await asyncio.sleep(0.001)
    finally:
        say("call closed")

engine = Engine()
close_at_exit(engine)
"""


def run_program(source: str) -> list[str]:
    flags = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *flags, "-c", PREAMBLE + textwrap.dedent(source)], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


def test_exit_closes_calls_before_engines() -> None:
    source = """
    iteration = SyncIteration(endless())
    iteration.next()
    """
    assert run_program(source) == ["call closed", "engine closed"]


def test_exit_with_a_waiting_daemon_thread_prints_nothing() -> None:
    source = """
    started = threading.Event()

    async def wait():
        started.set()
        await asyncio.sleep(60)

    threading.Thread(target=lambda: run(wait()), daemon=True).start()
    started.wait()
    """
    assert run_program(source) == ["engine closed"]


def test_exit_does_not_wait_for_a_task_that_ignores_cancellation() -> None:
    source = """
    started = threading.Event()

    async def stubborn():
        started.set()
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    threading.Thread(target=lambda: run(stubborn()), daemon=True).start()
    started.wait()
    """
    assert run_program(source) == ["engine closed"]


def test_forked_child_detaches_engines_and_never_closes_them() -> None:
    """This holds for the parent's engines and for those that the child makes."""
    source = """
    if os.fork() == 0:
        close_at_exit(Engine())
        sys.exit()
    os.wait()
    say("parent")
    """
    assert run_program(source) == ["engine detached", "engine detached", "parent", "engine closed"]


def test_grandchild_runs_calls() -> None:
    source = """
    async def work():
        return os.getpid()

    def generation(depth):
        assert run(work()) == os.getpid()
        if depth and os.fork() == 0:
            generation(depth - 1)
            sys.exit()
        if depth:
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        assert run(work()) == os.getpid()

    generation(3)
    say("done")
    """
    assert [line for line in run_program(source) if not line.startswith("engine")] == ["done"]
