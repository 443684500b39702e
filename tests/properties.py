"""Settings of the property tests, which hypothesis runs."""

from __future__ import annotations

import os

from hypothesis import settings

#: The largest number of examples in the profile for development; see CONTRIBUTING.md.
DEVELOPMENT_EXAMPLES = 25


def examples(number: int) -> settings:
    """Return the settings of a test with this number of examples; with fewer in the profile for development."""
    if os.environ.get("HYPOTHESIS_PROFILE") == "dev":
        number = min(number, DEVELOPMENT_EXAMPLES)
    return settings(max_examples=number, derandomize=True, deadline=None)
