"""Options and settings of the test suite."""

from __future__ import annotations

import os

import pytest

try:
    from hypothesis import settings
except ImportError:  # The session with the oldest versions has no hypothesis.
    pass
else:
    settings.register_profile("default", deadline=None)
    settings.register_profile("dev", deadline=None, max_examples=20)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends", help="backends under test, separated by commas; by default those of the nox session `tests`"
    )
