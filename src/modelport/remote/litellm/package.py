"""Imports LiteLLM on first use, which takes seconds."""

from __future__ import annotations

import functools
import logging
import os
from contextlib import suppress
from typing import Any

from modelport.remote.http.packages import require
from modelport.remote.litellm.isolation import isolate_clients


def require_litellm() -> None:
    """Checks that LiteLLM is installed, without importing it.

    Raises:
        MissingDependency: LiteLLM is not installed.
    """
    require("litellm", "litellm")


@functools.cache
def litellm_package() -> Any:
    """LiteLLM, imported on first use.

    LiteLLM fetches, prints and reports nothing, and logs nothing itself. Settings of the user's take precedence:
    `LITELLM_LOCAL_MODEL_COST_MAP`, `LITELLM_LOG`, or the level of one of LiteLLM's loggers.

    Raises:
        MissingDependency: LiteLLM is not installed.
    """
    require_litellm()
    # Without these settings, the import and the first call of some services fetch tables that the package contains.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    import litellm

    litellm.suppress_debug_info = True  # Otherwise LiteLLM prints "Give Feedback / Get Help" at every error.
    if hasattr(litellm, "telemetry"):  # Only versions up to 1.9x have telemetry.
        litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Router"):
        if logging.getLogger(name).level == logging.NOTSET and "LITELLM_LOG" not in os.environ:
            # Nothing needs to be logged, because every error is raised.
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # In a version of LiteLLM with other internals, models share HTTP clients and callbacks, as LiteLLM's own calls do.
    with suppress(AttributeError, ImportError):
        isolate_clients(litellm)
    return litellm
