"""Thousands of calls with random faults, cancellations and timeouts, of which nothing may be left afterwards.

    python benchmarks/soak.py --calls 2000
    python benchmarks/soak.py --calls 200 --only openai,llamacpp --seed 7

Each backend is called from two event loops and two threads at once, in four ways: synchronous and asynchronous,
streamed and not. Each call whose caller does not leave must end with a message or a typed error; any other call is
lost, and the run fails. When the calls of a backend are over, the script counts what is left: tasks, threads,
connections, slots, rows and caches. It measures memory at each fifth of the calls; memory must not grow over the last
two fifths. Then each model is used in a forked child, and once more in the parent. At last a program ends in the
middle of a stream: it must end silently, and at most a second later than one that has closed its stream.
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
from modelport.runtime import portal

#: How callers behave: five of eight read the whole response.
CALLERS = ("reads",) * 5 + ("leaves", "cancels", "has no time")
#: The number of concurrent calls on each event loop.
WORKERS = 4
#: Seconds after which nothing of the calls may be left.
SETTLE_S = 15.0
#: Growth of memory that is no leak, because allocators keep what they used at the busiest moment.
GROWTH_MIB = 24.0


# --- calls ------------------------------------------------------------------------------------------------------------


class Run:
    """A run of calls of one backend, from two event loops and two threads.

    Args:
        subject: The model, and what is known about it.
        calls: The number of calls.
        random_source: Decides what each call does.

    Attributes:
        outcomes: The number of calls by their outcome.
        lost: The traceback of each lost call.
        memory: The MiB of memory at each fifth of the calls.
    """

    def __init__(self, subject: Subject, calls: int, random_source: random.Random) -> None:
        self.subject, self.calls, self.random = subject, calls, random_source
        self.outcomes: Counter[str] = Counter()
        self.lost: list[str] = []
        self._lock = threading.Lock()
        self._started = 0
        self.memory: list[float] = []

    def run(self) -> None:
        """Make all calls."""
        threads = [threading.Thread(target=asyncio.run, args=(self._run_loop(),), name=f"loop {n}") for n in range(2)]
        threads += [threading.Thread(target=self._run_thread, name=f"thread {n}") for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _next(self) -> bool:
        """Return whether another call is to be made."""
        with self._lock:
            self._started += 1
            if self._started in [self.calls * fifth // 5 for fifth in range(1, 6)]:
                self.memory.append(resident())
            return self._started <= self.calls

    def _plan(self, ways: tuple[str, ...]) -> tuple[str, str, str, dict[str, Any]]:
        """Choose the way of a call, the behaviour of its caller, the prompt and the options."""
        with self._lock:
            way, caller = self.random.choice(ways), self.random.choice(CALLERS)
            options = dict(self.subject.options)
            if caller == "has no time":
                options["timeout"] = self.random.uniform(*self.subject.short)
            return way, caller, self.random.choice(self.subject.prompts), options

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.outcomes[outcome] += 1

    def _count_error(self, error: BaseException) -> None:
        if isinstance(error, ModelError):
            self._count(type(error).__name__)
            return
        self._count("lost")
        self.lost.append("".join(traceback.format_exception(error)[-6:]))

    def _run_thread(self) -> None:
        model = self.subject.model
        while self._next():
            way, caller, prompt, options = self._plan(("sync", "sync streamed"))
            try:
                if way == "sync":
                    model.generate(prompt, **options)
                    self._count("responses")
                    continue
                stream = model.generate_stream(prompt, **options)
                for n, _ in enumerate(stream):
                    if caller in ("leaves", "cancels") and n == 1:
                        break
                if caller == "leaves":
                    stream.close()
                del stream
                self._count("left" if caller in ("leaves", "cancels") else "responses")
            except BaseException as error:
                self._count_error(error)

    async def _run_loop(self) -> None:
        await asyncio.gather(*(self._worker() for _ in range(WORKERS)))
        await asyncio.sleep(0.05)
        end = time.monotonic() + SETTLE_S
        while (left := len(asyncio.all_tasks()) - 1) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        self.outcomes["tasks left"] += left

    async def _worker(self) -> None:
        while self._next():
            way, caller, prompt, options = self._plan(("async", "async streamed"))
            task = asyncio.create_task(self._call(way, caller, prompt, options))
            if caller == "cancels":
                with self._lock:
                    wait = self.random.uniform(*self.subject.short)
                await asyncio.sleep(wait)
                task.cancel()
            try:
                self._count(await task)
            except asyncio.CancelledError:
                self._count("left" if caller == "cancels" else "lost")
            except BaseException as error:
                self._count_error(error)

    async def _call(self, way: str, caller: str, prompt: str, options: dict[str, Any]) -> str:
        model = self.subject.model
        if way == "async":
            await model.agenerate(prompt, **options)
            return "responses"
        stream = model.agenerate_stream(prompt, **options)
        n = 0
        async for _ in stream:
            n += 1
            if caller == "leaves" and n == 2:
                if len(prompt) % 2:
                    await stream.close()
                return "left"
        return "responses"


def resident() -> float:
    """Return the MiB of memory of this process, without what its allocator has free."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def count_left(left: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Return what is left of the calls, after waiting until nothing is left or the time is over."""
    end = time.monotonic() + SETTLE_S
    while True:
        gc.collect()
        loop_thread = portal._current
        found = dict(left())
        found["threads"] = len(threads_of_calls())
        found["tasks"] = sum(not task.done() for task in asyncio.all_tasks(loop_thread.loop)) if loop_thread else 0
        if not any(found.values()) or time.monotonic() > end:
            return found
        time.sleep(0.1)


