"""Constrained decoding: every schema of the corpus, on every local engine, gives valid output or is refused by name.

The weights are random, so only the mask makes the output valid. Some schemas are generated with real weights too. The
test of vLLM is in vllm/.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fast_products import use_fast_products
from tests.schema_corpus import KINDS, SAMPLE
from tests.schema_corpus.generation import check_outcomes, find_problem, generate_all
from tests.schema_corpus.table import PAGE, page, refusals
from tests.schema_corpus.tiny import tiny_folder, tiny_gguf
from tests.servers.llamacpp import model_file
from tests.servers.smollm2 import smollm2_folder

from modelport import JSONSchema, Lark, LlamaCppModel, MLXModel, Model, TransformersModel, UnsupportedFeature
from modelport.constrained.lark import as_lark
from modelport.local.grammar_matching import GrammarCompiler

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
ENGINE: dict[str, Any] = {"context_length": 2048, "parallel": 8, "retry": False}
TINY_MODELS: dict[str, Callable[[Path], Model]] = {
    "llamacpp": lambda folder: LlamaCppModel(tiny_gguf(folder / "tiny.gguf"), threads=1, **ENGINE),
    "transformers": lambda folder: TransformersModel(tiny_folder(folder), **ENGINE),
    "mlx": lambda folder: MLXModel(tiny_folder(folder), **ENGINE),
}
REAL_MODELS: dict[str, Callable[[], Model]] = {
    "llamacpp": lambda: LlamaCppModel(model_file(), threads=1, **ENGINE),
    "transformers": lambda: TransformersModel(smollm2_folder(), **ENGINE),
}


@pytest.mark.parametrize("engine", TINY_MODELS)
def test_every_schema_gives_valid_output_or_is_refused(engine: str, tmp_path: Path) -> None:
    use_fast_products()
    # MLX enforces grammars with the same code as transformers (`grammar_matching`), but decodes much slower on a CPU.
    sample = SAMPLE[::4] if engine == "mlx" else SAMPLE
    with TINY_MODELS[engine](tmp_path) as model:
        refused = refusals(old_llguidance=engine == "llamacpp").keys() & set(sample)
        check_outcomes(generate_all(model, sample), refused)


@pytest.mark.parametrize("engine", REAL_MODELS)
def test_real_weights_give_valid_output(engine: str) -> None:
    with REAL_MODELS[engine]() as model:
        outcomes = generate_all(
            model, [s for s in SAMPLE if s not in refusals()][::90], random=False, max_attempts=1, max_tokens=200
        )
    assert not [str(outcome) for outcome in outcomes if outcome.kind not in ("valid", "truncated")]
    # This small model does not end some of the longer outputs. None of them is invalid, and some are complete.
    assert sum(outcome.kind == "valid" for outcome in outcomes) >= 2


def test_grammar_that_llamacpp_ignores_raises_unsupported_feature(tmp_path: Path) -> None:
    with TINY_MODELS["llamacpp"](tmp_path) as model:
        with pytest.raises(UnsupportedFeature, match="did not enforce it"):
            model("Hi", grammar=Lark('start: %json {"type": "string", "format": "uri"}'), max_tokens=20)
        assert model("Hi", grammar=Lark('start: "  as " "it" " is \\n"'), max_tokens=20).text == "  as it is \n"


def test_refused_schema_names_keyword_and_nothing_is_computed(tmp_path: Path) -> None:
    for sampled, message in refusals().items():
        keywords = set(re.findall(r"'([$\w-]+)':", str(sampled.schema)))
        assert any(keyword in message for keyword in keywords), f"{sampled}: {message}"
    with TransformersModel(tiny_folder(tmp_path), **ENGINE) as model:
        model._engine().forward.run = None  # type: ignore[assignment]
        outcomes = generate_all(model, refusals())
        assert {outcome.kind for outcome in outcomes} == {"refused"}


def test_corpus_has_enough_schemas_and_its_page_is_current() -> None:
    assert len(SAMPLE) >= 300
    assert len({str(sampled.schema) for sampled in SAMPLE}) == len(SAMPLE)
    assert all(len(schemas) >= 50 for schemas in KINDS.values())
    assert page(PAGE.read_text()) == PAGE.read_text(), "docs/schemas.md is stale: python -m tests.schema_corpus.table"


# --- what llguidance alone would allow --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masks() -> Iterator[GrammarCompiler]:
    from transformers import AutoTokenizer

    yield GrammarCompiler(AutoTokenizer.from_pretrained(smollm2_folder()), 49152, [2], "transformers")


def allows(masks: GrammarCompiler, schema: dict[str, Any], text: str) -> bool:
    matcher = masks.matcher(as_lark(JSONSchema(schema)))
    tokens = masks._tokenizer.encode(text, add_special_tokens=False)
    return all(matcher.try_consume(token) for token in tokens) and (matcher.is_complete or matcher.try_consume(2))


OPEN = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        *(({"format": "date"}, f'"{day}"') for day in ("2023-02-29", "1900-02-29", "0000-01-01", "2024-04-31")),
        *(({"format": "date-time"}, f'"2024-02-28T{time}"') for time in ("23:59:60Z", "24:00:00Z", "23:59:00")),
        ({"format": "time"}, '"23:59:60Z"'),
        ({"format": "date", "pattern": "^2"}, '"2023-02-29"'),
        ({"format": "hostname"}, f'"{"a." * 130}b"'),
        *(({"format": "uri"}, f'"{uri}"') for uri in ("1:b", "http://a b", "http://%zz", "nothing")),
        (OPEN, r'{"\u0061": "x"}'),
        ({"type": "object", "patternProperties": {"^a": {"type": "integer"}}}, r'{"\u0061": "x"}'),
        ({"type": "object", "minProperties": 1}, "{}"),
        ({**OPEN, "required": ["a"], "minProperties": 2}, '{"a": 1, "a": 2}'),
    ],
    ids=str,
)
def test_invalid_text_is_not_allowed_by_mask(masks: GrammarCompiler, schema: dict[str, Any], text: str) -> None:
    schema = {"type": "string", **schema}
    assert find_problem(schema, text), "the text is valid: the test is wrong"
    assert not allows(masks, schema, text)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        *(({"format": "date"}, f'"{day}"') for day in ("2024-02-29", "2000-02-29", "0001-01-01", "9999-12-31")),
        *(({"format": "date-time"}, f'"2024-02-29T{time}"') for time in ("23:59:59Z", "00:00:00.25+05:30")),
        *(
            ({"format": "uri"}, f'"{uri}"')
            for uri in ("https://a.b:80/c/?d=e#f", "mailto:a@b.c", "urn:x:1", "file:///c")
        ),
        ({"format": "hostname"}, '"example.com"'),
        ({"format": "made-up"}, '"anything"'),
        (OPEN, '{"a": 1, "b": "\\n"}'),
        ({**OPEN, "required": ["a"], "minProperties": 1}, '{"a": 1}'),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1, "uniqueItems": True}, "[1]"),
        ({"type": "number", "multipleOf": 0.25}, "1.75"),
    ],
    ids=str,
)
def test_valid_text_is_allowed_by_mask(masks: GrammarCompiler, schema: dict[str, Any], text: str) -> None:
    schema = {"type": "string", **schema}
    assert not find_problem(schema, text)
    assert allows(masks, schema, text)


def test_schema_is_compiled_once_and_fast(masks: GrammarCompiler) -> None:
    kinds: list[dict[str, Any]] = [{"type": "string"}, {"type": "integer"}, {"enum": ["a", "b"]}, {"type": "boolean"}]
    properties = {f"field_{i}": kinds[i % 4] for i in range(20)}
    lark = as_lark(JSONSchema({"type": "object", "properties": properties, "required": list(properties)}))
    masks.matcher('start: "x"')  # The first grammar also builds the tokenizer's trie.
    begin = time.process_time()
    masks.matcher(lark)
    assert time.process_time() - begin < 0.05  # It takes 2 ms on an idle machine.
    compiled = masks._compiled.get(lark)
    assert masks.matcher(lark).try_consume(masks._tokenizer.encode("{")[0])
    assert masks.matcher(lark).consume_forced_tokens(), "a copied matcher must start at the beginning"
    assert masks._compiled.get(lark) is compiled
