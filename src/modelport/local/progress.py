"""Progress on standard error while a model is downloaded or loaded."""

from __future__ import annotations

import sys


def shows_progress(progress: bool | None) -> bool:
    """Return whether to show a progress bar.

    Args:
        progress: The caller's setting; `None` to show it if standard error is a terminal.
    """
    # `sys.stderr` is `None` under pythonw.
    return progress if progress is not None else sys.stderr is not None and sys.stderr.isatty()
