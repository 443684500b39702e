"""Measures constrained decoding with a JSON schema on the CPU, compared with outlines and xgrammar.

    python -m venv .constrained && .constrained/bin/pip install torch==2.13.0 && \
        .constrained/bin/pip install -e '.[transformers]' 'outlines==1.3.3' 'xgrammar==0.2.8' && \
        .constrained/bin/python benchmarks/constrained.py

Free text, and output of the same schema with 20 fields, are generated in turn. Each has at most `--tokens` tokens, with
greedy decoding and the same weights (SmolLM2-135M-Instruct, f32): by plain transformers without a mask, with outlines'
and with xgrammar's logits processor, and by `TransformersModel`. For each library the table has the tokens per second
with and without the schema and their ratio, the forward passes, the time that compiling the schema takes, and the cost
of each token in addition to the forward pass. For the other libraries, this cost is the time in the logits processor;
for modelport it is everything from the logits to the notification of the caller, including the share of free text. The
cost is CPU time of the thread that computes, so other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.smollm2 import smollm2_folder

from modelport import InvalidOutput, JSONSchema, TransformersModel
from modelport.constrained.lark import as_lark
from modelport.inputs.output_types import grammar_from
from modelport.local.grammar_matching import check_grammar
from modelport.local.transformers.rows import BatchRow

PROMPT = "Describe a tool that is used in a garden: its name, its parts, what it is for and where one buys it."
WORD = {"type": "string", "maxLength": 12}
KINDS: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 24}, {"type": "integer", "minimum": 0, "maximum": 9999}, {"type": "boolean"},
    {"enum": ["steel", "wood", "plastic"]}, {"type": "array", "items": WORD, "maxItems": 2},
]  # fmt: skip
NAMES = [
    "name", "price", "available", "material", "colours", "maker", "weight", "foldable", "handle_material", "sizes",
    "description", "length_in_cm", "washable", "blade_material", "uses", "shop", "stock", "recommended", "box_material",
    "similar_tools",
]  # fmt: skip
PROPERTIES = {name: KINDS[i % len(KINDS)] for i, name in enumerate(NAMES)}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": NAMES, "additionalProperties": False}


@dataclass
class Measurement:
    """The measurement of one output.

    Args:
        tokens: How many tokens were generated.
        seconds: The wall time.
        passes: How many forward passes the model computed.
        cost: The seconds outside of the forward passes, in all.
    """

    tokens: int
    seconds: float
    passes: int
    cost: float = 0.0


@dataclass
class Library:
    """A library that is measured."""

    #: Generates one output, with the schema if the argument is true.
    run: Callable[[bool], Measurement]
    #: Returns the seconds that compiling a new schema takes, and the seconds for the same schema again.
    compile: Callable[[], tuple[float, float]] | None = None
    free: list[Measurement] = field(default_factory=list)
    constrained: list[Measurement] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often each library runs, by default 5")
    parser.add_argument("--tokens", type=int, default=128, help="the most tokens of an output, by default 128")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    own = TransformersModel(folder, prefix_cache_bytes=0, temperature=0, threads=arguments.threads)
    libraries = {
        "modelport": modelport(own, arguments.tokens),
        **{name: peer(*make(model, tokenizer), model, tokenizer, arguments.tokens) for name, make in PEERS.items()},
    }
    for library in libraries.values():  # The first run also makes what later runs reuse.
        library.run(True)
        library.run(False)
    for _ in range(arguments.runs):
        for library in libraries.values():
            library.constrained.append(library.run(True))
            library.free.append(library.run(False))
    print_table(libraries, arguments.runs)
    own.close()


def modelport(model: TransformersModel, max_tokens: int) -> Library:
    """modelport, through its public method."""
    engine: Any = model._engine()
    count = {"passes": 0, "cost": 0.0}
    forward, advance = engine.forward.run, BatchRow.advance

    def count_pass(chunks: Any) -> Any:
        count["passes"] += 1
        return forward(chunks)

    def timed_advance(row: BatchRow, logits: Any, most_probable: int) -> bool:
        begin = time.thread_time()
        try:
            return advance(row, logits, most_probable)
        finally:
            count["cost"] += time.thread_time() - begin

    engine.forward.run = count_pass
    BatchRow.advance = timed_advance  # type: ignore[method-assign]

    def run(constrained: bool) -> Measurement:
        count.update(passes=0, cost=0.0)
        begin = time.perf_counter()
        try:
            # Free text has exactly this length; output of a schema may end before.
            message = model.generate(
                PROMPT, max_tokens=max_tokens, **({"grammar": SCHEMA} if constrained else {"ignore_eos": True})
            )
        except InvalidOutput as error:  # The output may be truncated.
            assert error.partial is not None and error.partial.finish_reason == "length"
            message = error.partial
        seconds = time.perf_counter() - begin
        assert message.token_usage is not None and message.token_usage.output_tokens
        return Measurement(message.token_usage.output_tokens, seconds, int(count["passes"]), count["cost"])

    def compile() -> tuple[float, float]:
        both = []
        schema = {**SCHEMA, "title": str(time.time())}  # A new schema is not in the cache of grammars.
        for _ in range(2):
            begin = time.perf_counter()
            lark = as_lark(grammar_from(JSONSchema(schema)))
            check_grammar(lark, "transformers")
            engine._masks.matcher(lark)
            both.append(time.perf_counter() - begin)
        return both[0], both[1]

    return Library(run, compile)


def peer(
    compile: Callable[[], Any], processor: Callable[[Any], Any], model: Any, tokenizer: Any, max_tokens: int
) -> Library:
    """Another library's logits processor in transformers' `generate`.

    Args:
        compile: Compiles the schema.
        processor: Makes a logits processor from the compiled schema.
        model: A model of transformers.
        tokenizer: The model's tokenizer.
        max_tokens: The most tokens of an output.
    """
    compiled = compile()
    messages = [{"role": "user", "content": PROMPT}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    length = inputs["input_ids"].shape[1]

    @torch.inference_mode()
    def run(constrained: bool) -> Measurement:
        cost = 0.0
        inner = processor(compiled) if constrained else None

        def timed(ids: Any, scores: Any) -> Any:
            nonlocal cost
            begin = time.thread_time()
            try:
                return inner(ids, scores) if inner is not None else scores
            finally:
                cost += time.thread_time() - begin

        options: dict[str, Any] = {
            "max_new_tokens": max_tokens,
            "do_sample": False,
            "pad_token_id": tokenizer.eos_token_id,
        }
        options |= {"logits_processor": [timed]} if constrained else {"min_new_tokens": max_tokens}
        begin = time.perf_counter()
        tokens = model.generate(**inputs, **options).shape[1] - length
        return Measurement(tokens, time.perf_counter() - begin, tokens, cost)

    def timed_compile() -> tuple[float, float]:
        begin = time.perf_counter()
        compile()
        return time.perf_counter() - begin, 0.0

    return Library(run, timed_compile)


def outlines(model: Any, tokenizer: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Use outlines with its own engine, outlines_core."""
    import outlines
    from outlines.backends import get_json_schema_logits_processor

    own = outlines.from_transformers(model, tokenizer)

    def reset(processor: Any) -> Any:
        processor.reset()
        return processor

    return lambda: get_json_schema_logits_processor("outlines_core", own, json.dumps(SCHEMA)), reset


