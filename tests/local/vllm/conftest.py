"""One engine for the contract's columns and for these tests."""

from __future__ import annotations

import pytest
from tests.conformance.vllm_subjects import kept

from modelport import VLLMModel


@pytest.fixture(scope="session")
def model() -> VLLMModel:
    return kept()
