"""Fixtures of the Converse tests."""

from __future__ import annotations

import pytest

from tests.protocols.converse.examples import RecordingModel, recording_model


@pytest.fixture(scope="module")
def shared_model() -> RecordingModel:
    return recording_model()


@pytest.fixture
def model(shared_model: RecordingModel) -> RecordingModel:
    """A recording model, made once for each module because a boto3 client takes long to make."""
    shared_model.sent.clear()
    shared_model.calls.clear()
    shared_model.response_text = "ok"
    return shared_model
