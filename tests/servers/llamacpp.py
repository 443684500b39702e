"""xllamacpp's own HTTP server on real weights: an OpenAI-compatible server that modelport's authors did not write."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process import HOST, ServerProcess, request_json, request_text, serve
from .tiny_mmproj import IMAGE_TOKENS

WEIGHTS_VARIABLE = "MODELPORT_TEST_GGUF"
_MAIN = Path(__file__).with_name("llamacpp_main.py")


def model_file() -> Path:
    """Return the file that MODELPORT_TEST_GGUF names, else the default weights, which modelport downloads once."""
    named = os.environ.get(WEIGHTS_VARIABLE)
    if named:
        return Path(named)
    return Path(importlib.import_module("modelport.local.llamacpp.weights").default_weights())


@dataclass(frozen=True)
class LlamaServer:
    """A running llama.cpp server."""

    process: ServerProcess
    api_key: str
    model_path: Path

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    def chat(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> Any:
        """Request one plain chat completion, to compare it with a client's output."""
        return self._post("/v1/chat/completions", {"messages": list(messages), **fields})

    def prompt(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> str:
        """Return the prompt that the chat template renders from `messages` (and `tools=`)."""
        text: str = self._post("/apply-template", {"messages": list(messages), **fields})["prompt"]
        return text

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        body = {"content": text, "add_special": special, "parse_special": True}
        tokens: list[int] = self._post("/tokenize", body)["tokens"]
        return tokens

    def count_prompt_tokens(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> int:
        """Return what usage.prompt_tokens must be. An image has as many tokens as `tiny_mmproj`'s projector makes."""
        marker = self.props()["media_marker"]
        first, *rest = self.prompt(messages, **fields).split(marker)
        texts = len(self.tokenize(first)) + sum(len(self.tokenize(text, special=False)) for text in rest if text)
        return texts + IMAGE_TOKENS * len(rest)

    def props(self) -> Any:
        return request_json("GET", f"{self.url}/props", headers=self.headers)

    def slots(self) -> list[dict[str, Any]]:
        slots: list[dict[str, Any]] = request_json("GET", f"{self.url}/slots", headers=self.headers)
        return slots

    def busy_slots(self) -> int:
        return sum(bool(slot["is_processing"]) for slot in self.slots())

    def wait_until_idle(self, timeout_s: float = 10.0) -> float:
        """Wait until no slot is busy, because a client that leaves must end its request; return the seconds."""
        started = time.monotonic()
        while self.busy_slots():
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(f"{self.busy_slots()} slots are still busy after {timeout_s:g} s")
            time.sleep(0.02)
        return time.monotonic() - started

    def metrics(self) -> dict[str, float]:
        """Return the server's counters, such as prompt_tokens_total, which does not include cached tokens."""
        lines = request_text(f"{self.url}/metrics", headers=self.headers).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name.removeprefix("llamacpp:"): float(value) for name, value in pairs}

    def _post(self, path: str, body: object) -> Any:
        return request_json("POST", self.url + path, body, headers=self.headers, timeout_s=120.0)


@contextlib.contextmanager
def llama_server(
    model_path: Path | str | None = None,
    *,
    api_key: str | None = "test-key",
    mmproj: Path | str | None = None,
    deadline_s: float = 120.0,
    slots: int = 4,
    **params: Any,
) -> Iterator[LlamaServer]:
    """Serve a model with slots of 4096 tokens.

    Args:
        model_path: The GGUF file; by default `model_file()`.
        api_key: The key that the server requires; `None` for no key.
        mmproj: The GGUF file of a projector for images.
        deadline_s: How long the start may take, in seconds.
        slots: How many requests are computed at once. With more than one slot, the text of a request may depend on the
            requests that are computed in the same batch.
        **params: Fields of xllamacpp's CommonParams. A double underscore separates nested fields (sampling__temp=0.0).
    """
    path = Path(model_path) if model_path is not None else model_file()
    settings: dict[str, Any] = {
        "n_parallel": slots,
        "n_ctx": slots * 4096,
        "verbosity": 0,
        # Two threads wait for each other by spinning: with one other busy process on a machine of two cores, decoding
        # became up to a hundred times slower. One thread is as fast.
        "cpuparams.n_threads": 1,
        "cpuparams_batch.n_threads": 1,
        "endpoint_metrics": True,
        "endpoint_props": True,
        **{name.replace("__", "."): value for name, value in params.items()},
        "model.path": str(path),
        "api_keys": [] if api_key is None else [api_key],
        "hostnames": [HOST],
    }
    if mmproj is not None:
        settings |= {"mmproj.path": str(mmproj), "mmproj_use_gpu": False}

    def command(port: int) -> list[str]:
        return [sys.executable, str(_MAIN), json.dumps(settings | {"port": port})]

    with serve(command, ready_path="/health", deadline_s=deadline_s) as process:
        yield LlamaServer(process, api_key or "", path)
