"""The package ministack: a local AWS whose Bedrock hands each call on to an OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from .process import HOST, ServerProcess, serve

#: What it answers by itself, without a word, when its upstream fails.
MOCKED = "[ministack mock"


@contextlib.contextmanager
def ministack(upstream: str, *, deadline_s: float = 60.0) -> Iterator[ServerProcess]:
    """Serve Bedrock, with the model behind `upstream` (a URL without `/v1`, and without a key)."""

    def command(port: int) -> list[str]:
        # The port is known only here, and ministack takes it from the environment alone.
        lines = ["import os, runpy", f"os.environ['GATEWAY_PORT'] = '{port}'"]
        return [sys.executable, "-c", "; ".join([*lines, "runpy.run_module('ministack', run_name='__main__')"])]

    env = {
        "BIND_HOST": HOST,
        "SERVICES": "bedrock-runtime",
        "MINISTACK_BEDROCK_PROXY_URL": upstream,
        "MINISTACK_BEDROCK_PROXY_TIMEOUT_SECONDS": "120",
    }
    with serve(command, ready_path="/_ministack/health", deadline_s=deadline_s, env=env) as process:
        yield process
