"""Helpers of LiteLLM's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from modelport import LiteLLMModel
from modelport.remote.litellm.package import litellm_package
from tests.remote.matrix_runner import ask, model_for
from tests.servers.faults import FaultServer

#: The backends under test: the model, its Router with one deployment, and a provider with LiteLLM's own HTTP client.
BACKENDS = ("litellm", "litellm-router", "litellm-http")
KEY = "sk-of-litellm-0123456789"
ROUTER_KEY = "sk-of-the-router-0123456789"
OTHER_KEY = "sk-of-another-0123456789"


def deployments_on(
    *servers: FaultServer, name: str = "g", key: str = ROUTER_KEY, **parameters: Any
) -> list[dict[str, Any]]:
    """A deployment on each server, as the Router's `model_list` has them."""
    common = {"model": "openai/m", "api_key": key, **parameters}
    return [{"model_name": name, "litellm_params": {**common, "api_base": server.base_url}} for server in servers]


def model_on(server: FaultServer, model_id: str = "openai/m", **settings: Any) -> LiteLLMModel:
    return LiteLLMModel(model_id, server.base_url, KEY, **settings)


def warm_up(server: FaultServer, backends: Iterable[str]) -> None:
    """Make a first call on each backend: imports at the first calls of a process take longer than some time limits."""
    litellm_package()  # On a busy machine, the import takes longer than the models' time-out.
    for backend in backends:
        for way in ("sync", "async streamed"):
            ask(model_for(server, backend), way)


class RecordingCallback:
    """A callback of the user's, which records the models that it is called for."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.models: list[str] = []
        self._seconds = seconds

    async def __call__(self, kwargs: Any, response: Any, begin: Any, end: Any) -> None:
        await asyncio.sleep(self._seconds)
        self.models.append(kwargs["model"])


@contextmanager
def success_callback(callback: Any) -> Iterator[None]:
    """Register an async callback with LiteLLM, as users do, and remove it afterwards."""
    litellm = litellm_package()
    litellm.success_callback.append(callback)
    try:
        yield
    finally:
        litellm.logging_callback_manager.remove_callback_from_list_by_object(
            litellm._async_success_callback, callback, require_self=False
        )
