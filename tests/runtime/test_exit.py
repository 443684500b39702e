"""The end of a program: it ends soon, with its exit status and without a message, whatever calls still run."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest

from tests.runtime.calls import SOON
from tests.runtime.scripts import Script
from tests.servers.faults import OK, Fault, FaultServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


PROGRAMS = {
    "stream-of-the-module": """
        model = make_model()
        stream = model.generate_stream(QUESTION, **LONG)
        next(stream)
    """,
    "stream-of-a-function": """
        model = make_model()
        def main():
            for delta in model.generate_stream(QUESTION, **LONG):
                if delta.content:
                    sys.exit()
        say("exiting")
        main()
    """,
    "stream-in-a-reference-cycle": """
        class Holder: pass
        holder = Holder()
        holder.me, holder.model = holder, make_model()
        holder.stream = holder.model.generate_stream(QUESTION, **LONG)
        next(holder.stream)
    """,
    "stream-in-a-daemon-thread": """
        model, started = make_model(), threading.Event()
        def read():
            for delta in model.generate_stream(QUESTION, **LONG):
                started.set()
        threading.Thread(target=read, daemon=True).start()
        started.wait()
    """,
    "call-in-a-daemon-thread": """
        model = make_model()
        threading.Thread(target=model.generate, args=(QUESTION,), kwargs=LONG, daemon=True).start()
        time.sleep(0.5)
    """,
    "loop-in-a-daemon-thread": """
        model, started = make_model(), threading.Event()
        async def read():
            async for delta in model.agenerate_stream(QUESTION, **LONG):
                started.set()
        threading.Thread(target=lambda: asyncio.run(read()), daemon=True).start()
        started.wait()
    """,
    "loop-that-ends": """
        model = make_model()
        async def read():
            async for delta in model.agenerate_stream(QUESTION, **LONG):
                if delta.content:
                    return
        asyncio.run(read())
    """,
    "loop-whose-stream-outlives-it": """
        model, kept = make_model(), []
        async def read():
            kept.append(model.agenerate_stream(QUESTION, **LONG))
            await anext(kept[0])
        asyncio.run(read())
    """,
    "idle-model": """
        model = make_model()
        model.generate("hello", max_tokens=1)
    """,
    "closed-model": """
        model = make_model()
        with model, model.generate_stream(QUESTION, **LONG) as stream:
            next(stream)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("backend", ["remote", "sdk", pytest.param("local", marks=pytest.mark.engine)])
def test_program_exits_soon_and_prints_nothing(server: FaultServer, tmp_path: Path, backend: str, name: str) -> None:
    """Calls and streams that are still open do not delay the exit."""
    if (backend, name) == ("sdk", "loop-whose-stream-outlives-it"):
        pytest.skip("asyncio complains about such a stream also if the SDK is used without modelport")
    server.script(then=Fault.cut("stall") if name != "idle-model" else OK)
    if name == "call-in-a-daemon-thread":
        server.script(then=Fault.slow(30.0))
    source = textwrap.dedent(PROGRAMS[name])
    if "say(" not in source:
        source += "\nsay('exiting')\n"
    environment = {"URL": server.base_url, "BACKEND": backend, "TRANSPORT": backend}
    with Script(tmp_path, source, deadline=30, **environment) as script:
        assert script.line() == "exiting"
        start = time.monotonic()
        assert script.finish() == ""
        assert time.monotonic() - start < SOON


def test_call_in_an_exit_handler_works_before_the_shutdown_and_raises_after_it(
    server: FaultServer, tmp_path: Path
) -> None:
    """modelport's own exit handler runs between the two calls."""
    source = """
    import atexit
    from modelport.runtime import lifecycle

    def last():
        try:
            say("Paris" in model.generate(QUESTION).content)
        except BaseException as error:
            say(type(error).__name__, error)

    atexit.unregister(lifecycle._shut_down)
    atexit.register(last)  # as if before the import of modelport, so that it runs last
    atexit.register(lifecycle._shut_down)
    atexit.register(last)
    model = remote()
    model.generate(QUESTION)
    """
    with Script(tmp_path, source, deadline=20, URL=server.base_url) as script:
        assert script.finish() == "True\nRuntimeError the interpreter is shutting down: no call can be made any more"
