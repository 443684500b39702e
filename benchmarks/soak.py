"""Thousands of calls with random faults, cancels and time-outs; then nothing may be left of them.

    python benchmarks/soak.py --calls 2000
    python benchmarks/soak.py --calls 200 --only openai,llamacpp --seed 7

Each backend is asked from two event loops and two threads at once, in all four ways. Of each call that its caller does
not leave there must come an answer or a typed error; all else is lost, and the run fails. When a backend's calls are
over, what is left is counted: tasks, threads, connections, slots, rows and caches. Memory is taken at each fifth
of the calls, and must not grow over the last two. Then each model is used in a forked child, and once more in the
parent; and a program that ends in the middle of a stream must do so within a second of one that has closed it, without
a word.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.soak_subjects import LOCAL, MAKE, Subject, installed, opened, weights
from tests.remote.matrix import BACKENDS
from tests.remote.matrix_runner import server_for, threads_of_calls

from modelport import Model
from modelport.errors import ModelError
from modelport.runtime import portal as loop

WAYS = ("sync", "sync streamed", "async", "async streamed")
#: How a caller behaves, and how often.
CALLERS = ("reads",) * 5 + ("leaves", "cancels", "has no time")
WORKERS = 4
QUIET = 15.0
#: Growth of memory that is no leak: allocators keep what they had at the busiest moment.
FLAT_MIB = 24.0


# --- calls ------------------------------------------------------------------------------------------------------------


class Run:
    """Calls of one backend, from two loops and two threads."""

    def __init__(self, subject: Subject, calls: int, dice: random.Random) -> None:
        self.subject, self.calls, self.dice = subject, calls, dice
        self.outcomes: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lock = threading.Lock()
        self._given = 0
        self.memory: list[float] = []

    def go(self) -> None:
        """Makes all calls."""
        threads = [threading.Thread(target=asyncio.run, args=(self._loop(),), name=f"loop {n}") for n in range(2)]
        threads += [threading.Thread(target=self._thread, name=f"thread {n}") for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _next(self) -> bool:
        with self._lock:
            self._given += 1
            if self._given in [self.calls * fifth // 5 for fifth in range(1, 6)]:
                self.memory.append(resident())
            return self._given <= self.calls

    def _plan(self, kinds: tuple[str, ...]) -> tuple[str, str, str, dict[str, Any]]:
        with self._lock:
            way, caller = self.dice.choice(kinds), self.dice.choice(CALLERS)
            options = dict(self.subject.options)
            if caller == "has no time":
                options["timeout"] = self.dice.uniform(*self.subject.short)
            return way, caller, self.dice.choice(self.subject.prompts), options

    def _note(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, ModelError):
            self._note(type(error).__name__)
            return
        self._note("lost")
        self.lost.append("".join(traceback.format_exception(error)[-6:]))

    def _thread(self) -> None:
        model = self.subject.model
        while self._next():
            way, caller, prompt, options = self._plan(("sync", "sync streamed"))
            try:
                if way == "sync":
                    model.generate(prompt, **options)
                    self._note("answered")
                    continue
                stream = model.generate_stream(prompt, **options)
                for n, _ in enumerate(stream):
                    if caller in ("leaves", "cancels") and n == 1:
                        break
                if caller == "leaves":
                    stream.close()
                del stream
                self._note("left" if caller in ("leaves", "cancels") else "answered")
            except BaseException as error:
                self._failed(error)

    async def _loop(self) -> None:
        await asyncio.gather(*(self._worker() for _ in range(WORKERS)))
        await asyncio.sleep(0.05)
        end = time.monotonic() + QUIET
        while (left := len(asyncio.all_tasks()) - 1) and time.monotonic() < end:  # noqa: ASYNC110  # nobody would tell
            await asyncio.sleep(0.05)
        self.outcomes["tasks left"] += left

    async def _worker(self) -> None:
        while self._next():
            way, caller, prompt, options = self._plan(("async", "async streamed"))
            task = asyncio.create_task(self._call(way, caller, prompt, options))
            if caller == "cancels":
                with self._lock:
                    wait = self.dice.uniform(*self.subject.short)
                await asyncio.sleep(wait)
                task.cancel()
            try:
                self._note(await task)
            except asyncio.CancelledError:
                self._note("left" if caller == "cancels" else "lost")
            except BaseException as error:
                self._failed(error)

    async def _call(self, way: str, caller: str, prompt: str, options: dict[str, Any]) -> str:
        model = self.subject.model
        if way == "async":
            await model.agenerate(prompt, **options)
            return "answered"
        stream = model.agenerate_stream(prompt, **options)
        n = 0
        async for _ in stream:
            n += 1
            if caller == "leaves" and n == 2:
                if len(prompt) % 2:
                    await stream.close()
                return "left"
        return "answered"


def resident() -> float:
    """MiB of memory that this process holds, without what its allocator has free and keeps."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def quiet(left: Callable[[], dict[str, int]]) -> dict[str, int]:
    """What is left after a while."""
    end = time.monotonic() + QUIET
    while True:
        gc.collect()
        package = loop._current
        found = dict(left())
        found["threads"] = len(threads_of_calls())
        found["tasks"] = sum(not task.done() for task in asyncio.all_tasks(package.loop)) if package else 0
        if not any(found.values()) or time.monotonic() > end:
            return found
        time.sleep(0.1)


