"""Processes, threads, loops and signals: calls work in every one of them and leave nothing behind.

On real things: a scripted HTTP server, llama.cpp's own server, and llama.cpp in this process. Where a process ends, it
is one of our own, so that it may also hang or crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageStreamDelta, LlamaCppModel, Model, OpenAIServerModel
from modelport.errors import ModelError
from modelport.runtime import portal
from tests.servers.faults import OK, Fault, FaultServer, Reply
from tests.servers.llamacpp import LlamaServer, llama_server, model_file

ANSWER = Reply().text
QUESTION = "What is the capital of France? Answer in one sentence."
#: A request that would keep an engine busy for longer than any test here waits.
LONG: dict[str, Any] = {"max_tokens": 3000, "ignore_eos": True, "temperature": 0}
#: How soon an engine must have stopped, or a process ended, on a busy machine; a call left alone takes much longer.
SOON = 4.0

pytestmark = pytest.mark.timeout(120)

PREAMBLE = """
import asyncio, faulthandler, logging, multiprocessing, os, signal, sys, threading, time

# Not dump_traceback_later, which hangs in a child that was forked beside it.
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm({deadline})
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
logging.getLogger("asyncio").setLevel(logging.ERROR)  # a slow callback is no fault on a busy machine

from modelport import LlamaCppModel, Model, OpenAIServerModel

QUESTION = "{question}"
LONG = {long}
MORE = dict(client_kwargs=dict(timeout=20)) if os.environ.get("TRANSPORT") == "sdk" else dict()

def remote(**settings):
    return OpenAIServerModel(
        "m", os.environ["URL"], "test-key-0123456789", **dict(dict(timeout=20, retry=False), **MORE, **settings)
    )

def local(**settings):
    settings = dict(dict(context_length=4096, parallel=1, threads=1, timeout=60, retry=False), **settings)
    return LlamaCppModel(os.environ["GGUF"], **settings)

def either():
    return local() if os.environ["BACKEND"] == "local" else remote()

def say(*words):
    print(*words, flush=True)
"""


class Script:
    """A program that runs in a process of its own, in development mode, with every warning an error."""

    def __init__(self, folder: Path, source: str, deadline: int = 60, **environment: str) -> None:
        path = folder / "script.py"
        preamble = PREAMBLE.format(deadline=deadline, question=QUESTION, long=LONG)
        path.write_text(preamble + textwrap.dedent(source))
        # Python 3.12 and later warn of a fork beside threads, which is what is tested here.
        flags = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        self.deadline = deadline
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "GGUF": str(model_file()), **environment},
        )

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and the children that it forked
        self.process.communicate()

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"it ended: {self.process.communicate(timeout=self.deadline)}"
        return line

    def finish(self, code: int = 0) -> str:
        """What else it says until it ends; it must end well, and silently."""
        out, err = self.process.communicate(timeout=self.deadline + 10)
        assert (self.process.returncode, err) == (code, ""), f"{self.process.returncode}\n{out}\n{err}"
        return out.strip()


@pytest.fixture(scope="module")
def running() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture
def server(running: FaultServer) -> FaultServer:
    running.settle()
    return running


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaServer]:
    with llama_server(n_parallel=2, n_ctx=2 * 4096) as server:
        yield server


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCppModel]:
    """One slot: a request that still runs makes the next one wait. Small batches: so soon a prompt can be given up."""
    settings: dict[str, Any] = {"parallel": 1, "threads": 1, "engine_params": {"n_batch": 64}}
    with LlamaCppModel(model_file(), context_length=4096, retry=False, **settings) as model:
        model.generate(QUESTION, max_tokens=1)
        yield model


@pytest.fixture(params=["remote", "local"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    """Real weights, behind HTTP and in this process."""
    if request.param == "local":
        yield request.getfixturevalue("engine")
        return
    server = request.getfixturevalue("llama")
    with OpenAIServerModel("m", server.base_url, server.api_key, retry=False, dialect="llama.cpp") as remote:
        yield remote
    server.wait_until_idle()


def assert_free(model: Model, llama: LlamaServer) -> None:
    """The engine has stopped, and nothing that served the call is left."""
    if isinstance(model, LlamaCppModel):
        begun = time.monotonic()
        assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).text
        assert time.monotonic() - begun < SOON
    else:
        llama.wait_until_idle(SOON)
        assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).text
    # MLX's threads wait for the next model, and idle ones for more work, whichever test they once served.
    names = lambda: {t.name for t in threading.enumerate()} - {"modelport-mlx", "modelport-idle"}  # noqa: E731
    wait_until(lambda: not [name for name in names() if name.startswith("modelport-")])
    wait_until(lambda: not asyncio.all_tasks(portal._loop_thread().loop))


def wait_until(condition: Any, timeout: float = SOON) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, (threading.enumerate(), asyncio.all_tasks(portal._loop_thread().loop))
        time.sleep(0.01)


def text_of(stream: Any) -> str:
    return "".join(delta.content or "" for delta in stream)


# --- fork -------------------------------------------------------------------------------------------------------------

FORKS = """
model, is_local = either(), os.environ["BACKEND"] == "local"
OPTIONS = dict(max_tokens=12, temperature=0)
failures, done, counts = [], threading.Event(), [0] * {threads}

