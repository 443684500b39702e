"""Runs a target on many inputs."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.targets import Target


def fuzz(target: Target, inputs: int) -> None:
    """Run a target on about this number of inputs.

    Raises:
        AssertionError: Some inputs were lost; the message has one example of each kind of defect.
    """

    @settings(
        max_examples=max(1, inputs), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.strategy)
    def run(value: Any) -> None:
        target.run(value)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A rejection that updates the profile of a model warns.
        run()
    assert not target.lost, "\n\n".join(target.lost.values())
