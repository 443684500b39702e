"""Runs a target in a process of its own, because an input may end the process or may never return.

The process measures each input (`target.py`). Beyond that it has hard limits: the kernel ends it when one input takes
`HARD_CPU` seconds of processor time, memory beyond `HARD_MEMORY` can't be had, and the parent ends it when it does
nothing for `HARD_WAIT` seconds. The input that did that is lost. The process writes each input into a file before it
plays it, from which the parent reads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modelport.testing import ScriptedModel
from tests.fuzz.running import run_inputs
from tests.fuzz.target import Target, check_message

HARD_CPU, HARD_MEMORY, HARD_WAIT = 20, 3 * 2**30, 90.0
#: The most processes that one target may lose; then its other inputs are left out.
MOST_ENDED = 20
_SHOWN = 3000


class _Figures(ctypes.Structure):
    """What the process has done so far; the parent reads it, also if the process has ended."""

    _fields_ = (
        ("inputs", ctypes.c_long), ("responses", ctypes.c_long), ("errors", ctypes.c_long), ("lost", ctypes.c_long),
        ("cpu", ctypes.c_double), ("memory", ctypes.c_long),
    )  # fmt: skip


@dataclass
class Result:
    """The figures of a target; see `Target`."""

    inputs: int = 0
    responses: int = 0
    errors: int = 0
    lost: int = 0
    cpu: float = 0.0
    memory: int = 0
    #: The first example of each kind of defect.
    defects: dict[str, str] = field(default_factory=dict)

    def add(self, figures: Any) -> None:
        """Add the figures of a process."""
        for name in ("inputs", "responses", "errors", "lost"):
            setattr(self, name, getattr(self, name) + getattr(figures, name))
        self.cpu, self.memory = max(self.cpu, figures.cpu), max(self.memory, figures.memory)


def fuzz_in_process(
    name: str, inputs: int, seed: int = 0, notify: Callable[[int], None] = lambda inputs: None
) -> Result:
    """Run a target on a number of inputs, in one process after another.

    Args:
        name: The name of the target in `targets.TARGETS`.
        inputs: The number of inputs.
        seed: Decides which inputs are generated. Each process that ends early is followed by one with the next seed.
        notify: Called now and then with the number of inputs that have been played since the last call.
    """
    result, ended = Result(), 0
    while result.inputs < inputs and ended < MOST_ENDED:
        before = result.inputs
        _run_process(name, inputs - before, seed + ended, result, notify)
        ended += 1
        if result.inputs == before:  # The target has no more inputs, or can't be opened.
            break
    return result


def _run_process(name: str, inputs: int, seed: int, result: Result, notify: Callable[[int], None]) -> None:
    """Run a process until it ends, or until nothing happens in it; add its figures to the result."""
    context = multiprocessing.get_context("spawn")
    figures: Any = context.RawValue(_Figures)
    receiver, sender = context.Pipe(duplex=False)
    with TemporaryDirectory() as folder:
        arguments = (name, inputs, seed, figures, sender, folder)
        process = context.Process(target=_work, args=arguments, name=f"fuzz {name}")
        process.start()
        sender.close()
        played, cpu, since, hangs = 0, 0.0, time.monotonic(), False
        while process.is_alive():
            process.join(0.2)
            if figures.inputs > played:
                notify(figures.inputs - played)
                played, since = figures.inputs, time.monotonic()
            elif (used := _processor_time(process.pid)) > cpu:  # It works, on a machine that does much else.
                cpu, since = used, time.monotonic()
            elif time.monotonic() - since > HARD_WAIT:
                hangs = True
                process.kill()
        with contextlib.suppress(EOFError):
            while receiver.poll():
                result.defects.update(receiver.recv())
        notify(figures.inputs - played)
        result.add(figures)
        if process.exitcode != 0:
            end = "nothing happened in" if hangs else f"{_name_of(process.exitcode)} ended"
            result.lost += 1
            kind = f"{end} the process of {name!r}"
            value = (Path(folder) / "input").read_text(errors="replace")
            trace = (Path(folder) / "trace").read_text(errors="replace")
            result.defects.setdefault(kind, f"{kind}: --only {name!r} --seed {seed}\n{trace[-3000:]}\ninput: {value}")


def _processor_time(pid: int | None) -> float:
    """Return the processor time of a process in clock ticks; 0 where the system does not say."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    except OSError:
        return 0.0


def _name_of(exit_code: int | None) -> str:
    """Return the name of the signal with which a process ended."""
    if exit_code is None or exit_code >= 0:
        return f"exit status {exit_code}"
    return signal.Signals(-exit_code).name


def _work(name: str, inputs: int, seed: int, figures: Any, sender: Connection, folder: str) -> None:
    """Play inputs, in the process."""
    import faulthandler

    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # boto3 must not ask a cloud for a key.
    if "over a socket" not in name:  # Generated names of models must not be looked up. It stops Hugging Face's client.
        os.environ["HF_HUB_OFFLINE"] = "1"
    from tests.fuzz.targets import TARGETS

    known: set[str] = set()
    (Path(folder) / "input").touch()
    with TARGETS[name]() as target, (Path(folder) / "trace").open("w") as trace:
        faulthandler.enable(trace)
        if hasattr(signal, "SIGXCPU"):  # Show what runs when the time is over, and end.
            faulthandler.register(signal.SIGXCPU, trace, chain=True)
        with open(os.devnull, "w") as nowhere:  # Libraries print what they think of such files.
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        check_message(ScriptedModel("ok").generate("hello"))  # The imports of a first call belong to no input.
        _limit_memory()

        def play(value: Any) -> None:
            (Path(folder) / "input").write_text(repr(value)[:_SHOWN], errors="replace")
            _limit_cpu()
            target.run(value)
            _publish(target, figures)
            if new := {kind: text for kind, text in target.lost.items() if kind not in known}:
                known.update(new)
                sender.send({kind: f"{text}\n--only {name!r} --seed {seed}" for kind, text in new.items()})

        run_inputs(target.strategy, play, inputs, seed)
    sender.close()
    os._exit(0)  # Threads of lost inputs may still run.


def _publish(target: Target, figures: Any) -> None:
    for name in ("inputs", "responses", "errors", "lost"):
        setattr(figures, name, target.counts[name])
    figures.cpu, figures.memory = target.cpu, target.memory


def _limit_cpu() -> None:
    """Let the kernel end the process when the next input has taken too long."""
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + HARD_CPU, resource.RLIM_INFINITY))


def _limit_memory() -> None:
    """Let further memory of the process be limited."""
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        used = int(status.partition("VmData:")[2].split(maxsplit=1)[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (used + HARD_MEMORY, resource.RLIM_INFINITY))
