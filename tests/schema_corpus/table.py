"""The table in docs/schemas.md: for how many schemas of the sample each engine gives valid output or refuses.

    python -m tests.schema_corpus.table

Which schemas are refused is known before anything is computed. tests/local/test_schemas.py checks for every engine that
these schemas are refused, and that the output is valid for all others.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

from modelport import InvalidRequest, JSONSchema, UnsupportedFeature
from modelport.constrained.lark import as_lark
from modelport.inputs.output_types import grammar_from
from modelport.local.grammar_matching import check_grammar
from tests.schema_corpus import KINDS, SAMPLE, SampleSchema

PAGE = Path(__file__).parents[2] / "docs" / "schemas.md"
BEGIN, END = "<!-- table: python -m tests.schema_corpus.table -->", "<!-- end of the table -->"
#: Each engine, with whether it needs grammars for an older llguidance.
ENGINES = {"llama.cpp": True, "transformers": False, "MLX": False, "vLLM": False}


@cache
def refusals(old_llguidance: bool = False) -> dict[SampleSchema, str]:
    """Return the schemas that are refused, each with the message of the refusal."""
    found = {}
    for sample in SAMPLE:
        try:
            check_grammar(
                as_lark(grammar_from(JSONSchema(sample.schema)), old_llguidance=old_llguidance), "transformers"
            )
        except (UnsupportedFeature, InvalidRequest) as error:
            found[sample] = error.message
    return found


def table() -> str:
    """Return the table in Markdown."""
    lines = [f"| kind | schemas | {' | '.join(ENGINES)} |", "| --- " * (len(ENGINES) + 2) + "|"]
    totals = {kind: len(schemas) for kind, schemas in KINDS.items()}
    refused = {engine: Counter(sample.kind for sample in refusals(old)) for engine, old in ENGINES.items()}
    for kind in [*totals, "all"]:
        total = totals.get(kind, len(SAMPLE))
        counts = [refused[engine][kind] if kind in totals else refused[engine].total() for engine in ENGINES]
        lines.append(f"| {kind} | {total} | {' | '.join(f'{total - n} / {n} / 0' for n in counts)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """Return the page with the current table."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
