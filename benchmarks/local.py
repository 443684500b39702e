"""Measures what modelport adds to a local engine: to each token, and to a cold start of the command line.

    python benchmarks/local.py

llama.cpp's own server object, called directly, and `LlamaCppModel` run in turn on the same weights. The cost of a token
is the processor time of Python's threads: the engine computes in other threads, so the model's own work does not count.
A cold start is the time to the first character. It is compared with a process that only loads the weights and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import xllamacpp

from modelport import LlamaCppModel
from modelport.local.llamacpp.model import DEFAULT_CONTEXT_LENGTH
from modelport.local.llamacpp.weights import resolve_weights

TOKENS = 128
ROUNDS = 5
PROMPT = "Write a long story about a lighthouse."
LOAD = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.verbosity, params.n_ctx, params.n_parallel = sys.argv[1], 0, {context}, 4
server = xllamacpp.Server(params)
import os; os._exit(0)
"""


def thread_times() -> dict[int, int]:
    """Return the processor time of each thread, in nanoseconds."""
    result = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            result[int(thread)] = int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0])
        except OSError:
            pass
    return result


class ProcessorTime:
    """The processor time of Python's threads in a block. Threads that end within the block report it when they end."""

    def __enter__(self) -> ProcessorTime:
        self._ended: list[int] = []
        self._before, self._run = thread_times(), threading.Thread.run

        def run(thread: threading.Thread) -> None:
            try:
                self._run(thread)
            finally:
                self._ended.append(time.thread_time_ns())

        threading.Thread.run = run  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: Any) -> None:
        threading.Thread.run = self._run  # type: ignore[method-assign]
        now = thread_times()
        python = {thread.native_id for thread in threading.enumerate()}
        alive = sum(now[t] - self._before[t] for t in now.keys() & self._before.keys() if t in python)
        self.nanoseconds = alive + sum(self._ended)


def per_token(path: str) -> None:
    options = {"max_tokens": TOKENS, "temperature": 0}
    messages = [{"role": "user", "content": PROMPT}]
    body = {"messages": messages, "stream": True, "timings_per_token": True, "ignore_eos": True, **options}
    with LlamaCppModel(path) as model:
        server = model._engine()._server

        def engine() -> int:
            tokens = 0

            def on_event(event: Any) -> bool:
                nonlocal tokens
                tokens += bool(event["choices"] and event["choices"][0]["delta"].get("content"))
                return False

            server.handle_chat_completions(body, on_event)
            return tokens

        def deltas() -> int:
            request = model._prepare(PROMPT, None, {**options, "ignore_eos": True}, stream=True)
            return asyncio.run(count(model.deltas(request.replace(capabilities=model.capabilities))))

        def asynchronous() -> int:
            return asyncio.run(count(model.agenerate_stream(PROMPT, ["Observation:"], ignore_eos=True, **options)))

        def synchronous() -> int:
            stream = model.generate_stream(PROMPT, ["Observation:"], ignore_eos=True, **options)
            return sum(1 for delta in stream if delta.content)

        ways = {
            "engine": engine,
            "deltas": deltas,
            "agenerate_stream": asynchronous,
            "generate_stream": synchronous,
        }
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                with ProcessorTime() as processor_time:
                    tokens = way()
                costs[name].append(processor_time.nanoseconds / tokens / 1e3)
    before: list[float] | None = None
    for name, values in costs.items():
        line = f"{name:20} {statistics.median(values):6.1f} µs a token in Python's threads ({spread(values)})"
        if before is not None:
            added = [b - a for a, b in zip(before, values, strict=True)]
            line += f", {statistics.median(added):+6.1f} to the line above ({spread(added)})"
        print(line)
        before = values


def spread(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


async def count(deltas: Any) -> int:
    return sum([1 async for delta in deltas if delta.content])


def first_byte(command: list[str]) -> float:
    """Return the seconds until a process writes its first byte, or ends."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        child.stdout.read(1)
        seconds = time.perf_counter() - begin
        child.stdout.read()
    return seconds


def cold_start(path: str) -> None:
    ways = {
        "load the weights": [sys.executable, "-c", LOAD.format(context=4 * DEFAULT_CONTEXT_LENGTH), path],
        "modelport \"…\"": [sys.executable, "-m", "modelport", "--max-tokens", "8", "Hello"],
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for command in ways.values():
        first_byte(command)
    for _ in range(ROUNDS):
        for name, command in ways.items():
            seconds[name].append(first_byte(command))
    for name, values in seconds.items():
        print(f"{name:20} {statistics.median(values):6.2f} s ({min(values):.2f}-{max(values):.2f})")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"cold start: {statistics.median(ratios):.2f} times loading ({min(ratios):.2f}-{max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    path = str(resolve_weights(None))
    print(f"xllamacpp {getattr(xllamacpp, '__version__', '')}, {TOKENS} tokens, {ROUNDS} rounds")
    per_token(path)
    cold_start(path)


if __name__ == "__main__":
    main()
