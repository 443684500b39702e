"""Runs the package ministack: a local AWS whose Bedrock forwards each call to an OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from .process import HOST, ServerProcess, serve

#: How the text starts that ministack makes up, without an error, when its upstream fails.
MOCKED = "[ministack mock"


@contextlib.contextmanager
def ministack(upstream: str, *, deadline_s: float = 60.0) -> Iterator[ServerProcess]:
    """Serve Bedrock on an upstream server.

    Args:
        upstream: The URL of an OpenAI-compatible server that needs no key, without `/v1`.
        deadline_s: How many seconds ministack has to start.
    """

    def command(port: int) -> list[str]:
        # ministack reads the port from the environment only, and the port is known only here.
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
