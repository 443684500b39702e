"""Bodies without an end, and bombs of gzip and of JSON, through LiteLLM's clients."""

from __future__ import annotations

from tests.remote.test_hostile_bodies import check_attacks


def test_hostile_body_raises_typed_error_in_bounded_memory() -> None:
    check_attacks("litellm", "litellm-http")
