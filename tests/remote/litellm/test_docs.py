"""What pages show with LiteLLM, which has an environment of its own; see tests/test_docs.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs import Block, DocsEnvironment, docs_environment, docstring_examples, python_blocks


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocsEnvironment]:
    with docs_environment(tmp_path_factory.mktemp("blocks")) as here:
        yield here


@pytest.mark.parametrize("block", [*python_blocks("litellm"), *docstring_examples("litellm")], ids=str)
def test_block_runs(block: Block, here: DocsEnvironment) -> None:
    here.run(block)