# --- fork and exit ----------------------------------------------------------------------------------------------------


def forked(model: Model) -> str:
    """Whether a child can call, and the parent after it."""

    def answers() -> bool:
        for _ in range(12):
            try:
                return bool(model.generate("Say hello.", max_tokens=4, timeout=120, first_token_timeout=100).role)
            except ModelError:
                continue  # the server still misbehaves
        return False

    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if answers() else 1)
        except BaseException:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "ok" if status == 0 and answers() else f"failed ({status})"


_EXIT = """
import sys, time
from types import SimpleNamespace
sys.path.insert(0, {root!r})
model = {make}
stream = model.generate_stream("Write a long story.", max_tokens=1500, timeout=60)
next(stream)
{then}
print(time.time(), flush=True)
"""


def exits(name: str, then: str = "") -> tuple[float, str]:
    """Seconds from a program's last line to its end, in the middle of a stream, and what it said."""
    with ExitStack() as stack:
        if name in LOCAL:
            make = MAKE[name].format(weights=str(weights(name)))
        else:
            server = stack.enter_context(server_for(name))
            server.script(then=BACKENDS[name].wire.cut("stall", stall_s=20.0))
            where = f"SimpleNamespace(url={server.url!r}, base_url={server.base_url!r})"
            make = f"__import__('tests.remote.matrix_runner').remote.matrix_runner.model_for({where}, {name!r})"
        code = _EXIT.format(root=str(Path(__file__).parents[1]), make=make, then=then)
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        ended = time.time()
    if run.returncode or not run.stdout:
        return 999.0, f"exit status {run.returncode}: {run.stderr[-300:]}"
    return ended - float(run.stdout.split()[-1]), run.stderr.strip()


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    here, elsewhere = installed()
    parser.add_argument("--only", default=",".join(here), help="backends, with commas; by default what is installed")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    names = given.only.split(",")
    if given.only == ",".join(here) and elsewhere:
        print(f"not installed here: {', '.join(elsewhere)}", file=sys.stderr)
    # oneDNN keeps what it has compiled for the last 1,024 shapes; with room for 16 that is full after some calls.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    calls, bad = given.calls // len(names), 0
    begun, total = time.monotonic(), Counter[str]()
    heads = ("backend", "calls", "answered", "typed errors", "left by callers", "faults served", "lost", "left over",
             "memory at each fifth, MiB", "fork", "exit in a stream (after it), s")  # fmt: skip
    print(_line(heads) + _line(["---"] * len(heads)), end="")
    for name in names:
        dice = random.Random(f"{given.seed} {name}")
        with opened(name, dice) as subject:
            run = Run(subject, calls, dice)
            run.go()
            tasks = run.outcomes.pop("tasks left", 0)
            found = quiet(subject.left)
            found["tasks"] += tasks
            fork = forked(subject.model)
        after, said = exits(name)
        closed, _ = exits(name, "stream.close()")  # what the interpreter itself takes on this machine now
        if after - closed > 1.0:  # or the machine was busier
            after, said = exits(name)
        errors = sum(n for kind, n in run.outcomes.items() if kind not in ("answered", "left", "lost"))
        lost, over = run.outcomes["lost"], {what: n for what, n in found.items() if n}
        grown = run.memory[-1] - run.memory[2] if calls >= 200 else 0.0  # a short run is all warming up
        total += Counter(calls=calls, faults=subject.faults.total(), lost=lost, errors=errors)
        bad += bool(lost or over or fork != "ok" or said or after - closed > 1.0 or grown > FLAT_MIB)
        cells = (
            name, run.outcomes.total(), run.outcomes["answered"], errors, run.outcomes["left"],
            subject.faults.total() or "–", lost, over or "nothing", " ".join(f"{mib:.0f}" for mib in run.memory), fork,
            f"{after:.2f} ({closed:.2f}) {said[-300:]}".strip(),
        )  # fmt: skip
        print(_line(cells), end="", flush=True)
        for text in run.lost[:3]:
            print(text, file=sys.stderr)
    print(f"\n{total['calls']} calls, {total['faults']} faults served, lost: {total['lost']}, in"
          f" {time.monotonic() - begun:.0f} s")  # fmt: skip
    return bad and 1


if __name__ == "__main__":
    sys.exit(main())
