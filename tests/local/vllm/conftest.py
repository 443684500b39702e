"""One engine for the conformance checks and for these tests."""

from __future__ import annotations

import pytest
from tests.conformance.vllm_subjects import shared_model

from modelport import VLLMModel


@pytest.fixture(scope="session")
def model() -> VLLMModel:
    return shared_model()
