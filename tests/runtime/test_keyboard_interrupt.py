"""Ctrl-C: `KeyboardInterrupt` reaches the caller at once, and the engine stops."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.runtime.calls import SOON
from tests.runtime.scripts import Script
from tests.servers.faults import OK, Fault, FaultServer

pytestmark = pytest.mark.timeout(120)


INTERRUPTED_PROGRAM = """
model = make_model()
model.generate("hello", max_tokens=1)
started = False
try:
    if {streamed}:
        # The stream is stored, so that its deletion does not stop the engine. With a local engine the signal may come
        # between two reads: then the reader has to close the stream.
        stream = model.generate_stream(QUESTION, **LONG)
        for delta in stream:
            if not started and delta.content:
                started = True
                say("go")
    else:
        threading.Timer(0.5, say, ["go"]).start()
        model.generate(QUESTION, **LONG)
except KeyboardInterrupt:
    if {streamed} and os.environ["BACKEND"] == "local":
        stream.close()
    say("interrupted")
signal.alarm(15)
start = time.monotonic()
assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).content
assert "Paris" in "".join(d.content or "" for d in model.generate_stream(QUESTION, max_tokens=12, temperature=0))
say("in time", time.monotonic() - start < 4)
"""


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "generate_stream"])
@pytest.mark.parametrize("backend", ["remote", pytest.param("local", marks=pytest.mark.engine)])
def test_keyboard_interrupt_stops_the_call_and_the_model_works_afterwards(
    server: FaultServer, tmp_path: Path, backend: str, streamed: bool
) -> None:
    """`KeyboardInterrupt` reaches the caller at once, and the engine stops."""
    server.script([OK, Fault.cut("stall") if streamed else Fault.slow(30.0)])
    with Script(
        tmp_path, INTERRUPTED_PROGRAM.format(streamed=streamed), URL=server.base_url, BACKEND=backend
    ) as script:
        assert script.line() == "go"
        start = time.monotonic()
        script.process.send_signal(signal.SIGINT)
        assert script.line() == "interrupted"
        assert time.monotonic() - start < SOON
        if backend == "remote":
            server.wait_for(lambda: server.requests[1].client_left, SOON)
        assert script.finish() == "in time True"


@pytest.mark.parametrize("backend", ["remote", pytest.param("local", marks=pytest.mark.engine)])
def test_keyboard_interrupt_that_nobody_catches_ends_the_process(
    server: FaultServer, tmp_path: Path, backend: str
) -> None:
    """The process ends by the signal, and prints one traceback."""
    server.script([OK, Fault.slow(30.0)])
    source = """
    model = make_model()
    model.generate("hello", max_tokens=1)
    threading.Timer(0.5, say, ["go"]).start()
    model.generate(QUESTION, **LONG)
    """
    with Script(tmp_path, source, URL=server.base_url, BACKEND=backend) as script:
        assert script.line() == "go"
        script.process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = script.process.communicate(timeout=30)
        assert time.monotonic() - start < SOON
    assert script.process.returncode == -signal.SIGINT
    assert err.strip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1


def test_keyboard_interrupt_is_raised_in_own_generate(tmp_path: Path) -> None:
    """The author's code runs in the caller's thread."""
    source = """
    class Slow(Model):
        def generate(self, messages, stop_sequences=None, **kwargs):
            try:
                say("go")
                time.sleep(30)
            except KeyboardInterrupt:
                say("in generate")
                raise

    for call in (lambda: Slow().generate("hello"), lambda: list(Slow().generate_stream("hello"))):
        try:
            call()
        except KeyboardInterrupt:
            say("interrupted")
    """
    with Script(tmp_path, source) as script:
        for _ in range(2):
            assert script.line() == "go"
            script.process.send_signal(signal.SIGINT)
            assert [script.line(), script.line()] == ["in generate", "interrupted"]
        assert script.finish() == ""
