"""smolagents' own tests of LiteLLM's models pass with modelport's classes."""

from __future__ import annotations

import re
from pathlib import Path

from tests.smolagents_suite import run_suite


def test_tests_of_smolagents_pass(tmp_path: Path) -> None:
    status, output = run_suite(tmp_path, "test_models.py", selected="LiteLLM")
    assert status == 0, output[-5000:]
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed[1]) >= 8, output[-500:]
