"""Bodies without an end, and bombs of gzip and of JSON, through LiteLLM's clients."""

from __future__ import annotations

from tests.remote.test_hostile_bodies import check_attacks


def test_hostile_body_raises_typed_error_in_bounded_memory() -> None:
    # The openai package's own parser of events takes 4 s for an event of 16 MiB that comes in pieces.
    check_attacks("litellm", "litellm-http", max_cpu=10)
