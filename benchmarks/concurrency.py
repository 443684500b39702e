"""Measures eight concurrent prompts on one `TransformersModel`, compared with plain transformers.

    python benchmarks/concurrency.py
    python benchmarks/concurrency.py --runs 1

Three ways run in turn: `generate` for one prompt after another, `generate` for one padded batch, and modelport with
eight threads. The weights are the same (SmolLM2-135M-Instruct, f32), and so are the prompts and the lengths (64 new
tokens each, greedy). The output contains medians, ratios, and how many texts differ. Linear layers round differently at
other batch sizes, so a token may differ where the two best logits are closer than the epsilon that is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.smollm2 import smollm2_folder

from modelport import TransformersModel

NEW = 64
EPSILON = 1e-2
TOPICS = ["a lighthouse", "a bakery", "a railway", "an orchard", "a library", "a harbour", "a school", "a mountain hut"]
PROMPT = (
    "Yesterday I walked for three hours along the old road that leads from the village to the coast, and on the way I "
    "came past {topic} that I had never noticed before. An old man sat in front of it and told me that it had been "
    "there for two hundred years, that his family had looked after it for most of that time, and that hardly anyone "
    "came to see it any more. I promised to write about it. Please write the beginning of a short story about {topic}."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="how often each way runs, by default 3")
    runs = parser.parse_args().runs
    folder = smollm2_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = TransformersModel(folder, prefix_cache_bytes=0)
    chats = [[{"role": "user", "content": PROMPT.format(topic=topic)}] for topic in TOPICS]
    prompts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    options: dict[str, Any] = {
        "max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip

    def text(ids: Any) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    @torch.inference_mode()
    def serial() -> list[str]:
        texts = []
        for prompt in prompts:
            inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
            texts.append(text(plain.generate(**inputs, **options)[0, inputs.input_ids.shape[1] :]))
        return texts

    @torch.inference_mode()
    def padded() -> list[str]:
        inputs = tokenizer(prompts, return_tensors="pt", add_special_tokens=False, padding=True)
        return [text(row[inputs.input_ids.shape[1] :]) for row in plain.generate(**inputs, **options)]

    def concurrent() -> list[str]:
        with ThreadPoolExecutor(len(chats)) as pool:
            generate = lambda chat: model.generate(chat, max_tokens=NEW, min_new_tokens=NEW, temperature=0).content  # noqa: E731
            return list(pool.map(generate, chats))

    ways = {"generate, one after another": serial, "one padded batch": padded, "modelport, eight threads": concurrent}
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for _ in range(runs):
        for name, way in ways.items():
            begin = time.perf_counter()
            texts[name] = way()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    base = medians["generate, one after another"]
    print(f"{len(chats)} prompts of {len(tokenizer(prompts[0]).input_ids)} tokens, {NEW} new tokens each, {runs} runs")
    for name, median in medians.items():
        spread = f"{min(seconds[name]):.2f}-{max(seconds[name]):.2f}"
        rate = len(chats) * NEW / median
        print(f"{name:30} {median:6.2f} s ({spread})  {rate:6.1f} tokens/s  {base / median:5.2f} x serial")
    print(f"modelport / padded batch: {medians['one padded batch'] / medians['modelport, eight threads']:.2f}")
    for name in list(ways)[1:]:
        different = [
            i for i, (a, b) in enumerate(zip(texts["generate, one after another"], texts[name], strict=True)) if a != b
        ]
        gaps = [
            gap_at_split(plain, tokenizer, prompts[i], texts["generate, one after another"][i], texts[name][i])
            for i in different
        ]
        close = sum(gap < EPSILON for gap in gaps)
        print(
            f"{name}: {len(different)} of {len(chats)} texts differ, {close} of them where the two best logits are "
            f"closer than {EPSILON:g} (gaps: {', '.join(f'{gap:.1e}' for gap in gaps) or 'none'})"
        )
    model.close()


@torch.inference_mode()
def gap_at_split(plain: Any, tokenizer: Any, prompt: str, a: str, b: str) -> float:
    """Return the difference of the two best logits at the first token that differs between two texts."""
    start = tokenizer(prompt, add_special_tokens=False).input_ids
    x, y = (tokenizer(text, add_special_tokens=False).input_ids for text in (a, b))
    same = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
    best = plain(torch.tensor([start + x[:same]])).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


if __name__ == "__main__":
    main()