def ask(streamed=False):
    if streamed:
        text = "".join(delta.content or "" for delta in model.generate_stream(QUESTION, **OPTIONS))
    else:
        text = model.generate(QUESTION, **OPTIONS).content
    assert "Paris" in text, text

def load(i):
    try:
        while not done.is_set():
            ask(streamed=i % 2 == 0)
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

ask()
threads = [threading.Thread(target=load, args=(i,)) for i in range({threads})]
for thread in threads:
    thread.start()
in_child = False
for number in range({forks}):
    pid = os.fork()
    if pid == 0:
        signal.alarm(15)
        in_child = True
        if number % 2 == 0:  # the others leave without a call
            ask(streamed=number % 4 == 0)
        if number % 3 == 0:
            os._exit(7)
        if number % 3 == 1:
            sys.exit(7)
        break  # to the end of the program
    code = wait_for(pid)
    if code != (0 if number % 3 == 2 else 7):
        failures.append(("child", number, code))
    ask()  # on the connection, or the engine, that the child has inherited too
if not in_child:
    before = list(counts)
    deadline = time.monotonic() + 20
    while any(a == b for a, b in zip(before, counts)) and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join(20)
    say(failures or "well", all(b > a for a, b in zip(before, counts)), [t for t in threads if t.is_alive()])
"""


@pytest.mark.parametrize("threads", [8, 0], ids=["under load", "idle"])
def test_fork(server: FaultServer, tmp_path: Path, threads: int) -> None:
    """Children call, and leave in every way; the parent's threads, and its kept connections, never notice."""
    server.script(then=OK.replace(pace_s=0.002))
    source = FORKS.format(threads=threads, forks=12)
    with Script(tmp_path, source, URL=server.base_url, BACKEND="remote") as script:
        assert script.finish() == "well True []"


@pytest.mark.parametrize("threads", [8, 0], ids=["under load", "idle"])
def test_fork_with_an_engine(tmp_path: Path, threads: int) -> None:
    """A child that calls loads an engine of its own; one that does not leaves the parent's alone."""
    with Script(tmp_path, FORKS.format(threads=threads, forks=6), deadline=90, BACKEND="local") as script:
        assert script.finish() == "well True []"


