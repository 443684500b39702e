"""A small run of the soak on LiteLLM."""

from __future__ import annotations

import pytest

from tests.test_soak import run_soak


@pytest.mark.timeout(600)
def test_nothing_is_left_of_calls_that_fail_or_are_left() -> None:
    run_soak("litellm", "litellm-router", "litellm-http")
