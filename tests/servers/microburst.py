"""The package microburst: a proxy that makes an AWS service fail, in frames and errors that others encode."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .process import HOST, ServerProcess, request_json, serve


@dataclass(frozen=True)
class Microburst:
    """A running proxy."""

    process: ServerProcess

    @property
    def url(self) -> str:
        return self.process.url

    def break_by(self, *rules: dict[str, Any]) -> None:
        """What to do with requests from now on, such as `{"error": {"code": "ThrottlingException"}, "times": 1}`."""
        every = [{"service": "*", **rule} for rule in rules]
        request_json("POST", f"{self.url}/_microburst/rules", every)

    def requests(self) -> int:
        """How many requests it has seen."""
        return int(request_json("GET", f"{self.url}/_microburst/stats")["requests"]["total"])


@contextlib.contextmanager
def microburst(upstream: str, *, deadline_s: float = 60.0) -> Iterator[Microburst]:
    """Stand in front of an AWS service, by its URL."""

    def command(port: int) -> list[str]:
        options = ["--upstream", upstream, "--port", str(port), "--host", HOST, "--no-resign"]
        return [sys.executable, "-m", "microburst", *options]

    with serve(command, ready_path="/_microburst/health", deadline_s=deadline_s) as process:
        yield Microburst(process)