# --- fork and exit ----------------------------------------------------------------------------------------------------


def call_after_fork(model: Model) -> str:
    """Call the model in a forked child and then in the parent; return "ok", or what failed."""

    def can_call() -> bool:
        for _ in range(12):
            try:
                return bool(model.generate("Say hello.", max_tokens=4, timeout=120, first_token_timeout=100).role)
            except ModelError:
                continue  # The server still sends faults.
        return False

    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if can_call() else 1)
        except BaseException:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "ok" if status == 0 and can_call() else f"failed ({status})"


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


def time_exit(name: str, then: str = "") -> tuple[float, str]:
    """Run a program that ends in the middle of a stream.

    Args:
        name: The name of the backend.
        then: A line that runs before the end.

    Returns:
        The seconds from the last line of the program to its end, and what it wrote to standard error.
    """
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


def _table_row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    available, missing = installed()
    parser.add_argument("--only", default=",".join(available), help="backends, separated by commas; by default all")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if arguments.only == ",".join(available) and missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    # oneDNN caches what it has compiled for the last 1,024 shapes. A cache for 16 shapes is full after a few calls, and
    # then memory grows no more.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    calls, failures = arguments.calls // len(names), 0
    begin, total = time.monotonic(), Counter[str]()
    heads = ("backend", "calls", "responses", "typed errors", "left by callers", "faults served", "lost", "left over",
             "memory at each fifth, MiB", "fork", "exit in a stream (after it), s")  # fmt: skip
    print(_table_row(heads) + _table_row(["---"] * len(heads)), end="")
    for name in names:
        random_source = random.Random(f"{arguments.seed} {name}")
        with opened(name, random_source) as subject:
            run = Run(subject, calls, random_source)
            run.run()
            tasks = run.outcomes.pop("tasks left", 0)
            found = count_left(subject.left)
            found["tasks"] += tasks
            fork = call_after_fork(subject.model)
        after, output = time_exit(name)
        closed, _ = time_exit(name, "stream.close()")  # This is the time of the interpreter itself.
        if after - closed > 1.0:  # The machine may have been busier, so it is measured again.
            after, output = time_exit(name)
        errors = sum(n for kind, n in run.outcomes.items() if kind not in ("responses", "left", "lost"))
        lost, left = run.outcomes["lost"], {what: n for what, n in found.items() if n}
        grown = run.memory[-1] - run.memory[2] if calls >= 200 else 0.0  # A short run only warms up.
        total += Counter(calls=calls, faults=subject.faults.total(), lost=lost, errors=errors)
        failures += bool(lost or left or fork != "ok" or output or after - closed > 1.0 or grown > GROWTH_MIB)
        cells = (
            name, run.outcomes.total(), run.outcomes["responses"], errors, run.outcomes["left"],
            subject.faults.total() or "–", lost, left or "nothing", " ".join(f"{mib:.0f}" for mib in run.memory), fork,
            f"{after:.2f} ({closed:.2f}) {output[-300:]}".strip(),
        )  # fmt: skip
        print(_table_row(cells), end="", flush=True)
        for text in run.lost[:3]:
            print(text, file=sys.stderr)
    print(f"\n{total['calls']} calls, {total['faults']} faults served, lost: {total['lost']}, in"
          f" {time.monotonic() - begin:.0f} s")  # fmt: skip
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