def test_a_stream_held_across_a_fork(server: FaultServer, tmp_path: Path) -> None:
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
        assert "Paris" in "".join(delta.content or "" for delta in unread)  # it had not begun: it is the child's own
        stream.close()
        del stream
    else:
        _, status = os.wait()
        text += "".join(delta.content or "" for delta in stream)
        say(os.waitstatus_to_exitcode(status), text, len([*unread]) > 0)
    """
    with Script(tmp_path, source, URL=server.base_url) as script:
        assert script.finish() == f"0 {ANSWER} True"


def test_a_fork_inside_a_models_own_generate(server: FaultServer, tmp_path: Path) -> None:
    """The child leaves through our frames, and does not wait for a call that goes on in the parent alone."""
    source = """
    class Forks(Model):
        def generate(self, messages, stop_sequences=None, **kwargs):
            pid = os.fork()
            if pid == 0:
                sys.exit(3)
            return f"child {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"

    class Relays(Model):
        async def deltas(self, request):
            async with Forks().agenerate_stream("hello") as stream:
                async for delta in stream:
                    yield delta

    begun = time.monotonic()
    for model in (Forks(), Relays()):
        say([delta.content for delta in model.generate_stream("hello")][0])
    say(Relays().generate("hello").content)
    assert time.monotonic() - begun < 5, time.monotonic() - begun
    """
    with Script(tmp_path, source) as script:
        assert script.finish() == "\n".join(["child 3"] * 3)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("backend", ["remote", "local"])
def test_multiprocessing(server: FaultServer, tmp_path: Path, method: str, backend: str) -> None:
    """A model goes to another process by pickle, or by fork, and works there."""
    source = f"""
    def ask(model):
        return "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).content

    if __name__ == "__main__":
        model = either()
        assert ask(model)
        with multiprocessing.get_context({method!r}).Pool(1) as pool:
            said = pool.apply_async(ask, (model,)).get(40), ask(model)
            pool.close()
            pool.join()
        say(*said)
    """
    environment = {"OPENAI_API_KEY": "test-key-0123456789"}
    with Script(tmp_path, source, URL=server.base_url, BACKEND=backend, **environment) as script:
        assert script.finish() == "True True"


# --- loops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaves", "transport"),
    [
        ("reads all", "http"),
        ("leaves", "http"),
        ("leaves and holds", "http"),
        ("leaves a waiting call", "http"),
        ("reads all", "sdk"),
        ("leaves", "sdk"),
        ("leaves a waiting call", "sdk"),
        # Of a stream held past the end of its loop asyncio complains with the SDK alone, too.
    ],
)
def test_asyncio_run_fifty_times(server: FaultServer, tmp_path: Path, transport: str, leaves: str) -> None:
    """No socket is left and nothing is said of one, on one model."""
    source = f"""
    import gc

    model, held, leaves = remote(), [], {leaves!r}

    async def main():
        if leaves == "leaves a waiting call":
            held.append(asyncio.create_task(model.agenerate(QUESTION)))
            await asyncio.sleep(0.06)  # Left while it connects, anyio's coroutine for that is never awaited.
            return
        assert "Paris" in (await model.agenerate(QUESTION)).content
        stream = model.agenerate_stream(QUESTION)
        if leaves == "leaves and holds":
            held.append(stream)
        async for delta in stream:
            if delta.content and leaves != "reads all":
                break

    def sockets():
        links = []
        for number in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{{number}}"))
            except FileNotFoundError:
                pass  # of the listing itself
        return [link for link in links if "socket" in link or "eventpoll" in link]

    asyncio.run(asyncio.sleep(0))
    for i in range(50):
        asyncio.run(main())
    gc.collect()
    say(sockets(), threading.active_count())
    """
    server.script(then=OK.replace(pace_s=0.002))
    if leaves == "leaves a waiting call":  # for the head, or in the middle of the body
        server.script([Fault.slow(5.0)] * 25, then=Fault.cut("stall"))
    with Script(tmp_path, source, URL=server.base_url, TRANSPORT=transport) as script:
        assert script.finish() == "[] 1"
    server.wait_for(lambda: server.open_connections == 0)
    assert len(server.requests) == 100 or leaves == "leaves a waiting call"


def test_asyncio_run_with_an_engine(tmp_path: Path) -> None:
    """Loops come and go, with streams held half-read past their end; the one engine serves them all, in silence."""
    source = """
    model, held = local(), []

    async def main():
        held.append(model.agenerate_stream(QUESTION, **LONG))
        await anext(held[-1])

    for i in range(8):
        asyncio.run(main())
    say("Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).content)
    """
    with Script(tmp_path, source) as script:
        assert script.finish() == "True"


def test_a_sync_call_inside_a_running_loop(server: FaultServer) -> None:
    """As in a notebook, whose cells run in a loop."""
    with OpenAIServerModel("m", server.base_url, "k") as model:

        async def cell() -> None:
            assert model.generate("hello").content == ANSWER
            assert text_of(model.generate_stream("hello")) == ANSWER
            assert (await model.agenerate("hello")).content == ANSWER
            assert model("hello").content == ANSWER

        asyncio.run(cell())
    assert server.connections_opened == 2


def test_a_sync_call_on_our_own_loop_is_a_clear_error(server: FaultServer) -> None:
    """It would wait for itself."""

    class Nested(Model):
        def __init__(self, inner: Model) -> None:
            super().__init__("nested")
            self.inner = inner

        async def deltas(self, request: Any) -> Any:
            with self.inner.generate_stream("hello") as stream:
                for _ in range(2):  # and a second try does not wait either
                    with pytest.raises(RuntimeError, match="agenerate"):
                        next(stream)
            yield self.inner.generate("hello")

    with OpenAIServerModel("m", server.base_url, "k") as inner:
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match=r"modelport's own loop thread.*agenerate"):
            Nested(inner).generate("hello")
        assert time.monotonic() - begun < SOON
    assert server.requests == []


def test_a_call_sees_its_callers_context(server: FaultServer) -> None:
    """In the task of a sync call, in a stream's, in a newcomer's thread, and in a sync client's."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")
    seen: list[str] = []

    class Backend(Model):
        async def deltas(self, request: Any) -> Any:
            seen.append(variable.get())
            yield ChatMessageStreamDelta(content="x")

    class Newcomer(Model):
        def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> Any:
            seen.append(variable.get())
            return ChatMessage("assistant", "x")

    variable.set("mine")
    for model in (Backend(), Newcomer()):
        model.generate("hello")
        list(model.generate_stream("hello"))

        async def calls(model: Model = model) -> None:
            await model.agenerate("hello")
            async for _ in model.agenerate_stream("hello"):
                pass

        asyncio.run(calls())
    assert seen == ["mine"] * 8


# --- models that call models ------------------------------------------------------------------------------------------


class Leaf(Model):
    def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> ChatMessage:
        time.sleep(0.001)
        return ChatMessage("assistant", "leaf")


class Asks(Model):
    """A newcomer's model that asks another one, in each of the ways there are."""

    def __init__(self, inner: Model, way: str = "sync") -> None:
        super().__init__("asks")
        self.inner, self.way = inner, way

    def generate(self, messages: Any, stop_sequences: Any = None, **kwargs: Any) -> ChatMessage:
        if self.way == "streamed":
            return ChatMessage("assistant", text_of(self.inner.generate_stream(messages)))
        if self.way == "async":

            async def many() -> list[ChatMessage]:
                return await asyncio.gather(*(self.inner.agenerate(messages) for _ in range(4)))

            return asyncio.run(many())[-1]
        return self.inner.generate(messages)


class Relays(Model):
    """A backend that awaits another model."""

    def __init__(self, inner: Model) -> None:
        super().__init__("relays")
        self.inner = inner

    async def deltas(self, request: Any) -> Any:
        async with self.inner.agenerate_stream(list(request.messages)) as stream:
            async for delta in stream:
                yield delta


@pytest.mark.parametrize(
    "model",
    [
        Asks(Leaf()),
        Asks(Asks(Asks(Leaf()), "streamed")),
        Asks(Leaf(), "async"),
        Relays(Asks(Relays(Leaf()))),
        Asks(Relays(Asks(Leaf(), "streamed")), "async"),
    ],
    ids=["sync", "deep", "async", "relayed", "mixed"],
)
def test_models_that_call_models(model: Model) -> None:
    """Twelve threads of sync calls and a fan-out of 64 at once: nobody waits for a place that another holds."""
    failures: list[BaseException] = []

    def calls() -> None:
        try:
            for _ in range(5):
                assert model.generate("hello").content == "leaf"
                assert text_of(model.generate_stream("hello")) == "leaf"
        except BaseException as error:
            failures.append(error)

    async def fan_out() -> set[str | None]:
        messages = await asyncio.gather(*(model.agenerate("hello") for _ in range(64)))
        return {str(message.content) for message in messages}

    threads = [threading.Thread(target=calls, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert asyncio.run(asyncio.wait_for(fan_out(), 30)) == {"leaf"}
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)


def test_twelve_fan_outs_at_once() -> None:
    model, answers = Asks(Asks(Leaf())), []

    async def fan_out() -> None:
        answers.extend(await asyncio.gather(*(model.agenerate("hello") for _ in range(64))))

    threads = [threading.Thread(target=lambda: asyncio.run(fan_out()), daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 12 * 64
    assert {message.content for message in answers} == {"leaf"}


def test_threads_of_remote_models(server: FaultServer) -> None:
    """A newcomer's model over a remote one: twelve threads, one pool of connections."""
    server.script(then=OK.replace(delay_s=0.01))
    answers: list[str] = []
    with OpenAIServerModel("m", server.base_url, "k") as inner:
        model = Asks(inner, "streamed")

        def calls() -> None:
            answers.extend(str(model.generate("hello").content) for _ in range(5))

        threads = [threading.Thread(target=calls, daemon=True) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert answers == [ANSWER] * 60
    assert server.connections_opened <= 12


# --- a stream that is left half-read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "with", "break and forget", "an error of the caller's"])
def test_a_stream_that_is_left(model: Model, llama: LlamaServer, way: str) -> None:
    """The engine stops, its slot is free, and neither a task nor a thread is left."""
    for _ in range(2):
        stream = model.generate_stream(QUESTION, **LONG)
        for delta in stream:
            if delta.content:
                break
        begun = time.monotonic()
        if way == "close":
            stream.close()
            assert list(stream) == []
        elif way == "with":
            with stream:
                pass
        elif way == "an error of the caller's":
            with pytest.raises(ZeroDivisionError), stream:
                raise ZeroDivisionError
        assert stream.message.text
        del stream
        assert time.monotonic() - begun < SOON
        assert_free(model, llama)


@pytest.mark.parametrize("way", ["close", "with", "break and forget", "hold", "cancel"])
def test_an_async_stream_that_is_left(model: Model, llama: LlamaServer, way: str) -> None:
    held = []

    async def leave() -> None:
        stream = model.agenerate_stream(QUESTION, **LONG)
        async for delta in stream:
            if delta.content:
                break
        if way == "close":
            await stream.close()
        elif way == "with":
            async with stream:
                pass
        elif way == "hold":
            held.append(stream)  # and the loop ends
            return
        elif way == "cancel":
            task = asyncio.ensure_future(_rest(stream))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        del stream
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert "Paris" in (await model.agenerate(QUESTION, max_tokens=12, temperature=0)).text

    for _ in range(2):
        asyncio.run(leave())
        assert_free(model, llama)


async def _rest(stream: Any) -> None:
    async for _ in stream:
        pass


def test_closing_waits_for_the_engine(engine: LlamaCppModel) -> None:
    """When `close` returns the engine has stopped, so that its thread is at its very end."""

    def at_its_end() -> bool:
        return not [t for t in threading.enumerate() if t.name == "modelport-stream"]

    with engine.generate_stream(QUESTION, **LONG) as stream:
        next(stream)
    wait_until(at_its_end, 0.1)

    async def the_same() -> None:
        async with engine.agenerate_stream(QUESTION, **LONG) as stream:
            await anext(stream)
        wait_until(at_its_end, 0.1)  # blocks the loop, which therefore can't help it along

    asyncio.run(the_same())


def test_closing_closes_the_connection(server: FaultServer) -> None:
    """When `close` returns the connection is closed, not some time later."""
    server.script(then=Fault.cut("stall", stall_s=9.0))
    with OpenAIServerModel("m", server.base_url, "k") as model:

        def kept() -> int:
            return sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket") for fd in _fds())

        model.generate_stream("hello").close()  # never begun: nothing was sent
        assert server.requests == []
        before = kept()
        with model.generate_stream("hello") as stream:
            next(stream)
            assert kept() == before + 2  # ours and the server's end
        server.wait_for(lambda: kept() == before, 1.0)
    server.script()


def _fds() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.readlink(f"/proc/self/fd/{fd}")
            found.append(fd)
        except FileNotFoundError:
            pass
    return found


def test_a_stream_that_is_held_unread(model: Model, llama: LlamaServer) -> None:
    """It holds up nobody: other calls go on beside it, and its own answer waits for its reader."""
    options = {**LONG, "max_tokens": 40}
    stream = model.generate_stream(QUESTION, **options)
    next(stream)
    assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).text
    assert_free(model, llama)
    assert len(text_of(stream)) > 40
    assert stream.message.finish_reason == "length"


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_a_call(model: Model, llama: LlamaServer) -> None:
    async def cancel() -> None:
        for _ in range(3):
            task = asyncio.create_task(model.agenerate(QUESTION, **LONG))
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            assert time.monotonic() - begun < SOON
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await model.agenerate(QUESTION, **LONG)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        # The connection and the slot are as good as new.
        answers = await asyncio.gather(*(model.agenerate(QUESTION, max_tokens=12, temperature=0) for _ in range(3)))
        assert {"Paris" in answer.text for answer in answers} == {True}

    asyncio.run(cancel())
    assert_free(model, llama)


def test_cancelling_before_the_first_token(engine: LlamaCppModel, llama: LlamaServer) -> None:
    """A prompt that takes seconds to read is given up within a batch of it."""
    prompt = "word " * 3000

    async def cancel() -> None:
        task = asyncio.create_task(engine.agenerate(prompt, max_tokens=5))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert_free(engine, llama)


def test_one_cancelled_call_does_not_hurt_its_neighbours(server: FaultServer) -> None:
    server.script(then=OK.replace(delay_s=0.1))
    with OpenAIServerModel("m", server.base_url, "k", retry=False) as model:

        async def go() -> None:
            for round in range(5):
                tasks = [asyncio.create_task(model.agenerate("hello")) for _ in range(10)]
                await asyncio.sleep(0.01 * round)
                for task in tasks[::2]:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(isinstance(error, asyncio.CancelledError) for error in done[::2])
                assert [message.content for message in done[1::2]] == [ANSWER] * 5  # type: ignore[union-attr]

        asyncio.run(go())


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

INTERRUPT = """
model = either()
model.generate("hello", max_tokens=1)
begun = None
try:
    if {streamed}:
        # Held: it is not its end that stops the engine. Only a local engine writes on, so that the signal may come
        # between two reads, where it is the reader's own to close the stream.
        stream = model.generate_stream(QUESTION, **LONG)
        for delta in stream:
            if begun is None and delta.content:
                begun = True
                say("go")
    else:
        threading.Timer(0.5, say, ["go"]).start()
        model.generate(QUESTION, **LONG)
except KeyboardInterrupt:
    if {streamed} and os.environ["BACKEND"] == "local":
        stream.close()
    say("interrupted")
signal.alarm(15)
begun = time.monotonic()
assert "Paris" in model.generate(QUESTION, max_tokens=12, temperature=0).content
assert "Paris" in "".join(d.content or "" for d in model.generate_stream(QUESTION, max_tokens=12, temperature=0))
say("well", time.monotonic() - begun < 4)
"""


@pytest.mark.parametrize("streamed", [False, True], ids=["generate", "generate_stream"])
@pytest.mark.parametrize("backend", ["remote", "local"])
def test_ctrl_c(server: FaultServer, tmp_path: Path, backend: str, streamed: bool) -> None:
    """`KeyboardInterrupt` reaches the caller at once, the engine stops, and the model works afterwards."""
    server.script([OK, Fault.cut("stall") if streamed else Fault.slow(30.0)])
    with Script(tmp_path, INTERRUPT.format(streamed=streamed), URL=server.base_url, BACKEND=backend) as script:
        assert script.line() == "go"
        begun = time.monotonic()
        script.process.send_signal(signal.SIGINT)
        assert script.line() == "interrupted"
        assert time.monotonic() - begun < 2.0
        if backend == "remote":
            server.wait_for(lambda: server.requests[1].client_left, 2.0)
        assert script.finish() == "well True"


@pytest.mark.parametrize("backend", ["remote", "local"])
def test_ctrl_c_that_nobody_catches(server: FaultServer, tmp_path: Path, backend: str) -> None:
    """The process ends by it, as any other does."""
    server.script([OK, Fault.slow(30.0)])
    source = """
    model = either()
    model.generate("hello", max_tokens=1)
    threading.Timer(0.5, say, ["go"]).start()
    model.generate(QUESTION, **LONG)
    """
    with Script(tmp_path, source, URL=server.base_url, BACKEND=backend) as script:
        assert script.line() == "go"
        script.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, err = script.process.communicate(timeout=30)
        assert time.monotonic() - begun < SOON
    assert script.process.returncode == -signal.SIGINT
    assert err.strip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1


def test_ctrl_c_in_a_newcomers_generate(tmp_path: Path) -> None:
    """It is raised in the newcomer's own code, which runs in the caller's thread."""
    source = """
    class Slow(Model):
        def generate(self, messages, stop_sequences=None, **kwargs):
            try:
                say("go")
                time.sleep(30)
            except KeyboardInterrupt:
                say("mine")
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
            assert [script.line(), script.line()] == ["mine", "interrupted"]
        assert script.finish() == ""


# --- leaving the program ----------------------------------------------------------------------------------------------

EXITS = {
    "a stream of the module": """
        model = either()
        stream = model.generate_stream(QUESTION, **LONG)
        next(stream)
    """,
    "a stream of a function": """
        model = either()
        def main():
            for delta in model.generate_stream(QUESTION, **LONG):
                if delta.content:
                    sys.exit()
        say("leaving")
        main()
    """,
    "a stream in a cycle": """
        class Holder: pass
        holder = Holder()
        holder.me, holder.model = holder, either()
        holder.stream = holder.model.generate_stream(QUESTION, **LONG)
        next(holder.stream)
    """,
    "a stream in a daemon thread": """
        model, begun = either(), threading.Event()
        def read():
            for delta in model.generate_stream(QUESTION, **LONG):
                begun.set()
        threading.Thread(target=read, daemon=True).start()
        begun.wait()
    """,
    "a call in a daemon thread": """
        model = either()
        threading.Thread(target=model.generate, args=(QUESTION,), kwargs=LONG, daemon=True).start()
        time.sleep(0.5)
    """,
    "a loop in a daemon thread": """
        model, begun = either(), threading.Event()
        async def read():
            async for delta in model.agenerate_stream(QUESTION, **LONG):
                begun.set()
        threading.Thread(target=lambda: asyncio.run(read()), daemon=True).start()
        begun.wait()
    """,
    "a loop that ends": """
        model = either()
        async def read():
            async for delta in model.agenerate_stream(QUESTION, **LONG):
                if delta.content:
                    return
        asyncio.run(read())
    """,
    "a loop that holds": """
        model, held = either(), []
        async def read():
            held.append(model.agenerate_stream(QUESTION, **LONG))
            await anext(held[0])
        asyncio.run(read())
    """,
    "an idle model": """
        model = either()
        model.generate("hello", max_tokens=1)
    """,
    "a closed model": """
        model = either()
        with model, model.generate_stream(QUESTION, **LONG) as stream:
            next(stream)
    """,
}


@pytest.mark.parametrize("name", EXITS)
@pytest.mark.parametrize("backend", ["remote", "sdk", "local"])
def test_leaving_the_program(server: FaultServer, tmp_path: Path, backend: str, name: str) -> None:
    """It ends within a second or so, well, and without a word."""
    if (backend, name) == ("sdk", "a loop that holds"):
        pytest.skip("asyncio complains of that with the SDK alone, too")
    server.script(then=Fault.cut("stall") if name != "an idle model" else OK)
    if name == "a call in a daemon thread":
        server.script(then=Fault.slow(30.0))
    source = textwrap.dedent(EXITS[name])
    if "say(" not in source:
        source += "\nsay('leaving')\n"
    environment = {"URL": server.base_url, "BACKEND": backend, "TRANSPORT": backend}
    with Script(tmp_path, source, deadline=30, **environment) as script:
        assert script.line() == "leaving"
        begun = time.monotonic()
        assert script.finish() == ""
        assert time.monotonic() - begun < SOON


def test_a_call_at_the_very_end(server: FaultServer, tmp_path: Path) -> None:
    """A call from an exit handler works before our own has run, and fails at once after it."""
    source = """
    import atexit
    from modelport.runtime import lifecycle

    def last():
        try:
            say("Paris" in model.generate(QUESTION).content)
        except BaseException as error:
            say(type(error).__name__, error)

    atexit.unregister(lifecycle._shut_down)
    atexit.register(last)  # as if before we were imported, and so to run after we have shut down
    atexit.register(lifecycle._shut_down)
    atexit.register(last)
    model = remote()
    model.generate(QUESTION)
    """
    with Script(tmp_path, source, deadline=20, URL=server.base_url) as script:
        assert script.finish() == "True\nRuntimeError the interpreter is shutting down: no call can be made any more"


def test_a_model_error_is_not_lost_between_threads(server: FaultServer) -> None:
    """A sync call raises the error itself, with its cause, in the caller's thread."""
    server.script([Fault.cut("reset")])
    with OpenAIServerModel("m", server.base_url, "k") as model, pytest.raises(ModelError) as caught:
        list(model.generate_stream("hello"))
    assert caught.value.__cause__ is not None
