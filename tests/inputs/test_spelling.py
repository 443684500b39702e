"""Misspelt names of options, and the suggestions for them."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport.inputs.parameters import BY_ANY_NAME
from modelport.inputs.spelling import edit_distance, similar_names
from tests.properties import examples

LETTERS = string.ascii_lowercase + "_"
LONG = sorted(name for name in BY_ANY_NAME if len(name) >= 10)
MIDDLE = sorted(name for name in BY_ANY_NAME if 5 <= len(name) < 10)


def edited(name: str, draw: Any) -> str:
    """Return the name after one edit: a letter inserted, deleted or replaced, or two neighbours swapped."""
    kind = draw(st.sampled_from(["insert", "delete", "replace", "swap"]))
    at = draw(st.integers(0, len(name) - 1))
    letter = draw(st.sampled_from(LETTERS))
    if kind == "insert":
        return name[:at] + letter + name[at:]
    if kind == "delete":
        return name[:at] + name[at + 1 :]
    if kind == "replace":
        return name[:at] + letter + name[at + 1 :]
    return name[:at] + name[at : at + 2][::-1] + name[at + 2 :]


@examples(100)
@given(st.sampled_from(MIDDLE + LONG), st.data())
def test_one_edit_of_an_option_suggests_it(name: str, data: Any) -> None:
    if (misspelt := edited(name, data.draw)) not in BY_ANY_NAME:
        assert name in similar_names(misspelt, BY_ANY_NAME)


@examples(100)
@given(st.sampled_from(LONG), st.data())
def test_two_edits_of_a_long_option_suggest_the_nearest_ones(name: str, data: Any) -> None:
    if (misspelt := edited(edited(name, data.draw), data.draw)) not in BY_ANY_NAME:
        suggestions = similar_names(misspelt, BY_ANY_NAME)
        assert suggestions and edit_distance(misspelt, suggestions[0]) <= edit_distance(misspelt, name) <= 2


@pytest.mark.parametrize(
    ("misspelt", "expected"),
    [
        ("tempratur", ("temperature",)),
        ("temprature", ("temperature",)),
        ("timout", ("timeout",)),
        ("tiemout", ("timeout",)),
        ("max_token", ("max_tokens",)),
        ("maxtokens", ("max_tokens",)),
        ("max-tokens", ("max_tokens",)),
        ("Temperature", ("temperature",)),
        ("stop_seqeunces", ("stop_sequences",)),
        ("response_fromat", ("response_format",)),
        ("top_q", ("top_k", "top_p")),
        ("frequence_penalty", ("frequency_penalty",)),
        ("grammer", ("grammar",)),
    ],
)
def test_misspelt_name_suggests_option(misspelt: str, expected: tuple[str, ...]) -> None:
    assert similar_names(misspelt, BY_ANY_NAME) == expected


@pytest.mark.parametrize("name", ["sed", "stp", "seeds", "m", "mirostat", "temp", "timing", "max_length", "user", ""])
def test_name_that_differs_more_has_no_suggestion(name: str) -> None:
    assert similar_names(name, BY_ANY_NAME) == ()


@examples(100)
@given(st.text(LETTERS, max_size=12), st.text(LETTERS, max_size=12))
def test_edit_distance_is_symmetric_and_at_most_the_longer_length(a: str, b: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) <= max(len(a), len(b))
    assert (edit_distance(a, b) == 0) == (a == b)


def test_swapped_neighbours_are_one_edit() -> None:
    assert edit_distance("tiemout", "timeout") == edit_distance("ab", "ba") == 1
    assert edit_distance("abc", "ca") == 2  # Delete `b`, then swap.
    assert edit_distance("custom", "uacstom") == 2  # Swap, then insert.
