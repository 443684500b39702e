"""Options of the tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--columns", help="columns of the contract, with commas; by default those of the nox session `tests`"
    )
