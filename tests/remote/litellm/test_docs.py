"""The code of documentation pages and docstrings that needs LiteLLM; see tests/test_docs.py for all other code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs import Block, DocsEnvironment, docs_environment, docstring_examples, python_blocks


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocsEnvironment]:
    with docs_environment(tmp_path_factory.mktemp("blocks")) as environment:
        yield environment


@pytest.mark.parametrize("block", [*python_blocks("litellm"), *docstring_examples("litellm")], ids=str)
def test_code_block_runs_without_error(block: Block, environment: DocsEnvironment) -> None:
    environment.run(block)
