"""A short soak test on LiteLLM."""

from __future__ import annotations

import pytest

from tests.test_soak import run_soak


@pytest.mark.timeout(600)
def test_failed_and_cancelled_calls_leave_no_resources_behind() -> None:
    run_soak("litellm", "litellm-router", "litellm-http")
