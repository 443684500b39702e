"""Progress on standard error while a model is downloaded or loaded."""

from __future__ import annotations

import sys


def shows_progress(progress: bool | None) -> bool:
    """Return whether to show a progress bar: as the caller says, by default where standard error is a terminal.

    Args:
        progress: The caller's setting, or `None`.
    """
    # Under pythonw there is no standard error.
    return progress if progress is not None else sys.stderr is not None and sys.stderr.isatty()
