"""Finds the keys in LiteLLM's parameters, and the environment variables that hold them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelport.inputs.settings import check_kind
from modelport.remote.http.redaction import secrets_in
from modelport.secrets import Secret, names_secret


def secrets_in_parameters(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The values in LiteLLM's parameters that no error may show: keys, and the caller's headers and query."""
    keys = {name: value for name, value in parameters.items() if names_secret(name)}
    sent = [parameters.get(name) for name in ("headers", "extra_headers", "extra_query")]
    return secrets_in(keys, *(layer for layer in sent if isinstance(layer, Mapping)))


def secret_from(key: Secret | str | Mapping[str, Any], owner: str) -> Secret:
    """A key together with the environment variable from which it is read again after loading a saved model.

    That variable is the one that holds the key now, or else the usual one of the key's owner.

    Args:
        key: The key, or its variable as `os.environ/NAME` or `{"env": NAME}`.
        owner: The model that the key is for, as `provider/model`, or the name of the setting that holds the key.
    """
    if isinstance(key, Secret):
        return key
    if isinstance(key, Mapping):
        return Secret(env=key.get("env"))
    check_kind(str, api_key=key)
    if key.startswith("os.environ/"):
        return Secret(env=key.removeprefix("os.environ/"))
    holder = next((name for name, value in os.environ.items() if value == key), None)
    return Secret(key, holder or _usual_variable(owner))


def _usual_variable(owner: str) -> str:
    provider, slash, _ = owner.partition("/")
    name = f"{provider}_api_key" if slash else owner if owner.startswith("redis") else "litellm_api_key"
    return name.upper().replace("-", "_")
