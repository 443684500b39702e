"""The subjects of LiteLLM's columns: run by the nox session `litellm`, in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from modelport import LiteLLMModel, LiteLLMRouterModel, Model
from modelport.testing import Subject
from tests.conformance import subjects
from tests.conformance.subjects import (
    FIXTURES,
    KEY,
    TOO_LONG,
    environment_variable,
    models_with_faults,
    write_projector,
)
from tests.servers.aimock import aimock
from tests.servers.llamacpp import llama_server

#: Makes a model for a base URL.
Make = Callable[..., Model]


def one(base_url: str, *, model: str = "openai/smollm2", **settings: Any) -> Model:
    return LiteLLMModel(model, api_base=base_url, api_key=KEY, **settings)


def routed(*base_urls: str, model: str = "openai/smollm2", **settings: Any) -> Model:
    rows = [
        {"model_name": "group", "litellm_params": {"model": model, "api_base": url, "api_key": KEY}}
        for url in base_urls
    ]
    return LiteLLMRouterModel("group", rows, **settings)


@contextmanager
def served(folder: Path, make: Make, servers: int = 1) -> Iterator[Subject]:
    """llama.cpp's own HTTP servers, real weights."""
    with ExitStack() as stack:
        projector = write_projector(folder)
        running = [stack.enter_context(llama_server(api_key=KEY, mmproj=projector)) for _ in range(servers)]
        faults = stack.enter_context(models_with_faults(make))
        stack.enter_context(environment_variable("OPENAI_API_KEY", KEY))
        model = stack.enter_context(
            make(
                *(server.base_url for server in running),
                dialect="llama.cpp",
                # The embedded model's template has no tools, so the port puts them into the prompt.
                capabilities={"tools": False, "inputs": ["text", "image"]},
            )
        )
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=running[0].count_prompt_tokens,
            busy=lambda: sum(server.busy_slots() for server in running),
            faults=faults,
            secrets=(KEY,),
        )


@contextmanager
def mocked(make: Make) -> Iterator[Subject]:
    """A server of fixed answers: real tool calls, parallel and in pieces, images, reasoning."""
    with (
        aimock(FIXTURES / "conformance.json", api_key=KEY) as server,
        environment_variable("OPENAI_API_KEY", KEY),
        make(server.base_url, model="openai/gpt-4o", capabilities={"logprobs": False, "reasoning": True}) as model,
    ):
        yield Subject(
            make=lambda: model,
            prompts={"reasoning": "What is six times seven? Think first.", "too long": "This is too much."},
            secrets=(KEY,),
        )


SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "litellm": lambda folder: served(folder, one),
    "litellm-mocked": lambda folder: mocked(one),
    "litellm-router": lambda folder: served(folder, routed, servers=2),
    "litellm-router-mocked": lambda folder: mocked(routed),
    # LiteLLM forces version 2 of the openai package.
    "openai-sdk-2": lambda folder: subjects.on_llamacpp_server(folder, client_kwargs={"timeout": 60}),
}
_REASONING = dict.fromkeys(
    ("reasoning", "structured output after reasoning"), "SmolLM2 does not think; the mocked columns do"
)
NOT_CHECKED = {column: _REASONING for column in ("litellm", "litellm-router", "openai-sdk-2")}
