"""A small fuzzing run; `python -m tests.fuzz` does a large one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.running import fuzz
from tests.fuzz.targets import CALLERS, CHAT, Target, socket_targets

INPUTS = 250
NAMES = [*CHAT, *CALLERS]
SOCKET_NAMES = [
    f"{backend}, over a socket: {kind}"
    for backend in ("openai", "openai-sdk", "huggingface", "bedrock")
    for kind in ("a non-streaming response", "a stream")
]


@pytest.mark.parametrize("name", NAMES)
def test_generated_input_leads_to_message_or_typed_error(name: str) -> None:
    target = {**CHAT, **CALLERS}[name]
    fuzz(target, INPUTS)
    assert target.counts["errors"] > 0


@pytest.fixture(scope="module")
def sockets() -> Iterator[dict[str, Target]]:
    with socket_targets(litellm=False) as targets:
        yield targets


@pytest.mark.parametrize("name", SOCKET_NAMES)
@pytest.mark.server
def test_generated_response_over_socket_leads_to_message_or_typed_error(sockets: dict[str, Target], name: str) -> None:
    # Only 3 in 100 generated responses of Bedrock are valid, so that a small run might contain none.
    fuzz(sockets[name], INPUTS if name.startswith("bedrock") else INPUTS // 4)
    assert sockets[name].counts["errors"] > 0 and sockets[name].counts["responses"] > 0


def test_every_socket_target_is_run(sockets: dict[str, Target]) -> None:
    assert sorted(sockets) == sorted(SOCKET_NAMES)
