"""A small run of the fuzz; `python -m tests.fuzz` makes a large one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.running import fuzz
from tests.fuzz.targets import CALLERS, CHAT, Target, on_sockets

INPUTS = 250
NAMES = [*CHAT, *CALLERS]
ON_SOCKETS = [
    f"{column}, over a socket: {what}"
    for column in ("openai", "openai-sdk", "huggingface", "bedrock")
    for what in ("a whole answer", "a stream")
]


@pytest.mark.parametrize("name", NAMES)
def test_fuzz(name: str) -> None:
    target = {**CHAT, **CALLERS}[name]
    fuzz(target, INPUTS)
    assert target.seen["refused"] > 0


@pytest.fixture(scope="module")
def sockets() -> Iterator[dict[str, Target]]:
    with on_sockets(litellm=False) as targets:
        yield targets


@pytest.mark.parametrize("name", ON_SOCKETS)
def test_fuzz_over_a_socket(sockets: dict[str, Target], name: str) -> None:
    fuzz(sockets[name], INPUTS // 4)
    assert sockets[name].seen["refused"] > 0 and sockets[name].seen["answered"] > 0


def test_every_target_on_a_socket_is_run(sockets: dict[str, Target]) -> None:
    assert sorted(sockets) == sorted(ON_SOCKETS)
