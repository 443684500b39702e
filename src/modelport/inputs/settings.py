"""Checks the types of the settings that callers pass to constructors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelport.errors import InvalidRequest

_TYPE_NAMES = {str: "a string", bool: "True or False", Mapping: "a dict whose keys are strings"}


def check_kind(kind: Any, **given: Any) -> None:
    """Check the types of settings. `None` means "not given". Errors don't show the values, which may hold keys.

    Args:
        kind: The expected type: `str`, `bool` or `Mapping`.
        **given: The settings by their names.

    Raises:
        InvalidRequest: A setting has another type, or a mapping has a key that is not a string.
    """
    for name, value in given.items():
        wrong_keys = [key for key in value if not isinstance(key, str)] if isinstance(value, Mapping) else []
        if wrong_keys or not (value is None or isinstance(value, kind)):
            found = f"a key that is {wrong_keys[0]!r}" if wrong_keys else type(value).__name__
            raise InvalidRequest(f"{name} must be {_TYPE_NAMES[kind]}, not {found}", parameter=name)


def name_or_path(model_id: Any) -> str:
    """Return a caller's `model_id` as a string: the name of a model, or the path of its files.

    Raises:
        InvalidRequest: `model_id` is neither a string nor a path.
    """
    if not isinstance(model_id, str | os.PathLike):
        raise InvalidRequest(f"model_id must be a name or a path, not {type(model_id).__name__}")
    return os.fspath(model_id)


class ClientSetting:
    """The attribute `client` of a remote model: the caller's own client, which only the constructor accepts.

    Assigning it later raises, because it would have no effect: the connections are made from the settings.
    """

    def __get__(self, model: Any, owner: Any = None) -> Any:
        return None if model is None else model.__dict__.get("client")

    def __set__(self, model: Any, value: Any) -> None:
        if "kwargs" in model.__dict__:  # The constructor of `Model` has run.
            raise AttributeError(
                f"client can't be assigned: make a new {type(model).__name__}, and pass the client or its settings to "
                "the constructor"
            )
        model.__dict__["client"] = value
