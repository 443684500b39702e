"""LiteLLM's backends under test: the nox session `litellm` runs them in their own environment."""

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

#: Makes a model for one or more base URLs.
MakeModel = Callable[..., Model]


def litellm_model(base_url: str, *, model: str = "openai/smollm2", **settings: Any) -> Model:
    return LiteLLMModel(model, api_base=base_url, api_key=KEY, **settings)


def router_model(*base_urls: str, model: str = "openai/smollm2", **settings: Any) -> Model:
    deployments = [
        {"model_name": "group", "litellm_params": {"model": model, "api_base": url, "api_key": KEY}}
        for url in base_urls
    ]
    return LiteLLMRouterModel("group", deployments, **settings)


@contextmanager
def real_weights(folder: Path, make: MakeModel, server_count: int = 1) -> Iterator[Subject]:
    """llama.cpp's own HTTP servers, with real weights."""
    with ExitStack() as stack:
        projector = write_projector(folder)
        servers = [
            stack.enter_context(llama_server(api_key=KEY, mmproj=projector, slots=1)) for _ in range(server_count)
        ]
        faults = stack.enter_context(models_with_faults(make))
        stack.enter_context(environment_variable("OPENAI_API_KEY", KEY))
        model = stack.enter_context(
            make(
                *(server.base_url for server in servers),
                # The default local model's chat template has no tools, so modelport puts them into the prompt.
                # llama.cpp's server takes any JSON schema.
                capabilities={
                    "tools": False,
                    "inputs": ["text", "image"],
                    "schema_rules": None,
                    "enforces_grammars": True,
                },
            )
        )
        # `busy` is left out: llama.cpp's server computes a non-streaming response to its end even if the client closes
        # the connection. tests/remote/litellm/test_end_to_end.py checks that closing a stream frees it.
        yield Subject(
            make=lambda: model,
            prompts={"too long": TOO_LONG},
            count_tokens=servers[0].count_prompt_tokens,
            faults=faults,
            secrets=(KEY,),
        )


@contextmanager
def fixed_responses(make: MakeModel) -> Iterator[Subject]:
    """A server of fixed responses, with native tool calls, parallel and in pieces, images and reasoning."""
    with (
        aimock(FIXTURES / "conformance.json", api_key=KEY) as server,
        environment_variable("OPENAI_API_KEY", KEY),
        make(
            server.base_url,
            model="openai/gpt-4o",
            capabilities={"logprobs": False, "reasoning": True, "enforces_grammars": True},
        ) as model,
    ):
        yield Subject(
            make=lambda: model,
            prompts={"reasoning": "What is six times seven? Think first.", "too long": "This is too much."},
            secrets=(KEY,),
        )


SUBJECTS: dict[str, Callable[[Path], AbstractContextManager[Subject]]] = {
    "litellm": lambda folder: real_weights(folder, litellm_model),
    "litellm-mocked": lambda folder: fixed_responses(litellm_model),
    "litellm-router": lambda folder: real_weights(folder, router_model, server_count=2),
    "litellm-router-mocked": lambda folder: fixed_responses(router_model),
    # LiteLLM requires version 2 of the openai package.
    "openai-sdk-2": lambda folder: subjects.on_llamacpp_server(folder, client_kwargs={"timeout": 60}),
}
_NO_REASONING = dict.fromkeys(
    ("reasoning", "structured output after reasoning"), "SmolLM2 does not reason; the backends with fixed responses do"
)
_NO_REGEX = {"regex": "LiteLLM does not enforce regular expressions, and SmolLM2's output does not match by itself"}
#: The checks that a backend can't be checked by, and why.
NOT_CHECKED = {
    "litellm": _NO_REASONING | _NO_REGEX,
    "litellm-router": _NO_REASONING | _NO_REGEX,
    "openai-sdk-2": _NO_REASONING,
}
