"""Answers under a JSON schema on the CPU: what the mask costs, and what it saves, beside outlines and xgrammar.

    python -m venv .constrained && .constrained/bin/pip install torch==2.13.0 && \
        .constrained/bin/pip install -e '.[transformers]' 'outlines==1.3.3' 'xgrammar==0.2.8' && \
        .constrained/bin/python benchmarks/constrained.py

In one run, interleaved: free text and an answer of the same schema of 20 fields, each of at most `--tokens` tokens,
greedy, on the same weights (SmolLM2-135M-Instruct, f32): plain transformers without a mask, with outlines' and with
xgrammar's logits processor, and `TransformersModel`. For each it prints tokens a second with and without the schema and
their ratio, passes of the model, the time that the schema takes to compile, and what each token costs beside the model:
the processor's time at the peers; with ours, everything from logits to the token told, free text's share included. That
cost is CPU time of the thread that computes, so that other programs on the machine are not counted.
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
from modelport.local.transformers.rows import Row

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
class Measured:
    """One answer.

    Args:
        cost: Seconds beside the model's passes, in all.
    """

    tokens: int
    seconds: float
    passes: int
    cost: float = 0.0


@dataclass
class Way:
    """One of those compared."""

    run: Callable[[bool], Measured]
    #: Seconds that a new schema takes, and the same once more.
    compile: Callable[[], tuple[float, float]] | None = None
    free: list[Measured] = field(default_factory=list)
    held: list[Measured] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's choice")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    folder = smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = TransformersModel(folder, prefix_cache_bytes=0, temperature=0, threads=arguments.threads)
    ways = {
        "modelport": modelport(ours, arguments.tokens),
        **{name: peer(*make(model, tokenizer), model, tokenizer, arguments.tokens) for name, make in PEERS.items()},
    }
    for way in ways.values():  # what is made on first use is not the question
        way.run(True)
        way.run(False)
    for _ in range(arguments.runs):
        for way in ways.values():
            way.held.append(way.run(True))
            way.free.append(way.run(False))
    show(ways, arguments.runs)
    ours.close()


def modelport(model: TransformersModel, most: int) -> Way:
    """Ours, through the public call."""
    engine: Any = model._engine()
    count = {"passes": 0, "cost": 0.0}
    forward, advance = engine.forward.run, Row.advance

    def counted(pieces: Any) -> Any:
        count["passes"] += 1
        return forward(pieces)

    def timed(row: Row, logits: Any, greedy: int) -> bool:
        begin = time.thread_time()
        try:
            return advance(row, logits, greedy)
        finally:
            count["cost"] += time.thread_time() - begin

    engine.forward.run = counted
    Row.advance = timed  # type: ignore[method-assign]

    def run(held: bool) -> Measured:
        count.update(passes=0, cost=0.0)
        begin = time.perf_counter()
        try:
            # Free text of just this length; a document may end before.
            message = model.generate(PROMPT, max_tokens=most, **({"grammar": SCHEMA} if held else {"ignore_eos": True}))
        except InvalidOutput as error:  # cut, as it may be
            assert error.partial is not None and error.partial.finish_reason == "length"
            message = error.partial
        seconds = time.perf_counter() - begin
        assert message.token_usage is not None and message.token_usage.output_tokens
        return Measured(message.token_usage.output_tokens, seconds, int(count["passes"]), count["cost"])

    def compile() -> tuple[float, float]:
        both = []
        schema = {**SCHEMA, "title": str(time.time())}  # so that it is new
        for _ in range(2):
            begin = time.perf_counter()
            lark = as_lark(grammar_from(JSONSchema(schema)))
            check_grammar(lark, "transformers")
            engine._masks.matcher(lark)
            both.append(time.perf_counter() - begin)
        return both[0], both[1]

    return Way(run, compile)


def peer(compile: Callable[[], Any], processor: Callable[[Any], Any], model: Any, tokenizer: Any, most: int) -> Way:
    """A peer's logits processor in `generate`.

    Args:
        compile: Makes what the peer makes of a schema.
        processor: A logits processor from it.
        model: Of transformers.
        tokenizer: Likewise.
        most: Tokens.
    """
    made = compile()
    messages = [{"role": "user", "content": PROMPT}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    length = inputs["input_ids"].shape[1]

    @torch.inference_mode()
    def run(held: bool) -> Measured:
        spent = 0.0
        inner = processor(made) if held else None

        def timed(ids: Any, scores: Any) -> Any:
            nonlocal spent
            begin = time.thread_time()
            try:
                return inner(ids, scores) if inner is not None else scores
            finally:
                spent += time.thread_time() - begin

        options: dict[str, Any] = {"max_new_tokens": most, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
        options |= {"logits_processor": [timed]} if held else {"min_new_tokens": most}
        begin = time.perf_counter()
        tokens = model.generate(**inputs, **options).shape[1] - length
        return Measured(tokens, time.perf_counter() - begin, tokens, spent)

    def timed_compile() -> tuple[float, float]:
        begin = time.perf_counter()
        compile()
        return time.perf_counter() - begin, 0.0

    return Way(run, timed_compile)


def outlines(model: Any, tokenizer: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """outlines with its own engine, outlines_core."""
    import outlines
    from outlines.backends import get_json_schema_logits_processor

    own = outlines.from_transformers(model, tokenizer)

    def fresh(made: Any) -> Any:
        made.reset()
        return made

    return lambda: get_json_schema_logits_processor("outlines_core", own, json.dumps(SCHEMA)), fresh


def xgrammar(model: Any, tokenizer: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """xgrammar with its processor for transformers."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)

    def compile() -> Any:
        compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        return compiler.compile_json_schema(SCHEMA, any_whitespace=False, separators=(", ", ": "))

    return compile, LogitsProcessor


PEERS = {"outlines": outlines, "xgrammar": xgrammar}


def show(ways: dict[str, Way], runs: int) -> None:
    """The table, and the targets."""
    print(f"a schema of {len(NAMES)} fields, {runs} runs, {torch.get_num_threads()} threads; medians")
    head = ["", "free tok/s", "schema tok/s", "schema/free", "tokens", "passes", "cost µs/token", "compile ms", "again"]
    print("".join(f"{text:>14}" for text in head))
    for name, way in ways.items():
        rates = [[m.tokens / m.seconds for m in found] for found in (way.free, way.held)]
        # Of neighbours in time, so that a machine that slows down changes both.
        ratio = statistics.median(held / free for free, held in zip(*rates, strict=True))
        cost = statistics.median(m.cost / m.tokens for m in way.held) * 1e6
        assert way.compile is not None
        times = [way.compile() for _ in range(3)]
        first, again = (statistics.median(t[i] for t in times) * 1e3 for i in range(2))
        last = way.held[-1]
        numbers = [
            *(f"{statistics.median(rate):.1f}" for rate in rates), f"{ratio:.2f}", f"{last.tokens}", f"{last.passes}",
            f"{cost:.0f}", f"{first:.1f}", f"{again:.2f}" if name == "modelport" else "-",
        ]  # fmt: skip
        print("".join(f"{text:>14}" for text in [name, *numbers]))
        if name == "modelport":
            met = {"schema/free >= 1.4": ratio >= 1.4, "cost <= 100 µs": cost <= 100, "compile <= 10 ms": first <= 10}
    print("; ".join(f"{target}: {'yes' if yes else 'NO'}" for target, yes in met.items()))


if __name__ == "__main__":
    main()
