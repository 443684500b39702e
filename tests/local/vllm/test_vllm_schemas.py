"""Every schema of the corpus through vLLM; see tests/local/test_schemas.py for the other engines."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.schema_corpus import SAMPLE
from tests.schema_corpus.generation import check_outcomes, generate_all
from tests.schema_corpus.table import PAGE, page, refusals
from tests.schema_corpus.tiny import tiny_folder
from tests.servers.vllm_env import ENGINE

from modelport import VLLMModel

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def test_every_schema_gives_valid_output_or_is_refused(model: VLLMModel, tmp_path: Path) -> None:
    # The fixture `model` is needed because it sets the environment variables that vLLM reads.
    with VLLMModel(tiny_folder(tmp_path), **ENGINE, retry=False) as tiny:
        check_outcomes(generate_all(tiny, SAMPLE), refusals())
    # The page is compared with the counts of the llguidance in vLLM's environment.
    assert page(PAGE.read_text()) == PAGE.read_text()
