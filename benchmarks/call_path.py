"""The path of one call through modelport: how many files it crosses, and how often it moves from one to another.

    python benchmarks/call_path.py
    python benchmarks/call_path.py llamacpp --show

Two calls warm the model up, and the third `generate` call is recorded with `sys.setprofile` in every thread. A move is
a call of a function, or a resumption of a coroutine, in another file of modelport than the one before. Fewer moves mean
that a reader who follows a call has to open fewer files, and that a call does less work.

`openai` calls a loopback server in this process that always sends the same response. `llamacpp` generates four tokens
with the default weights. Its number of moves varies with the timing of the engine's thread, so the range of nine more
calls is printed too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from types import FrameType
from typing import Any

RESPONSE = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}).encode()  # fmt: skip
MORE_CALLS = 9


class Recorder:
    """Records the functions of modelport that are called, in order, in all threads that start after `install`."""

    def __init__(self) -> None:
        import modelport

        self._package = os.path.dirname(modelport.__file__) + os.sep
        self._calls: list[tuple[str, str]] | None = None

    def install(self) -> None:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def record(self, call: Callable[[], Any]) -> list[tuple[str, str]]:
        """The file and the name of each function that `call` runs."""
        self._calls = calls = []
        try:
            call()
        finally:
            self._calls = None
        return calls

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if event == "call" and self._calls is not None and path.startswith(self._package):
            self._calls.append((path.removeprefix(self._package), frame.f_code.co_name))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(RESPONSE)))
        self.end_headers()
        self.wfile.write(RESPONSE)

    def log_message(self, *args: object) -> None:
        pass


def openai() -> Callable[[], Any]:
    from modelport import OpenAIModel

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = OpenAIModel("m", api_base=f"http://127.0.0.1:{server.server_port}/v1", api_key="key")
    return lambda: model.generate("Hello")


def llamacpp() -> Callable[[], Any]:
    from modelport import LlamaCppModel

    model = LlamaCppModel(threads=1)
    return lambda: model.generate("Hello", max_tokens=4, temperature=0)


BACKENDS = {"openai": openai, "llamacpp": llamacpp}


def moves(calls: list[tuple[str, str]]) -> int:
    return sum(before[0] != after[0] for before, after in pairwise(calls))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", nargs="?", choices=BACKENDS, help="the backend to call; by default both, in turn")
    parser.add_argument("--show", action="store_true", help="also print the functions, with a mark at each move")
    arguments = parser.parse_args()
    recorder = Recorder()
    recorder.install()
    for name in [arguments.backend] if arguments.backend else BACKENDS:
        call = BACKENDS[name]()
        call(), call()
        calls = recorder.record(call)
        more = sorted(moves(recorder.record(call)) for _ in range(MORE_CALLS))
        if arguments.show:
            for before, (path, function) in zip([("", ""), *calls], calls, strict=False):
                print("  " if before[0] == path else "* ", path, function)
        print(
            f"{name}: {len({path for path, _ in calls})} files, {moves(calls)} moves, {len(calls)} calls of functions; "
            f"{MORE_CALLS} more calls: {more[0]} to {more[-1]} moves, median {more[len(more) // 2]}"
        )


if __name__ == "__main__":
    main()
