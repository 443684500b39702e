"""Exactly one session of the noxfile runs each backend under test, so that none is skipped silently."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conformance.test_conformance import SEPARATE_SUBJECTS, SUBJECTS, selected_backends

NOXFILE = Path(__file__).parents[2] / "noxfile.py"


def backends_in_noxfile() -> list[str]:
    """Return the backends that the noxfile's sessions name.

    The sessions with the oldest versions are left out, because they repeat some backends of other sessions.
    """
    statements = ast.parse(NOXFILE.read_text()).body
    sessions = [node for node in statements if not getattr(node, "name", "").startswith("lowest")]
    strings = [
        node.value
        for session in sessions
        for node in ast.walk(session)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    options = [text.removeprefix("--backends=") for text in strings if text.startswith("--backends=")]
    return [backend for option in options for backend in option.split(",")]


def test_every_separate_backend_belongs_to_one_session() -> None:
    assert sorted(backends_in_noxfile()) == sorted(SEPARATE_SUBJECTS)
    assert not set(SUBJECTS) & set(SEPARATE_SUBJECTS)
    assert set(selected_backends(None)) == set(SUBJECTS)


def test_backends_option_with_unknown_name_raises_usage_error() -> None:
    with pytest.raises(pytest.UsageError, match="'nonesuch' is unknown"):
        selected_backends("openai,nonesuch")
