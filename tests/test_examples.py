"""The programs in examples/ run as written, each in a process of its own, on real weights."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.registry import BACKENDS
from modelport.testing import ScriptedModel
from tests.fast_products import preload
from tests.servers.front import azure
from tests.servers.llamacpp import llama_server, model_file
from tests.servers.ministack import ministack
from tests.servers.smollm2 import smollm2_folder

pytestmark = [pytest.mark.engine, pytest.mark.server, pytest.mark.timeout(600)]

EXAMPLES = Path(__file__).parents[1] / "examples"
KEY = "sk-example-0123456789"
#: What switch.py prints with every backend.
SWITCH_OUTPUT = """\
complete:  The capital of France is Paris.
streamed:  The capital of France is Paris.
stopped:   The capital of France is  [stop]
truncated: length
"""

Arguments = tuple[list[str], dict[str, str]]


@contextmanager
def arguments_for(backend: str) -> Iterator[Arguments]:
    """Start what a backend needs, and yield the arguments and environment variables for a program."""
    with ExitStack() as stack:
        if backend == "llamacpp":
            yield [local_model()], {}
        elif backend in ("transformers", "mlx"):
            yield [f"{backend}/{smollm2_folder()}"], preload() if backend == "mlx" else {}
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
def test_switch_prints_same_output_with_every_backend(backend: str) -> None:
    with arguments_for(backend) as (arguments, environment):
        output = run_example("switch.py", *arguments, **environment)
    expected = SWITCH_OUTPUT
    if backend == "bedrock":  # ministack reports of every response that it ended by itself.
        output, expected = (text.rpartition("truncated:")[0] for text in (output, expected))
    assert output == expected


def local_model() -> str:
    """Return the name of the local model, with the weights of the tests."""
    return f"llamacpp/{model_file()}"


def test_agent_calls_tool_with_right_arguments() -> None:
    output = run_example("agent.py", local_model(), "What is 12.5 times 8?")
    assert output.startswith("multiply({'a': 12.5, 'b': 8}) = 100.0\n")
    assert "100" in output.splitlines()[-1]


@pytest.mark.parametrize("mistake", ["invalid arguments", "tool raises"])
def test_agent_lets_the_model_correct_its_call(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    agent = importlib.import_module("agent")

    def days_between(first: str, last: str) -> int:
        """Counts the days from one date to another."""
        return (date.fromisoformat(last) - date.fromisoformat(first)).days

    invalid = mistake == "invalid arguments"
    wrong = {"a": "twelve"} if invalid else {"first": "yesterday", "last": "today"}
    name = "multiply" if invalid else "days_between"
    model = ScriptedModel(calling(name, wrong), calling("multiply", {"a": 12.5, "b": 8}), "It is 100.")
    assert agent.run(model, "What is 12.5 times 8?", [agent.multiply, days_between]) == "It is 100."
    feedback = str(model.requests[1].messages[-1].content)
    assert ("the tool's schema" in feedback) if invalid else feedback.startswith("ValueError: ")
    assert model.requests[2].messages[-1].content == "100.0"


def calling(name: str, arguments: dict[str, Any]) -> ChatMessage:
    """Return a message that calls a tool."""
    return ChatMessage("assistant", tool_calls=[ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), "1")])


def test_agent_example_has_at_most_40_lines() -> None:
    assert len((EXAMPLES / "agent.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", ["agent.py", "extract.py", "switch.py"])
def test_example_without_arguments_prints_its_usage(name: str) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"python examples/{name} llamacpp" in done.stderr.replace(
        "invoices/ invoices.csv", "llamacpp"
    )
    assert "Traceback" not in done.stderr


def test_extract_with_empty_folder_names_the_folder(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(EXAMPLES / "extract.py"),
        str(tmp_path / "none"),
        str(tmp_path / "t.csv"),
        "llamacpp",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith("none: there are no .txt files\n")
    assert not (tmp_path / "t.csv").exists()


def test_switch_docstring_shows_every_backend_with_valid_json() -> None:
    source = (EXAMPLES / "switch.py").read_text()
    assert all(f"switch.py {backend}" in source for backend in BACKENDS)
    settings = re.findall(r"'(\{.*?\})'\n", source, re.DOTALL)
    assert len(settings) == 2 and all(json.loads(text) for text in settings)


def test_extract_writes_table_of_invoices(tmp_path: Path) -> None:
    texts = {
        "a.txt": "Invoice 7. Bill to: Ada Lovelace, London. Amount due: 120.50 USD, payable in 30 days.",
        "b.txt": "INVOICE #8 - Charles Babbage - total 99.00 GBP",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    output = run_example("extract.py", str(tmp_path), str(tmp_path / "table.csv"), local_model())
    assert "Reading" in output and "100%" in output
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"file": "a.txt", "buyer": "Ada Lovelace", "total": "120.5", "currency": "USD"},
        {"file": "b.txt", "buyer": "Charles Babbage", "total": "99.0", "currency": "GBP"},
    ]


def test_extract_names_text_without_invoice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    extract = importlib.import_module("extract")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    invoice = '{"buyer": "Ada", "total": 1, "currency": "EUR"}'
    model = ScriptedModel(*[lambda request: invoice if "a.txt" in str(request.messages[0].content) else "a letter"] * 2)
    extract.main(tmp_path, tmp_path / "table.csv", model)
    assert (tmp_path / "table.csv").read_text().splitlines()[1:] == ["a.txt,Ada,1.0,EUR"]
    assert capsys.readouterr().err.endswith("b.txt: the model found no invoice\n")


def test_smolagents_agent_calls_its_tool() -> None:
    assert run_example("smolagents_agent.py", local_model()).startswith("sunny in ")


def test_langchain_chain_invokes_streams_and_batches() -> None:
    lines = run_example("langchain_chain.py", local_model()).splitlines()
    assert lines[0] == "The capital of France is Paris." and "Rome" in lines[1]
    assert "Madrid" in lines[2] and "Tokyo" in lines[3]


def test_notebook_runs_and_has_no_stored_outputs(tmp_path: Path) -> None:
    nbformat, nbclient = importlib.import_module("nbformat"), importlib.import_module("nbclient")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3").execute(cwd=str(tmp_path))
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "The capital of France is Paris." in text


def run_example(name: str, *arguments: str, **environment: Any) -> str:
    """Run a program of examples/, which must succeed, and return its output."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
