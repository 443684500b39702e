"""The program that switches backends, on LiteLLM and its Router: the same output as everywhere."""

from __future__ import annotations

import json

import pytest

from tests.servers.llamacpp import llama_server
from tests.test_examples import KEY, SWITCHED, run


@pytest.mark.parametrize("backend", ["litellm", "litellm-router"])
def test_switch(backend: str) -> None:
    with llama_server(api_key=KEY) as server:
        if backend == "litellm":
            told = run("switch.py", "litellm/openai/smollm2", OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=KEY)
        else:
            parameters = {"model": "openai/smollm2", "api_base": server.base_url, "api_key": "os.environ/THE_KEY"}
            rows = [{"model_name": "smollm2", "litellm_params": parameters}]
            told = run("switch.py", "litellm-router/smollm2", json.dumps({"model_list": rows}), THE_KEY=KEY)
    assert told == SWITCHED
