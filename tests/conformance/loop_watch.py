"""Measures how long callbacks hold the event loops of a process, and writes the table of it into the docs.

    pytest tests/conformance/test_conformance.py --loop-watch FOLDER     # one file for each backend under test
    python -m tests.conformance.loop_watch FOLDER                        # writes the table into docs/reliability.md

While one callback runs, no other stream of the loop proceeds. The watch wraps the function by which asyncio runs a
callback, and measures the processor time of the loop's thread, which does not depend on what else the machine does.

Three things are measured apart from the callbacks in which they happen:

- imports: the first call of a backend imports its client, once in a process;
- garbage collection: how long it takes depends on all objects of the process, of which nearly all are not modelport's;
- the loops of the servers in `tests/servers` and of vLLM's engine are not watched, because no call runs on them.
"""

from __future__ import annotations

import asyncio.events
import functools
import gc
import importlib._bootstrap
import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

#: The longest processor time, in milliseconds, for which a callback may hold a loop on which calls run.
MAX_HOLD = 100.0
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN = "<!-- loop watch: made by python -m tests.conformance.loop_watch -->"
END = "<!-- end of loop watch -->"
#: Threads with loops on which no call runs: the servers of the tests, and vLLM's engine.
_OTHER_THREADS = ("fault-server", "front", "modelport-vllm")


@dataclass
class Holds:
    """How long callbacks held the loops during the checks of one backend, in milliseconds of processor time.

    Attributes:
        callbacks: The number of callbacks.
        longest: The longest time of one callback, without imports and garbage collection.
        callback: The name of that callback.
        check: The conformance check in which it ran.
        imports: The longest time that one callback spent with imports.
        stack: The code that ran when that callback had taken a tenth of a second; empty if it took less.
    """

    callbacks: int = 0
    longest: float = 0.0
    callback: str = ""
    check: str = ""
    imports: float = 0.0
    stack: str = ""

    def add(self, other: Holds) -> None:
        """Add what was measured during another check."""
        self.callbacks += other.callbacks
        self.imports = max(self.imports, other.imports)
        if other.longest > self.longest:
            self.longest, self.callback, self.check = other.longest, other.callback, other.check
            self.stack = other.stack


class _Apart(threading.local):
    """The time of the running thread that does not count for its callback, in nanoseconds."""

    imports = 0
    collections = 0
    depth = 0
    begin = 0


