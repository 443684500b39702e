"""`modelport check`: the table of outcomes, JSON, and a report that contains no secret."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator
from typing import Any

import pytest

import modelport
from modelport import Secret, errors
from modelport.cli.commands import cli
from modelport.testing import Outcome
from modelport.types.capabilities import Capabilities
from tests.cli.running import RUNNER, ClosableModel, FakeLoadModel


class WithoutImages(ClosableModel):
    """A model without images, which reports no usage although its capabilities say so."""

    declared_capabilities = Capabilities(stop=True, usage=True)


def test_check_names_the_failed_check(load_model: FakeLoadModel) -> None:
    load_model.models["*"] = model = WithoutImages("Paris.", repeat=True)
    args = ["check", "mine", "--only", "generate", "--only", "usage", "--only", "image input"]
    result = RUNNER.invoke(cli, args)
    assert (result.exit_code, model.closed) == (1, 1)
    assert re.search(r"✗ │ usage +│ failed", result.stdout)
    assert result.stdout.endswith("mine: passed 1, unsupported 1, failed 1\n")
    assert "\nFailed: usage. " in result.stdout
    assert "\nunsupported: the model declares that it lacks the feature" in result.stdout
    outcomes = json.loads(RUNNER.invoke(cli, [*args, "--json"]).stdout)["outcomes"]
    assert [(outcome["check"], outcome["status"]) for outcome in outcomes] == [
        ("generate", "passed"), ("usage", "failed"), ("image input", "unsupported"),
    ]  # fmt: skip


def test_check_of_model_without_tools_does_not_fail(load_model: FakeLoadModel) -> None:
    load_model.models["*"] = WithoutImages("Paris.", repeat=True)
    result = RUNNER.invoke(cli, ["check", "mine", "--only", "tools: required", "--only", "JSON schema"])
    assert result.exit_code == 0
    assert result.stdout.endswith("mine: not checked 2\n")
    words = " ".join(re.sub("[│|]", " ", result.stdout).split())
    assert "the model did not follow the" in words  # The table wraps the rest of the detail.
    assert "not checked: the check can't be decided: " in result.stdout


def test_check_runs_a_repeated_check_once(load_model: FakeLoadModel) -> None:
    load_model.models["*"] = WithoutImages("Paris.", repeat=True)
    result = RUNNER.invoke(cli, ["check", "mine", "--only", "generate", "--only", "generate"])
    assert result.stdout.endswith("mine: passed 1\n")


def test_check_with_unknown_name_lists_the_names(load_model: FakeLoadModel) -> None:
    load_model.models["*"] = WithoutImages("Paris.", repeat=True)
    result = RUNNER.invoke(cli, ["check", "mine", "--only", "nope"])
    assert result.exit_code == 1
    assert result.stderr.startswith("modelport: --only 'nope' is not the name of a check; there are generate, ")


class WithKey(WithoutImages):
    """A model with a key, which its service repeats in an error."""

    secret_settings = frozenset({"api_key"})

    def __init__(self, *answers: Any, **settings: Any) -> None:
        super().__init__(*answers, **settings)
        self.api_key = Secret.from_value("sk-very-secret", "OPENAI_API_KEY")


def test_report_contains_versions_and_no_secret(load_model: FakeLoadModel) -> None:
    error = errors.InvalidRequest("sk-very-secret is refused at https://ada:pw@host/v1 | sorry")
    load_model.models["*"] = WithKey(error, repeat=True)
    args = ["check", "openai/https://ada:pw@host/v1", "--set", 'default_headers={"X": "hush"}']
    for output_format in ("--report", "--json"):
        result = RUNNER.invoke(cli, [*args, "--only", "generate", "--only", "image input", output_format])
        assert result.exit_code == 1, result.output
        assert not re.search("very-secret|hush|ada|pw@", result.stdout)
        for word in ("default_headers", "pydantic", "max_stop_sequences", "refused at"):
            assert word in result.stdout
        assert modelport.__version__ in result.stdout and platform.python_version() in result.stdout
    report = json.loads(result.stdout)
    assert report["counts"] == {"failed": 1, "unsupported": 1}
    assert set(report["packages"]) >= {"click", "openai"} and "boto3" not in report["packages"]
    text = RUNNER.invoke(cli, [*args, "--only", "generate", "--report"]).stdout
    detail = "InvalidRequest: [a key] is refused at https://host/v1 \\| sorry (model: scripted)"
    assert f"| generate | failed | {detail} |" in text


def test_report_on_a_provider_has_the_packages_of_its_backend(load_model: FakeLoadModel) -> None:
    load_model.models["*"] = ClosableModel("A", repeat=True)
    result = RUNNER.invoke(cli, ["check", "groq/m", "--only", "generate", "--json"])
    assert "aiohttp" in json.loads(result.stdout)["packages"]


@pytest.mark.parametrize(
    "error",
    [errors.AuthenticationError("Wrong key."), errors.ConnectionFailed("Nobody there.")],
    ids=["authentication", "connection"],
)
def test_check_stops_where_the_model_cannot_be_called(load_model: FakeLoadModel, error: errors.ModelError) -> None:
    load_model.models["*"] = model = WithoutImages(error, repeat=True, retry=False)
    result = RUNNER.invoke(cli, ["check", "mine"])
    assert (result.exit_code, result.stdout, len(model.requests)) == (1, "", 1)
    assert result.stderr == f"modelport: mine can't be called. {type(error).__name__}: {error}\n"


def test_interrupted_check_prints_outcomes_so_far(load_model: FakeLoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Iterator[Outcome]:
        yield Outcome("generate", "passed")
        raise KeyboardInterrupt

    monkeypatch.setattr("modelport.testing.run_checks", interrupted)
    load_model.models["*"] = WithoutImages()
    result = RUNNER.invoke(cli, ["check", "mine", "--only", "generate", "--only", "stream"])
    assert result.exit_code == 130
    assert result.stdout.endswith("mine: passed 1 (1 of 2 checks)\n")
