"""Checks the types of constructors' settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelport.errors import InvalidRequest

_KINDS = {str: "a string", bool: "True or False", Mapping: "a dict whose keys are strings"}


def check_kind(kind: Any, **given: Any) -> None:
    """Looks at the types of settings; `None` means "not given". Their values are not shown: they may hold keys.

    Args:
        kind: `str`, `bool` or `Mapping`.
        **given: The settings by their names.

    Raises:
        InvalidRequest: One is of another type.
    """
    for name, value in given.items():
        odd = [key for key in value if not isinstance(key, str)] if isinstance(value, Mapping) else []
        if odd or not (value is None or isinstance(value, kind)):
            found = f"a key that is {odd[0]!r}" if odd else type(value).__name__
            raise InvalidRequest(f"{name} must be {_KINDS[kind]}, not {found}", parameter=name)


def name_or_path(model_id: Any) -> str:
    """A model's name, or the path of its files as text.

    Raises:
        InvalidRequest: It is neither.
    """
    if not isinstance(model_id, str | os.PathLike):
        raise InvalidRequest(f"model_id must be a name or a path, not {type(model_id).__name__}")
    return os.fspath(model_id)
