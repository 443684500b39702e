"""Runs the package microburst: a proxy that makes an AWS service fail, with its own encoding of frames and errors."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .process import HOST, ServerProcess, request_json, serve


@dataclass(frozen=True)
class Microburst:
    """A running proxy in front of an AWS service."""

    process: ServerProcess

    @property
    def url(self) -> str:
        return self.process.url

    def set_rules(self, *rules: dict[str, Any]) -> None:
        """Replace the rules for further requests, such as `{"error": {"code": "ThrottlingException"}, "times": 1}`."""
        for_all_services = [{"service": "*", **rule} for rule in rules]
        request_json("POST", f"{self.url}/_microburst/rules", for_all_services)

    def request_count(self) -> int:
        """How many requests the proxy has received."""
        return int(request_json("GET", f"{self.url}/_microburst/stats")["requests"]["total"])


@contextlib.contextmanager
def microburst(upstream: str, *, deadline_s: float = 60.0) -> Iterator[Microburst]:
    """Run a proxy.

    Args:
        upstream: The URL of the AWS service.
        deadline_s: How many seconds the proxy has to start.
    """

    def command(port: int) -> list[str]:
        options = ["--upstream", upstream, "--port", str(port), "--host", HOST, "--no-resign"]
        return [sys.executable, "-m", "microburst", *options]

    with serve(command, ready_path="/_microburst/health", deadline_s=deadline_s) as process:
        yield Microburst(process)
