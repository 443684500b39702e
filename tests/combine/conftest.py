"""Variants of a call: the four methods, with and without hedging, streamed or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelport import ChatMessage
from tests.combine.models import agenerate, agenerate_stream, generate, generate_stream


@pytest.fixture(
    params=[generate, generate_stream, agenerate, agenerate_stream], ids=lambda call_method: call_method.__name__
)
def call(request: pytest.FixtureRequest) -> Callable[..., ChatMessage]:
    """A function that calls a model by one of its four methods, and returns the message."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[None, 30], ids=["sequential", "hedged"])
def hedge(request: pytest.FixtureRequest) -> Any:
    """With hedging, the same holds as without, because no model is slow enough for it."""
    return request.param


@pytest.fixture(params=[False, True], ids=["complete", "streamed"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
