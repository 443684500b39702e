"""The longest common beginning of two token sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def common_prefix_length(a: np.ndarray, b: np.ndarray) -> int:
    """Return the length of the longest common prefix of two sequences."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
