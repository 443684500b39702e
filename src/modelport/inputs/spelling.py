"""Finds the option that a caller probably meant by an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

#: A longer name is not compared, because that would take long.
_LONGEST_NAME = 64


def similar_names(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that are the most similar to a name, if they are so similar that it is misspelt.

    That is the case if one edit turns the known name, of five letters or more, into the given one, or two edits, with
    ten letters or more. An edit inserts, deletes or replaces a letter, or swaps two neighbours. Upper case, lower case,
    `-` and `_` are not distinguished.

    Args:
        name: The unknown name.
        known: The known names.

    Returns:
        The most similar names in alphabetical order; empty if none is similar enough.
    """
    return _similar_names(name, frozenset(known)) if len(name) <= _LONGEST_NAME else ()


@lru_cache(maxsize=256)  # A program passes the same options to every call.
def _similar_names(name: str, known: frozenset[str]) -> tuple[str, ...]:
    plain = _plain(name)
    distances = {
        candidate: edit_distance(plain, _plain(candidate))
        for candidate in known
        if len(candidate) <= _LONGEST_NAME and abs(len(candidate) - len(name)) <= _allowed_edits(candidate)
    }
    close = {candidate: edits for candidate, edits in distances.items() if edits <= _allowed_edits(candidate)}
    fewest = min(close.values(), default=0)
    return tuple(sorted(candidate for candidate, edits in close.items() if edits == fewest))


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _allowed_edits(name: str) -> int:
    return 2 if len(name) >= 10 else 1 if len(name) >= 5 else 0


def edit_distance(a: str, b: str) -> int:
    """Return how many letters must be inserted, deleted, replaced or swapped with their neighbour to turn `a` into `b`.

    This is the Damerau-Levenshtein distance: letters may be inserted between two letters that were swapped.
    """
    far = len(a) + len(b)
    # rows[i + 1][j + 1] is the distance of the first i letters of `a` from the first j of `b`; the margins are far.
    rows: list[list[int]] = [[far] * (len(b) + 2), [far, *range(len(b) + 1)]]
    last_row: dict[str, int] = {}  # A letter -> the last row whose letter of `a` it is.
    for i, letter in enumerate(a, 1):
        row, last_match = [far, i], 0
        for j, other in enumerate(b, 1):
            swap_row, swap_column = last_row.get(other, 0), last_match
            same = letter == other
            if same:
                last_match = j
            swapped = rows[swap_row][swap_column] + (i - swap_row - 1) + 1 + (j - swap_column - 1)
            row.append(min(rows[i][j] + int(not same), row[j] + 1, rows[i][j + 1] + 1, swapped))
        rows.append(row)
        last_row[letter] = i
    return rows[-1][-1]


def did_you_mean(names: Iterable[str]) -> str:
    """Return a question about the names that a caller may have meant, as `did you mean 'top_k' or 'top_p'?`."""
    return f"did you mean {' or '.join(map(repr, names))}?"
