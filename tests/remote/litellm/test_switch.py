"""The example program that switches backends, on LiteLLM and its Router: it prints the same as on other backends."""

from __future__ import annotations

import json

import pytest

from tests.servers.llamacpp import llama_server
from tests.test_examples import KEY, SWITCHED, run


@pytest.mark.parametrize("backend", ["litellm", "litellm-router"])
def test_switch_example_prints_the_same_as_on_other_backends(backend: str) -> None:
    with llama_server(api_key=KEY) as server:
        if backend == "litellm":
            output = run("switch.py", "litellm/openai/smollm2", OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=KEY)
        else:
            parameters = {"model": "openai/smollm2", "api_base": server.base_url, "api_key": "os.environ/THE_KEY"}
            deployments = [{"model_name": "smollm2", "litellm_params": parameters}]
            output = run("switch.py", "litellm-router/smollm2", json.dumps({"model_list": deployments}), THE_KEY=KEY)
    assert output == SWITCHED
