"""Fixtures for the tests of the command line."""

from __future__ import annotations

from typing import Any

import pytest

from modelport.cli.commands import cli
from tests.cli.running import RUNNER, ClosableModel, FakeLoadModel


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODELPORT_MODEL", "MODELPORT_DEBUG", "NO_COLOR", "COLUMNS", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def load_model(monkeypatch: pytest.MonkeyPatch) -> FakeLoadModel:
    """A replacement for `load_model`, which the command line calls."""
    fake = FakeLoadModel()
    monkeypatch.setattr("modelport.registry.load_model", fake)
    return fake


@pytest.fixture
def invoke(load_model: FakeLoadModel) -> Any:
    """A function that runs the command line on a scripted model, and returns the result and the model."""

    def invoke(*args: str, answers: Any = ("Paris.",), stdin: str | bytes | None = None, **settings: Any) -> Any:
        model = ClosableModel(*answers, **settings)
        load_model.models["*"] = model
        return RUNNER.invoke(cli, args, input=stdin, prog_name="modelport"), model

    return invoke
