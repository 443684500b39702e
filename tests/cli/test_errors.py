"""How the command line reports errors: one line, with a hint that names its own options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from modelport import OpenAIServerModel, errors
from modelport.cli.commands import cli
from tests.cli.running import RUNNER, FakeLoadModel, run_process
from tests.servers.faults import Fault, FaultServer


def test_error_of_model_is_one_line(invoke: Any) -> None:
    error = errors.RateLimited("slow down.\n  Try\tlater", model_id="m")
    result, model = invoke("Hi", answers=[error], retry=False)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "modelport: slow down. Try later (model: m)\n"
    assert model.closed == 1


def test_unexpected_error_is_one_line_with_its_type(invoke: Any, load_model: FakeLoadModel) -> None:
    load_model.models["other"] = TypeError("missing argument")
    result, _ = invoke("Hi", "-m", "other")
    assert result.exit_code == 1
    assert result.stderr == "modelport: TypeError: missing argument (--debug shows where)\n"


@pytest.mark.parametrize("text", ["it went wrong", "it went wrong."])
def test_hint_follows_the_message(invoke: Any, text: str) -> None:
    result, _ = invoke("Hi", answers=[errors.InvalidRequest(text, hint="Do it right.")])
    assert result.stderr.startswith("modelport: it went wrong")
    assert result.stderr.endswith(" (model: scripted). Do it right.\n")


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["-m", "openai/gpt-4o"], "The command line takes keys from the environment only: export OPENAI_API_KEY=…"),
        (["-m", "azure/x"], "The option --set azure_endpoint=https://RESOURCE.openai.azure.com sets the endpoint."),
        (["-m", "azure/x", "--set", "azure_endpoint=https://x.example"],
         "The command line takes keys from the environment only: export AZURE_OPENAI_API_KEY=…"),
        (["-m", "openai"], "The option -m names backend and model, for example -m openai/gpt-4o."),
        (["-m", "openai/gpt-4o", "--api-base", "x"], "The option --api-base sets the address."),
        (["-m", "openai/gpt-4o", "--set", "retry=0"], "The option --set retry=false turns retries off."),
    ],
    ids=["key", "endpoint", "credentials", "model", "address", "retry"],
)  # fmt: skip
def test_hint_of_constructor_error_names_options_of_the_command_line(
    args: list[str], hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    result = RUNNER.invoke(cli, [*args, "Hi"], prog_name="modelport")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.endswith(f" {hint}\n")


def test_hint_of_exceeded_context_names_option_of_the_command_line(load_model: FakeLoadModel) -> None:
    with FaultServer() as server:
        server.script(then=Fault.status(400, message="Too long.", code="context_length_exceeded"))
        load_model.models["*"] = OpenAIServerModel("gpt-4o", server.base_url, "sk-0123456789")
        result = RUNNER.invoke(cli, ["Hi"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.endswith(" The option --max-tokens limits the output.\n")


@pytest.mark.parametrize("args", [["--debug", "Hi"], ["Hi", "--debug"], ["Hi"]])
def test_debug_shows_the_traceback(invoke: Any, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if "--debug" not in args:
        monkeypatch.setenv("MODELPORT_DEBUG", "1")
    result, _ = invoke(*args, answers=[errors.NotFoundError("no such model")])
    assert result.exit_code == 1 and "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("\nmodelport: no such model (model: scripted)\n")


def test_interrupted_stream_prints_its_text_and_the_cause(invoke: Any) -> None:
    def interrupted(request: Any) -> Iterator[str]:
        yield "Once upon"
        raise errors.ConnectionFailed("the connection broke", hint="Try again.")

    result, _ = invoke("Hi", answers=[interrupted])
    assert (result.exit_code, result.stdout) == (1, "Once upon\n")
    expected = "the response was interrupted: the connection broke (model: scripted). Try again."
    assert result.stderr == f"modelport: {expected}\n"


def test_unreachable_service_is_reported_without_its_key() -> None:
    env = {**os.environ, "OPENAI_API_KEY": "sk-secret-0123"}
    done = run_process("-m", "openai/x", "--api-base", "http://127.0.0.1:9/v1", "--set", "retry=false", "Hi", env=env)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "127.0.0.1:9" in done.stderr and "sk-secret" not in done.stderr
    assert done.stderr.endswith(" The option --api-base sets the address.\n")
    done = run_process("-m", "gpt-4o", "Hi")
    assert done.returncode == 1 and "did you mean 'openai/gpt-4o'?" in done.stderr
