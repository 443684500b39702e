"""Parts of regular expressions from which property tests make patterns."""

from __future__ import annotations

from hypothesis import strategies as st

ATOMS = st.sampled_from([
    "a", "é", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "/", r"\/", r"\.", r"\\", "-", " ", "[a-c]", "[^a]",
    r"[\d_]", r"[^\w]", r"[\s\S]", "[]x]", "[&~]", r"[\-\]]", "(?:a|b)", "{", "'", '"', "#",
])  # fmt: skip
PATTERNS = st.lists(st.tuples(ATOMS, st.sampled_from(["", "", "+", "?", "{2}", "{1,2}"])), min_size=1, max_size=5)
