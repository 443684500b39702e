"""What pages show with LiteLLM, which has an environment of its own; see tests/test_docs.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs import Block, World, examples, python_blocks, world


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("blocks")) as here:
        yield here


@pytest.mark.parametrize("block", [*python_blocks("litellm"), *examples("litellm")], ids=str)
def test_block_runs(block: Block, here: World) -> None:
    here.run(block)