class LoopWatch:
    """Measures the callbacks of every event loop in the process while it is installed."""

    def __init__(self) -> None:
        #: What was measured during the running check, and during all checks of its backend so far.
        self.holds = Holds()
        self._totals: dict[str, Holds] = {}
        self._backend, self._check = "", ""
        self._apart = _Apart()
        #: The threads that run a callback -> when it began.
        self._running: dict[int, float] = {}
        self._stacks: dict[int, str] = {}

    def begin(self, backend: str, check: str) -> None:
        """Begin to measure a check of a backend."""
        self.holds, self._backend, self._check = Holds(), backend, check

    def write(self, folder: Path) -> None:
        """Add the check to the figures of its backend, and write them; one process runs all checks of a backend."""
        total = self._totals.setdefault(self._backend, Holds())
        total.add(self.holds)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._backend}.json").write_text(json.dumps(asdict(total)))

    @contextmanager
    def installed(self) -> Iterator[LoopWatch]:
        """Wrap asyncio's, the import system's and the garbage collector's functions."""
        handle, bootstrap = asyncio.events.Handle, importlib._bootstrap
        run, load = handle._run, bootstrap._find_and_load  # type: ignore[attr-defined]
        handle._run = self._watched(run)  # type: ignore[assignment, method-assign]
        bootstrap._find_and_load = self._timed_import(load)  # type: ignore[attr-defined]
        gc.callbacks.append(self._on_collection)
        ended = threading.Event()
        threading.Thread(target=self._sample_stacks, args=(ended,), name="loop-watch", daemon=True).start()
        try:
            yield self
        finally:
            ended.set()
            handle._run = run  # type: ignore[method-assign]
            bootstrap._find_and_load = load  # type: ignore[attr-defined]
            gc.callbacks.remove(self._on_collection)

    def _watched(self, run: Callable[[asyncio.Handle], None]) -> Callable[[asyncio.Handle], None]:
        apart = self._apart

        def watched(handle: asyncio.Handle) -> None:
            apart.imports = apart.collections = 0
            thread = threading.get_ident()
            self._running[thread] = time.monotonic()
            begin = time.thread_time_ns()
            try:
                run(handle)
            finally:
                duration = time.thread_time_ns() - begin - apart.imports - apart.collections
                self._running.pop(thread, None)
                self._record(handle, duration / 1e6, apart.imports / 1e6)

        return watched

    def _record(self, handle: asyncio.Handle, duration: float, imports: float) -> None:
        if threading.current_thread().name in _OTHER_THREADS:
            return
        holds = self.holds
        holds.callbacks += 1
        holds.imports = max(holds.imports, imports)
        if duration > holds.longest:
            holds.longest, holds.callback, holds.check = duration, callback_name(handle), self._check
            holds.stack = self._stacks.pop(threading.get_ident(), "") if duration > MAX_HOLD else ""

    def _sample_stacks(self, ended: threading.Event) -> None:
        """Remember what a thread does whose callback has run for a tenth of a second."""
        while not ended.wait(0.02):
            for thread, begin in list(self._running.items()):
                frame = sys._current_frames().get(thread)
                if frame is not None and time.monotonic() - begin > MAX_HOLD / 1000:
                    self._stacks.setdefault(thread, "".join(traceback.format_stack(frame)[-12:]))

    def _timed_import(self, load: Callable[..., Any]) -> Callable[..., Any]:
        apart = self._apart

        @functools.wraps(load)
        def timed(*arguments: Any) -> Any:
            begin, apart.depth = time.thread_time_ns(), apart.depth + 1
            try:
                return load(*arguments)
            finally:
                apart.depth -= 1
                if apart.depth == 0:  # An import within an import is part of its time.
                    apart.imports += time.thread_time_ns() - begin

        return timed

    def _on_collection(self, phase: str, info: dict[str, int]) -> None:
        apart = self._apart
        if phase == "start":
            apart.begin = time.thread_time_ns()
        elif apart.depth == 0:
            apart.collections += time.thread_time_ns() - apart.begin


def callback_name(handle: asyncio.Handle) -> str:
    """Return the name of a handle's callback; of a task, its coroutine and where it waits now."""
    callback = handle._callback  # type: ignore[attr-defined]
    while isinstance(callback, functools.partial):
        callback = callback.func
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return f"{getattr(callback, '__module__', None)}.{getattr(callback, '__qualname__', repr(callback))}"
    names, waiting = [], task.get_coro()
    while waiting is not None:
        if name := getattr(waiting, "__qualname__", ""):
            names.append(name)
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    # A task of `anext()` has no named coroutine.
    return " > ".join(dict.fromkeys((names[0], names[-1]))) if names else type(task.get_coro()).__name__


def rows_of(page: str) -> dict[str, str]:
    """Return the lines of the table in the page, by backend."""
    lines = page.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    return {line.split("|")[1].strip(): line for line in lines}


def with_table(page: str, measured: dict[str, Holds], order: list[str]) -> str:
    """Return the page with the measured backends in its table; the others keep their lines."""
    rows = rows_of(page)
    for backend, holds in measured.items():
        callback = re.sub(r"\.<locals>\.", ".", holds.callback)
        rows[backend] = (
            f"| {backend} | {holds.callbacks:,} | {holds.longest:.0f} | `{callback}` | {holds.check} "
            f"| {holds.imports:.0f} |"
        )
    head = (
        "| backend | callbacks | longest, ms | callback | check | imports, ms |\n| --- | --- | --- | --- | --- | --- |"
    )
    table = "\n".join([head, *(rows[backend] for backend in order if backend in rows)])
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    from tests.conformance.test_conformance import SEPARATE_SUBJECTS, SUBJECTS

    files = [path for folder in sys.argv[1:] for path in Path(folder).glob("*.json")]
    measured = {path.stem: Holds(**json.loads(path.read_text())) for path in files}
    PAGE.write_text(with_table(PAGE.read_text(), measured, [*SUBJECTS, *SEPARATE_SUBJECTS]))


if __name__ == "__main__":
    main()
