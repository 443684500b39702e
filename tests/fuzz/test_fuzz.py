"""A small fuzzing run; `python -m tests.fuzz` does a large one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fuzz.file_targets import FILES
from tests.fuzz.running import fuzz
from tests.fuzz.saved_targets import SAVED
from tests.fuzz.socket_targets import LITELLM_SOCKETS
from tests.fuzz.targets import LIGHT, SHARES, TARGETS
from tests.fuzz.worker import fuzz_in_process

INPUTS = 200
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
#: The targets that need a server.
ON_SOCKETS = [name for name in TARGETS if "over a socket" in name and name not in LITELLM_SOCKETS]


@pytest.mark.parametrize("name", LIGHT)
def test_generated_input_leads_to_message_or_typed_error(name: str) -> None:
    target = LIGHT[name]
    fuzz(target, inputs := max(5, round(INPUTS * SHARES[name])))
    # A handful of inputs may all lead to messages.
    assert target.counts["errors"] > 0 or (inputs < 20 and target.counts["responses"] > 0)


@pytest.mark.parametrize("name", ON_SOCKETS)
@pytest.mark.server
def test_generated_response_over_socket_leads_to_message_or_typed_error(name: str) -> None:
    with TARGETS[name]() as target:
        # Only 3 in 100 generated responses of Bedrock are valid, so that a small run might contain none.
        plain = name.endswith(("response", "a stream")) and "lines" not in name
        fuzz(target, (INPUTS if name.startswith("bedrock") else INPUTS // 4) if plain else INPUTS // 20)
        assert target.counts["errors"] > 0
        assert target.counts["responses"] > 0 or not plain


@pytest.mark.parametrize("name", [*SAVED, *FILES])
@pytest.mark.engine
def test_generated_file_leads_to_message_or_typed_error(name: str) -> None:
    """These inputs could end the process, so they run in another one, whose inputs are the same each time."""
    result = fuzz_in_process(name, max(20, round(INPUTS * SHARES[name])))
    assert not result.lost, "\n\n".join(result.defects.values())
    assert result.errors > 0


def test_docs_table_has_every_target() -> None:
    section = PAGE.read_text().partition("## The fuzz test")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [\d,]+ \|", section, re.M)
    assert sorted(rows) == sorted(TARGETS)
