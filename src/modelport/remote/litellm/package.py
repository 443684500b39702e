"""Imports LiteLLM on first use, which takes seconds."""

from __future__ import annotations

import functools
import logging
import os
from contextlib import suppress
from typing import Any

from modelport.remote.http.packages import no_fork_during_import, require
from modelport.remote.litellm.isolation import isolate_clients, observe_chunks


def require_litellm() -> None:
    """Check that LiteLLM is installed, without importing it.

    Raises:
        MissingDependency: LiteLLM is not installed.
    """
    require("litellm", "litellm")


@functools.cache
def litellm_package() -> Any:
    """LiteLLM, imported on first use.

    LiteLLM is configured to download no tables, print nothing, send no telemetry and log nothing. The user's settings
    take precedence: the environment variables `LITELLM_LOCAL_MODEL_COST_MAP` and `LITELLM_LOG`, and the levels of
    LiteLLM's loggers.

    Raises:
        MissingDependency: LiteLLM is not installed.
    """
    require_litellm()
    # Otherwise LiteLLM would download tables that the package contains, at its import and at calls of some services.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    with no_fork_during_import():
        import litellm

    litellm.suppress_debug_info = True  # Otherwise LiteLLM prints "Give Feedback / Get Help" at every error.
    if hasattr(litellm, "telemetry"):  # Only older versions have telemetry.
        litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Router"):
        if logging.getLogger(name).level == logging.NOTSET and "LITELLM_LOG" not in os.environ:
            # Nothing needs to be logged, because every error is raised.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # If a version of LiteLLM has other internals, this fails, and models share HTTP clients and callbacks.
    with suppress(AttributeError, ImportError):
        isolate_clients(litellm)
    with suppress(AttributeError):
        observe_chunks(litellm)
    return litellm
