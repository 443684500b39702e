"""Fixtures for the tests of MLX. Most use a tiny model with random weights, because it is fast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fast_products import use_fast_products
from tests.local.mlx_model.tiny import DENSE, write_tiny_model
from tests.servers.smollm2 import smollm2_folder

from modelport import MLXModel


@pytest.fixture(scope="session", autouse=True)
def fast_products() -> None:
    """Let MLX multiply matrices with a fast library."""
    use_fast_products()


@pytest.fixture(scope="session")
def smollm2() -> Iterator[MLXModel]:
    """A model with real weights, of which MLX generates ten tokens a second on a CPU.

    The conformance checks use real weights too.
    """
    with MLXModel(smollm2_folder(), context_length=2048, retry=False, temperature=0) as model:
        yield model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "dense", DENSE)


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> Iterator[MLXModel]:
    """A tiny model with random weights."""
    with MLXModel(tiny_folder, context_length=2048, retry=False, temperature=0) as model:
        yield model


@pytest.fixture(scope="session")
def uncached_model(tiny_folder: Path) -> Iterator[MLXModel]:
    """The tiny model without a prefix cache."""
    with MLXModel(tiny_folder, context_length=2048, prefix_cache_bytes=0, temperature=0) as model:
        yield model


@pytest.fixture
def fresh_model(tiny_model: MLXModel) -> MLXModel:
    """The tiny model with an empty prefix cache."""
    tiny_model._engine().batch.prefixes.clear()
    return tiny_model
