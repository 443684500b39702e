"""What pages and docstrings show with vLLM, which has an environment of its own; see tests/test_docs.py."""

from __future__ import annotations

import pytest
from tests.docs import Block, DocsEnvironment, docstring_examples, python_blocks
from tests.servers.smollm2 import as_hub_cache
from tests.servers.vllm_env import vllm_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(200)]  # each loads an engine in a process of its own


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> DocsEnvironment:
    folder = tmp_path_factory.mktemp("blocks")
    as_hub_cache(folder / "hub", "HuggingFaceTB/SmolLM2-135M-Instruct")
    variables = vllm_environment().variables | {"HF_HUB_CACHE": str(folder / "hub"), "HF_HOME": str(folder)}
    del variables["VLLM_CPU_KVCACHE_SPACE"]  # as a newcomer's machine is: the port sees to room for keys and values
    return DocsEnvironment(folder, variables, {}, {})


@pytest.mark.parametrize("block", [*python_blocks("vllm"), *docstring_examples("vllm")], ids=str)
def test_block_runs(block: Block, here: DocsEnvironment) -> None:
    here.run(block)
