"""smolagents' own tests of models and agents pass with modelport's classes. LiteLLM's are in its session."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.smolagents_suite import run_suite

pytestmark = pytest.mark.server


@pytest.mark.parametrize(("file", "least"), [("test_agents.py", 75), ("test_models.py", 50)])
def test_tests_of_smolagents_pass(file: str, least: int, tmp_path: Path) -> None:
    status, output = run_suite(tmp_path, file, selected="not LiteLLM")
    assert status == 0, output[-5000:]
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) >= least, output[-500:]
