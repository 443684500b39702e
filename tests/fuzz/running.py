"""Runs targets on many inputs."""

from __future__ import annotations

import warnings
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.targets import Target


def fuzz(target: Target, inputs: int) -> None:
    """Plays about so many inputs.

    Raises:
        AssertionError: Some were lost; each kind of loss is told once.
    """

    @settings(
        max_examples=max(1, inputs), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(target.strategy)
    def run(what: Any) -> None:
        target.take(what)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a refusal that teaches warns
        run()
    assert not target.lost, "\n\n".join(target.lost.values())
