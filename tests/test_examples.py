"""The programs in examples/ run as written, in a process of their own, on real weights."""

from __future__ import annotations

import csv
import functools
import importlib
import json
import operator
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


MODEL = f"llamacpp/{model_file()}"


def test_agent() -> None:
    """A tool of the embedded model's own choice, with the right arguments."""
    told = run("agent.py", MODEL, "What is 12.5 times 8?")
    assert told.startswith("multiply({'a': 12.5, 'b': 8}) = 100.0\n")
    assert "100" in told.splitlines()[-1]


@pytest.mark.parametrize("bad", ["wrong form", "raises"])
def test_agent_has_the_model_mend_its_calls(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    agent = importlib.import_module("agent")

    def days_between(first: str, last: str) -> int:
        """Counts the days from one date to another."""
        return (date.fromisoformat(last) - date.fromisoformat(first)).days

    wrong = {"a": "twelve"} if bad == "wrong form" else {"first": "yesterday", "last": "today"}
    name = "multiply" if bad == "wrong form" else "days_between"
    model = ScriptedModel(call(name, wrong), call("multiply", {"a": 12.5, "b": 8}), "It is 100.")
    assert agent.run(model, "What is 12.5 times 8?", [agent.multiply, days_between]) == "It is 100."
    told = str(model.requests[1].messages[-1].content)
    assert ("fit the tool's schema" in told) if bad == "wrong form" else told.startswith("ValueError: ")
    assert model.requests[2].messages[-1].content == "100.0"


def call(name: str, arguments: dict[str, Any]) -> ChatMessage:
    return ChatMessage("assistant", tool_calls=[ChatMessageToolCall(ChatMessageToolCallFunction(arguments, name), "1")])


def test_an_agent_takes_no_more_than_40_lines() -> None:
    assert len((EXAMPLES / "agent.py").read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", ["agent.py", "extract.py", "switch.py"])
def test_without_arguments_an_example_says_what_it_takes(name: str) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"python examples/{name} llamacpp" in done.stderr.replace(
        "invoices/ invoices.csv", "llamacpp"
    )
    assert "Traceback" not in done.stderr


def test_extract_names_a_folder_without_texts(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "extract.py"), str(tmp_path / "none"), str(tmp_path / "t.csv"), MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith("none is no folder with .txt files\n")
    assert not (tmp_path / "t.csv").exists()


def test_switch_shows_every_backend() -> None:
    """With settings that are JSON."""
    shown = (EXAMPLES / "switch.py").read_text()
    assert all(f"switch.py {backend}" in shown for backend in BACKENDS)
    settings = re.findall(r"'(\{.*?\})'\n", shown, re.DOTALL)
    assert len(settings) == 2 and all(json.loads(text) for text in settings)


def test_extract(tmp_path: Path) -> None:
    texts = {
        "a.txt": "Invoice 7. Bill to: Ada Lovelace, London. Amount due: 120.50 USD, payable in 30 days.",
        "b.txt": "INVOICE #8 - Charles Babbage - total 99.00 GBP",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    told = run("extract.py", str(tmp_path), str(tmp_path / "table.csv"), MODEL)
    assert "Reading" in told and "100%" in told
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"file": "a.txt", "buyer": "Ada Lovelace", "total": "120.5", "currency": "USD"},
        {"file": "b.txt", "buyer": "Charles Babbage", "total": "99.0", "currency": "GBP"},
    ]


def test_extract_names_what_it_could_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    extract = importlib.import_module("extract")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    good = '{"buyer": "Ada", "total": 1, "currency": "EUR"}'
    model = ScriptedModel(*[lambda request: good if "a.txt" in str(request.messages[0].content) else "a letter"] * 2)
    extract.main(tmp_path, tmp_path / "table.csv", model)
    assert (tmp_path / "table.csv").read_text().splitlines()[1:] == ["a.txt,Ada,1.0,EUR"]
    assert capsys.readouterr().err.endswith("b.txt: the model gave no invoice\n")


def test_smolagents_agent() -> None:
    assert run("smolagents_agent.py", MODEL).startswith("sunny in ")


def test_langchain_chain() -> None:
    told = run("langchain_chain.py", MODEL).splitlines()
    assert told[0] == "The capital of France is Paris." and "Rome" in told[1]
    assert "Madrid" in told[2] and "Tokyo" in told[3]


def test_langchain_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and results go through LangChain's messages and back, whole and streamed."""
    monkeypatch.syspath_prepend(EXAMPLES)
    chain = importlib.import_module("langchain_chain")
    messages = importlib.import_module("langchain_core.messages")

    def multiply(a: float, b: float) -> float:
        """Multiplies two numbers."""
        return a * b

    model = ScriptedModel(call("multiply", {"a": 2, "b": 3}), call("multiply", {"a": 2, "b": 3}), "6")
    bound = chain.ChatModelport(model=model).bind_tools([multiply])
    asked = messages.HumanMessage("2 times 3?")
    answer = bound.invoke([asked])
    streamed = functools.reduce(operator.add, bound.stream([asked]))
    assert [(c["name"], c["args"]) for c in answer.tool_calls] == [("multiply", {"a": 2, "b": 3})]
    assert [(c["name"], c["args"]) for c in streamed.tool_calls] == [("multiply", {"a": 2, "b": 3})]
    bound.invoke([asked, answer, messages.ToolMessage("6", tool_call_id=answer.tool_calls[0]["id"])])
    assert [message.role for message in model.requests[2].messages] == ["user", "assistant", "tool"]
    assert [tool.name for tool in model.requests[2].tools] == ["multiply"]


def test_notebook(tmp_path: Path) -> None:
    nbformat, nbclient = importlib.import_module("nbformat"), importlib.import_module("nbclient")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # none that could be out of date
    nbclient.NotebookClient(notebook, timeout=150, kernel_name="python3").execute(cwd=str(tmp_path))
    told = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "The capital of France is Paris." in told


def run(name: str, *arguments: str, **environment: Any) -> str:
    """What the program prints; it must end well."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
