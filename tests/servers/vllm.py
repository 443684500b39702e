"""vLLM's own HTTP server (its CPU build) on real weights, which makes real tool calls: forced by a grammar, or free.

The model was not trained to call tools. `fixtures/smollm2_tools.jinja` shows it one worked example; without tools, the
template equals the model's own. Send tools with `"strict": true`: otherwise the grammar does not constrain the
arguments.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process import HOST, ServerProcess, request_json, request_text, serve
from .vllm_env import CLEAN_PYTHON, VllmEnvironment, vllm_environment

MODEL = "SmolLM2-135M-Instruct"
TEMPLATE = Path(__file__).with_name("fixtures") / "smollm2_tools.jinja"
MAX_MODEL_LEN = 2048


@dataclass(frozen=True)
class VllmServer:
    """A running `vllm serve`."""

    process: ServerProcess
    api_key: str
    environment: VllmEnvironment
    model: str = MODEL

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
        text: str = self._post("/detokenize", {"tokens": self.prompt_tokens(messages, **fields)})["prompt"]
        return text

    def prompt_tokens(self, messages: Sequence[Mapping[str, Any]], **fields: Any) -> list[int]:
        """Return the tokens of the prompt, which usage.prompt_tokens must count."""
        tokens: list[int] = self._post("/tokenize", {"messages": list(messages), **fields})["tokens"]
        return tokens

    def tokenize(self, text: str) -> list[int]:
        tokens: list[int] = self._post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
        return tokens

    def running(self) -> int:
        """Return how many requests are running or wait."""
        metrics = self.metrics()
        return int(metrics["num_requests_running"] + metrics["num_requests_waiting"])

    def wait_until_idle(self, timeout_s: float = 10.0) -> float:
        """Wait until no request is running, because a client that leaves must end its request; return the seconds."""
        started = time.monotonic()
        while running := self.running():
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(f"{running} requests are still running after {timeout_s:g} s")
            time.sleep(0.02)
        return time.monotonic() - started

    def metrics(self) -> dict[str, float]:
        """Return the server's counters and gauges, such as num_requests_running, each summed over its labels."""
        found: dict[str, float] = {}
        for line in request_text(f"{self.url}/metrics", headers=self.headers).splitlines():
            if line.startswith("vllm:"):
                name, value = line.removeprefix("vllm:").rsplit(" ", 1)
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        fields = {"model": self.model, **body}
        return request_json("POST", self.url + path, fields, headers=self.headers, timeout_s=120.0)


@contextlib.contextmanager
def vllm_server(
    *options: str,
    api_key: str = "test-key",
    gguf: Path | None = None,
    deadline_s: float = 240.0,
) -> Iterator[VllmServer]:
    """Serve SmolLM2-135M-Instruct with a context of 2048 tokens.

    The first call makes vLLM's environment (`vllm_env.py`). The first start there also compiles its Python modules.

    Args:
        *options: Further options of `vllm serve`.
        api_key: The key that the server requires.
        gguf: The file of the weights; by default that of the other servers.
        deadline_s: How long the start may take, in seconds.
    """
    environment = vllm_environment(gguf)

    def command(port: int) -> list[str]:
        return [
            *(str(environment.vllm), "serve", str(environment.model)),
            *("--served-model-name", MODEL, "--host", HOST, "--port", str(port), "--api-key", api_key),
            *("--dtype", "float32", "--max-model-len", str(MAX_MODEL_LEN), "--enforce-eager"),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--chat-template", str(TEMPLATE)),
            "--enable-prompt-tokens-details",  # usage.prompt_tokens_details.cached_tokens
            *options,
        ]

    env = {**CLEAN_PYTHON, **environment.variables}
    with serve(command, ready_path="/health", deadline_s=deadline_s, grace_s=10.0, env=env) as process:
        yield VllmServer(process, api_key, environment)
