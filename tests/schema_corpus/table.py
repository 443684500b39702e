"""The table in docs/schemas.md: how many schemas of the sample each engine answers, and how many it refuses.

    python -m tests.schema_corpus.table

Which are refused is known before anything is computed; tests/local/test_schemas.py holds every engine to just that:
what is not refused is answered, and validly.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

from modelport import InvalidRequest, JSONSchema, UnsupportedFeature
from modelport.constrained.lark import as_lark
from modelport.inputs.output_types import grammar_from
from modelport.local.grammar_matching import check_grammar
from tests.schema_corpus import KINDS, SAMPLE, Sampled

PAGE = Path(__file__).parents[2] / "docs" / "schemas.md"
BEGIN, END = "<!-- table: python -m tests.schema_corpus.table -->", "<!-- end of the table -->"
#: Whose llguidance is built in takes the grammar in an older form.
ENGINES = {"llama.cpp": True, "transformers": False, "MLX": False, "vLLM": False}


@cache
def refusals(old: bool = False) -> dict[Sampled, str]:
    """Which schemas are refused, and what is told."""
    found = {}
    for sampled in SAMPLE:
        try:
            check_grammar(as_lark(grammar_from(JSONSchema(sampled.schema)), old=old), "transformers")
        except (UnsupportedFeature, InvalidRequest) as error:
            found[sampled] = error.message
    return found


def table() -> str:
    """In Markdown."""
    lines = [f"| kind | schemas | {' | '.join(ENGINES)} |", "| --- " * (len(ENGINES) + 2) + "|"]
    totals = {kind: len(schemas) for kind, schemas in KINDS.items()}
    refused = {engine: Counter(s.kind for s in refusals(old)) for engine, old in ENGINES.items()}
    for kind in [*totals, "all"]:
        total = totals.get(kind, len(SAMPLE))
        counts = [refused[engine][kind] if kind in totals else refused[engine].total() for engine in ENGINES]
        lines.append(f"| {kind} | {total} | {' | '.join(f'{total - n} / {n} / 0' for n in counts)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
