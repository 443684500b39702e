"""Calls backends with every attack of `tests.servers.hostile`, and prints what happened. It runs in a child process.

    python -m tests.remote.hostile_bodies openai azure

Each line is JSON: the backend, the attack, the class of the error, its text, seconds of processor time, and by how many
MiB the largest amount of memory of the process has grown since the first call.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from modelport import AmazonBedrockServerModel, AzureOpenAIServerModel, OpenAIServerModel
from modelport.errors import ModelError
from tests.remote.matrix_runner import CLAUDE, KEY, MODELS
from tests.servers.hostile import AMAZON, ATTACKS, Attack, HostileServer, attacks

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


class _Server:
    """What the functions of `MODELS` need of a server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.base_url = f"{url}/v1"


def _sdk(name: str, **arguments: Any) -> Any:
    import openai

    return getattr(openai, name)(api_key=KEY, **arguments)


def _boto_client(url: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY}
    return boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=url, **keys)


#: Backends with a client of the caller, in addition to those of the fault matrix.
CLIENTS: dict[str, Callable[[_Server, Any], Any]] = {
    "OpenAI": lambda server, more: OpenAIServerModel("m", client=_sdk("OpenAI", base_url=server.base_url), **more),
    "AsyncOpenAI": lambda server, more: OpenAIServerModel(
        "m", client=_sdk("AsyncOpenAI", base_url=server.base_url), **more
    ),
    "AsyncAzureOpenAI": lambda server, more: AzureOpenAIServerModel(
        "m", client=_sdk("AsyncAzureOpenAI", azure_endpoint=server.url, api_version="2024-10-21"), **more
    ),
    "boto3 client": lambda server, more: AmazonBedrockServerModel(CLAUDE, client=_boto_client(server.url), **more),
}


def run_attack(model: Any, attack: Attack) -> dict[str, Any]:
    """Call a model whose server sends this response."""
    begin, text, error = time.process_time(), "", "none"
    try:
        if attack.streamed:
            with model.generate_stream("hello", tools=TOOLS) as stream:
                for _ in stream:
                    pass
        else:
            model.generate("hello", tools=TOOLS)
    except ModelError as raised:
        error, text = type(raised).__name__, str(raised)
    except Exception as raised:
        error = repr(raised)[:200]
    return {"error": error, "text": text[:800], "cpu": round(time.process_time() - begin, 2)}


def main(backends: list[str]) -> None:
    """Run the attacks on each backend."""
    # A backend without limits must not take the machine's memory.
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    before: float | None = None
    for backend in backends:
        with HostileServer(backend in AMAZON) as server:
            target, settings = _Server(server.url), {"retry": False, "timeout": 20.0}
            model = CLIENTS[backend](target, settings) if backend in CLIENTS else MODELS[backend](target, **settings)
            server.attack = ATTACKS["endless error"]
            run_attack(model, server.attack)  # This imports what the backend needs.
            before = before or _largest_memory()
            for name, attack in attacks(backend).items():
                server.attack = attack
                report = run_attack(model, attack)
                line = {"backend": backend, "attack": name, **report, "grown": round(_largest_memory() - before)}
                print(json.dumps(line), flush=True)
            model.close()


def _largest_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(sys.argv[1:])
