"""Programs that run in a process of their own, so that they may also hang or crash."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.runtime.calls import LONG, QUESTION
from tests.servers.llamacpp import model_file

PREAMBLE = """
import asyncio, faulthandler, logging, multiprocessing, os, signal, sys, threading, time

# dump_traceback_later would hang in a child that is forked meanwhile.
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm({deadline})
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell makes its background jobs ignore it.
logging.getLogger("asyncio").setLevel(logging.ERROR)  # A slow callback is no fault on a busy machine.

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

def make_model():
    return local() if os.environ["BACKEND"] == "local" else remote()

def say(*words):
    print(*words, flush=True)
"""


class Script:
    """A program in a process of its own, in development mode, with every warning an error.

    Args:
        folder: Where the program is written.
        source: The program, after `PREAMBLE`.
        deadline: When the program is ended by SIGALRM, in seconds.
        **environment: Environment variables. With `BACKEND="local"` the program gets the weights of a model.
    """

    def __init__(self, folder: Path, source: str, deadline: int = 60, **environment: str) -> None:
        path = folder / "script.py"
        preamble = PREAMBLE.format(deadline=deadline, question=QUESTION, long=LONG)
        path.write_text(preamble + textwrap.dedent(source))
        # Python 3.12 and later warn about a fork beside threads, which is tested here.
        flags = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        if environment.get("BACKEND") == "local":
            environment["GGUF"] = str(model_file())
        self.deadline = deadline
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and the children that it forked
        self.process.communicate()

    def line(self) -> str:
        """Return the next line that the program prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"the program ended: {self.process.communicate(timeout=self.deadline)}"
        return line

    def finish(self, code: int = 0) -> str:
        """Wait for the end of the program, and return what it printed; it must end with `code` and without an error."""
        out, err = self.process.communicate(timeout=self.deadline + 10)
        assert (self.process.returncode, err) == (code, ""), f"{self.process.returncode}\n{out}\n{err}"
        return out.strip()
