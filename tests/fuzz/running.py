"""Runs a target on many inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target


def fuzz(target: Target, inputs: int) -> None:
    """Run a target on about this number of inputs.

    Raises:
        AssertionError: Some inputs were lost; the message has one example of each kind of defect.
    """
    run_inputs(target.strategy, target.run, inputs)
    assert not target.lost, "\n\n".join(target.lost.values())


def run_inputs(
    strategy: st.SearchStrategy[Any], play: Callable[[Any], None], inputs: int, seed_number: int | None = None
) -> None:
    """Generate about this number of inputs, and call a function with each.

    Args:
        strategy: Generates the inputs.
        play: The function.
        inputs: The number of inputs.
        seed_number: Decides which inputs are generated; by default it is drawn.
    """

    @settings(
        max_examples=max(1, inputs), deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(value: Any) -> None:
        play(value)

    if seed_number is not None:
        run = seed(seed_number)(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A rejection that updates the profile of a model warns.
        run()
