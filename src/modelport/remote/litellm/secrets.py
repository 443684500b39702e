"""Finds API keys and other secrets in LiteLLM's parameters, and the environment variables that hold them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from modelport.inputs.settings import check_kind
from modelport.remote.http.redaction import secrets_in
from modelport.secrets import Secret, names_secret


def secrets_in_parameters(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """The values in LiteLLM's parameters that no error may show.

    These are API keys, and the values of the headers and query parameters that the caller gave.
    """
    with_secret_names = {name: value for name, value in parameters.items() if names_secret(name)}
    given = [parameters.get(name) for name in ("headers", "extra_headers", "extra_query")]
    return secrets_in(with_secret_names, *(values for values in given if isinstance(values, Mapping)))


def secret_from(key: Secret | str | Mapping[str, Any], model_or_setting: str) -> Secret:
    """An API key or a password as a `Secret` with the name of an environment variable.

    A saved model contains only the variable's name. When the model is loaded, the secret is read from the variable. The
    variable is the one whose value is the secret now. If there is none, it is the usual variable of the provider, such
    as `GROQ_API_KEY`, or of the setting, such as `REDIS_PASSWORD`.

    Args:
        key: The API key or the password itself, or its variable as `os.environ/NAME` or `{"env": NAME}`.
        model_or_setting: The model that the key is for, as `provider/model`; or the name of the setting.
    """
    if isinstance(key, Secret):
        return key
    if isinstance(key, Mapping):
        return Secret(env=key.get("env"))
    check_kind(str, api_key=key)
    if key.startswith("os.environ/"):
        return Secret(env=key.removeprefix("os.environ/"))
    variable = next((name for name, value in os.environ.items() if value == key), None)
    return Secret(key, variable or _usual_variable(model_or_setting))


def _usual_variable(model_or_setting: str) -> str:
    provider, slash, _ = model_or_setting.partition("/")
    if slash:
        name = f"{provider}_api_key"
    else:
        name = model_or_setting if model_or_setting.startswith("redis") else "litellm_api_key"
    return name.upper().replace("-", "_")
