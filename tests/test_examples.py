"""The programs in examples/ run as written, in a process of their own, on real weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.servers.front import azure
from tests.servers.llamacpp import llama_server, model_file
from tests.servers.ministack import ministack
from tests.servers.smollm2 import smollm2_folder

EXAMPLES = Path(__file__).parents[1] / "examples"
KEY = "sk-example-0123456789"
SWITCHED = """\
whole:    The capital of France is Paris.
streamed: The capital of France is Paris.
stopped:  The capital of France is  [stop]
cut:      length
"""

Case = tuple[list[str], dict[str, str]]


@contextmanager
def case(backend: str) -> Iterator[Case]:
    """The arguments and the environment variables with which the program meets this backend."""
    with ExitStack() as stack:
        if backend == "llamacpp":
            yield [f"llamacpp/{model_file()}"], {}
        elif backend in ("transformers", "mlx"):
            yield [f"{backend}/{smollm2_folder()}"], {}
        elif backend == "bedrock":
            service = stack.enter_context(ministack(stack.enter_context(llama_server(api_key=None)).url))
            yield ["bedrock/us.amazon.nova-pro-v1:0"], {
                "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": service.url, "AWS_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            }  # fmt: skip
        else:
            server = stack.enter_context(llama_server(api_key=KEY))
            if backend == "azure":
                resource = stack.enter_context(
                    azure(server.url, KEY, deployment="smollm2", api_key="az-key-0123456789")
                )
                yield ["azure/smollm2"], {
                    "AZURE_OPENAI_ENDPOINT": resource.url, "AZURE_OPENAI_API_KEY": "az-key-0123456789",
                    "OPENAI_API_VERSION": "2024-10-21",
                }  # fmt: skip
            elif backend == "huggingface":
                yield [f"huggingface/{server.base_url}"], {"HF_TOKEN": KEY}
            else:
                yield [f"{backend}/smollm2"], {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": KEY}


@pytest.mark.parametrize("backend", ["llamacpp", "transformers", "mlx", "openai", "azure", "huggingface", "bedrock"])
def test_switch(backend: str) -> None:
    """Another model is another argument; what the program prints is the same."""
    with case(backend) as (arguments, environment):
        told = run("switch.py", *arguments, **environment)
    expected = SWITCHED
    if backend in ("bedrock",):  # ministack says of every answer that it ended by itself
        told, expected = (text.rpartition("cut:")[0] for text in (told, expected))
    assert told == expected


def run(name: str, *arguments: str, **environment: Any) -> str:
    """What the program prints; it must end well."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
