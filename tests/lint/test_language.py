"""The language of code and documentation: no retired word, and none of the names that were replaced.

The list is that of the project's style rules. Words of it that are ordinary English too are left to human readers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RETIRED_WORDS = re.compile(
    r"\b(re-asks?|blotted|laid over|overlaid|let_go|let_in|maskable|free_thought|rests_until|learnt|taught|told"
    r"|the port|goes before|is secured|forms that hold)\b",
    re.IGNORECASE,
)
#: Names that were replaced. `on` was a parameter of `FallbackModel`.
RETIRED_NAMES = frozenset({
    "when_cut", "when_gone", "quota", "ROWS", "Row", "Limits", "Named", "let_go", "let_in", "leak", "maskable",
    "Masks", "Unfit", "fit", "wrapped", "unwrapped", "but", "of", "overlaid", "_learnt", "_learn", "taught",
    "Kept", "Line", "Served", "Asked", "Member", "Chosen", "Step", "Piece", "Loaded", "Job", "Call",
    "AnswerReader", "fold", "SENT", "_NOTHING",
})  # fmt: skip
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=relative)
def test_text_without_retired_words_passes(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [f"{path}:{number}: {line.strip()}" for number, line in lines if RETIRED_WORDS.search(line)] == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_source_without_retired_names_passes(path: Path) -> None:
    found = {f"{path}:{line}: {name}" for name, line in identifiers(ast.parse(path.read_text()))
             if name in RETIRED_NAMES}  # fmt: skip
    assert found == set()


def test_test_names_without_retired_words_pass() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path in TESTS
        for name, line in identifiers(ast.parse(path.read_text()))
        if name.startswith("test_") and RETIRED_WORDS.search(name.replace("_", " ").replace("let go", "let_go"))
    ]
    assert found == []


def test_retired_words_in_a_sentence_are_found() -> None:
    assert RETIRED_WORDS.search("A call's option goes before this model's.")
    assert not RETIRED_WORDS.search("The portal runs the coroutine.")


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module defines or uses, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
