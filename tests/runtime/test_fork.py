"""Calls after a fork and in other processes: children call and exit in every way, without effect on the parent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.calls import RESPONSE
from tests.runtime.scripts import Script
from tests.servers.faults import OK, FaultServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


FORKING_PROGRAM = """
model, is_local = make_model(), os.environ["BACKEND"] == "local"
OPTIONS = dict(max_tokens=12, temperature=0)
failures, done, counts = [], threading.Event(), [0] * {threads}

def call(streamed=False):
    if streamed:
        text = "".join(delta.content or "" for delta in model.generate_stream(QUESTION, **OPTIONS))
    else:
        text = model.generate(QUESTION, **OPTIONS).content
    assert "Paris" in text, text

def call_repeatedly(i):
    try:
        while not done.is_set():
            call(streamed=i % 2 == 0)
            counts[i] += 1
    except BaseException as error:
        failures.append((i, repr(error)))

def wait_for(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"

call()
threads = [threading.Thread(target=call_repeatedly, args=(i,)) for i in range({threads})]
for thread in threads:
    thread.start()
in_child = False
for number in range({forks}):
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        in_child = True
        if number % 2 == 0:  # The others exit without a call.
            call(streamed=number % 4 == 0)
        if number % 3 == 0:
            os._exit(7)
        if number % 3 == 1:
            sys.exit(7)
        break  # The program goes on to its end.
    code = wait_for(pid)
    if code != (0 if number % 3 == 2 else 7):
        failures.append(("child", number, code))
    call()  # This uses the connection, or the engine, that the child has inherited too.
if not in_child:
    before = list(counts)
    deadline = time.monotonic() + 20
    while any(a == b for a, b in zip(before, counts)) and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join(20)
    say(failures or "no failures", all(b > a for a, b in zip(before, counts)), [t for t in threads if t.is_alive()])
"""


@pytest.mark.parametrize("threads", [8, 0], ids=["under-load", "idle"])
def test_forked_children_call_and_exit_without_effect_on_the_parent(
    server: FaultServer, tmp_path: Path, threads: int
) -> None:
    """Children exit in every way. The parent's threads and open connections are not affected."""
    server.script(then=OK.replace(pace_s=0.002))
    source = FORKING_PROGRAM.format(threads=threads, forks=12)
    with Script(tmp_path, source, URL=server.base_url, BACKEND="remote") as script:
        assert script.finish() == "no failures True []"


@pytest.mark.engine
@pytest.mark.parametrize("threads", [8, 0], ids=["under-load", "idle"])
def test_forked_children_with_an_engine_load_their_own(tmp_path: Path, threads: int) -> None:
    """A child that calls loads an engine of its own. A child without a call does not touch the parent's engine."""
    with Script(tmp_path, FORKING_PROGRAM.format(threads=threads, forks=6), deadline=90, BACKEND="local") as script:
        assert script.finish() == "no failures True []"


def test_stream_across_a_fork_is_read_in_the_parent_alone(server: FaultServer, tmp_path: Path) -> None:
    server.script(then=OK.replace(pace_s=0.02))
    source = """
    model = remote()
    stream = model.generate_stream(QUESTION)
    text = next(stream).content
    unread = model.generate_stream(QUESTION)
    if os.fork() == 0:
        try:
            next(stream)
        except RuntimeError as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError("read in the child")
        # The stream had not started, so it belongs to the child too.
        assert "Paris" in "".join(delta.content or "" for delta in unread)
        stream.close()
        del stream
    else:
        _, status = os.wait()
        text += "".join(delta.content or "" for delta in stream)
        say(os.waitstatus_to_exitcode(status), text, len([*unread]) > 0)
    """
    with Script(tmp_path, source, URL=server.base_url) as script:
        assert script.finish() == f"0 {RESPONSE} True"


def test_fork_inside_own_generate_ends_in_the_child_and_returns_in_the_parent(
    server: FaultServer, tmp_path: Path
) -> None:
    """The child exits through modelport's frames, and does not wait for the call, which goes on in the parent."""
    source = """
    class Forks(Model):
        def generate(self, messages, stop_sequences=None, **kwargs):
            pid = os.fork()
            if pid == 0:
                sys.exit(3)
            return f"child {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"

    class CallsForks(Model):
        async def deltas(self, request):
            async with Forks().agenerate_stream("hello") as stream:
                async for delta in stream:
                    yield delta

    start = time.monotonic()
    for model in (Forks(), CallsForks()):
        say([delta.content for delta in model.generate_stream("hello")][0])
    say(CallsForks().generate("hello").content)
    assert time.monotonic() - start < 5, time.monotonic() - start
    """
    with Script(tmp_path, source) as script:
        assert script.finish() == "\n".join(["child 3"] * 3)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("backend", ["remote", pytest.param("local", marks=pytest.mark.engine)])
def test_model_in_a_multiprocessing_worker_responds(
    server: FaultServer, tmp_path: Path, method: str, backend: str
) -> None:
    """The model comes to the other process by pickle or by fork."""
    source = f"""
    def call(model):
        return "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).content

    if __name__ == "__main__":
        model = make_model()
        assert call(model)
        with multiprocessing.get_context({method!r}).Pool(1) as pool:
            responses = pool.apply_async(call, (model,)).get(40), call(model)
            pool.close()
            pool.join()
        say(*responses)
    """
    key = "test-key-0123456789"
    with Script(tmp_path, source, URL=server.base_url, BACKEND=backend, OPENAI_API_KEY=key) as script:
        assert script.finish() == "True True"