def xgrammar(model: Any, tokenizer: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Use xgrammar with its processor for transformers."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)

    def compile() -> Any:
        compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        return compiler.compile_json_schema(SCHEMA, any_whitespace=False, separators=(", ", ": "))

    return compile, LogitsProcessor


PEERS = {"outlines": outlines, "xgrammar": xgrammar}


def print_table(libraries: dict[str, Library], runs: int) -> None:
    """Print the table, and whether modelport meets its targets."""
    print(f"a schema of {len(NAMES)} fields, {runs} runs, {torch.get_num_threads()} threads; medians")
    head = ["", "free tok/s", "schema tok/s", "schema/free", "tokens", "passes", "cost µs/token", "compile ms", "again"]
    print("".join(f"{text:>14}" for text in head))
    for name, library in libraries.items():
        rates = [[m.tokens / m.seconds for m in found] for found in (library.free, library.constrained)]
        # Each ratio is of two runs in sequence: a machine that slows down affects both.
        ratio = statistics.median(schema / free for free, schema in zip(*rates, strict=True))
        cost = statistics.median(m.cost / m.tokens for m in library.constrained) * 1e6
        assert library.compile is not None
        times = [library.compile() for _ in range(3)]
        first, again = (statistics.median(t[i] for t in times) * 1e3 for i in range(2))
        last = library.constrained[-1]
        numbers = [
            *(f"{statistics.median(rate):.1f}" for rate in rates), f"{ratio:.2f}", f"{last.tokens}", f"{last.passes}",
            f"{cost:.0f}", f"{first:.1f}", f"{again:.2f}" if name == "modelport" else "-",
        ]  # fmt: skip
        print("".join(f"{text:>14}" for text in [name, *numbers]))
        if name == "modelport":
            targets = {
                "schema/free >= 1.4": ratio >= 1.4,
                "cost <= 100 µs": cost <= 100,
                "compile <= 10 ms": first <= 10,
            }
    print("; ".join(f"{target}: {'yes' if yes else 'NO'}" for target, yes in targets.items()))


if __name__ == "__main__":
    main()
