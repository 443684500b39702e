"""docs/options.md is made from the tables of parameters, and must be current."""

from __future__ import annotations

from modelport.registry import BACKENDS
from tests.options_page import PAGE, TITLES, page


def test_options_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.options_page"


def test_every_backend_has_a_title_or_shares_one() -> None:
    assert TITLES.keys() | {"azure", "litellm-router"} == BACKENDS.keys()
