"""The program that `llamacpp.llama_server` runs by its path: xllamacpp's HTTP server."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import xllamacpp


def main() -> None:
    settings: dict[str, Any] = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    for name, value in settings.items():
        *path, attribute = name.split(".")
        target: Any = params
        for part in path:
            target = getattr(target, part)
        if not hasattr(target, attribute):
            raise SystemExit(f"CommonParams has no {name!r}")
        setattr(target, attribute, value)
    server = xllamacpp.Server(params)
    print(f"listening at {server.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
