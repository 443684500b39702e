"""The code blocks of pages and docstrings that use vLLM, which has its own environment; see tests/test_docs.py."""

from __future__ import annotations

import pytest
from tests.docs import Block, DocsEnvironment, docstring_examples, python_blocks
from tests.servers.smollm2 import as_hub_cache
from tests.servers.vllm_env import NO_COMPILATION, vllm_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(200)]  # Each block loads an engine in its own process.


@pytest.fixture(scope="module")
def docs_environment(tmp_path_factory: pytest.TempPathFactory) -> DocsEnvironment:
    folder = tmp_path_factory.mktemp("blocks")
    as_hub_cache(folder / "hub", "HuggingFaceTB/SmolLM2-135M-Instruct")
    cache = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HOME": str(folder)}
    variables = vllm_environment().variables | NO_COMPILATION | cache
    # A newcomer has not set it; modelport then sets the memory for keys and values.
    del variables["VLLM_CPU_KVCACHE_SPACE"]
    return DocsEnvironment(folder, variables, {}, {})


@pytest.mark.parametrize("block", [*python_blocks("vllm"), *docstring_examples("vllm")], ids=str)
def test_code_block_runs(block: Block, docs_environment: DocsEnvironment) -> None:
    docs_environment.run(block)
