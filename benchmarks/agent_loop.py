"""Measures the turns of an agent's conversation on the CPU with `TransformersModel`, compared with other libraries.

    python benchmarks/agent_loop.py
    python benchmarks/agent_loop.py --turns 4

The conversation grows for 12 turns. Each turn has about 250 new tokens (the observation of a tool), and 16 tokens are
generated. Each turn runs on `smolagents.TransformersModel`, on plain transformers with one cache, and on modelport. The
weights are the same (SmolLM2-135M-Instruct, f32), and the texts must be the same too.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.smollm2 import smollm2_folder

from modelport import TransformersModel

NEW = 16
OBSERVATION = (
    "Observation {turn}: the search returned page {turn} of the travel guide. It says that the town has a market on "
    "{turn} mornings of the month, a museum with {turn} rooms about the history of the railway, and a bakery which has "
    "sold the same bread for {turn} generations. "
)


def observation(turn: int) -> str:
    return OBSERVATION.format(turn=turn) * 4 + "What do you want to look at next?"


class CachedTransformers:
    """Plain transformers with one cache for all turns, as a careful user would write it."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._cache = DynamicCache(config=self._model.config)
        self._known: list[int] = []

    @torch.inference_mode()
    def __call__(self, messages: list[dict[str, str]]) -> str:
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = self._tokenizer(text, add_special_tokens=False).input_ids
        pairs = zip(self._known, ids, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self._known), len(ids) - 1))
        if (extra := self._cache.get_seq_length() - same) > 0:
            self._cache.crop(-extra)
        out = self._model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), past_key_values=self._cache,
            max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=self._tokenizer.eos_token_id,
        )[0].tolist()  # fmt: skip
        self._known = out[: self._cache.get_seq_length()]
        return str(self._tokenizer.decode(out[len(ids) :], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12, help="turns of the conversation, by default 12")
    turns = parser.parse_args().turns
    import smolagents

    folder = smollm2_folder()
    modelport = TransformersModel(folder, max_tokens=NEW, min_new_tokens=NEW, temperature=0)
    smol: Any = smolagents.TransformersModel(
        str(folder), torch_dtype="float32", max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
    )
    as_parts = lambda ms: [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in ms]  # noqa: E731
    libraries = {
        "smolagents": lambda messages: smol(as_parts(messages)).content,
        "transformers, one cache": CachedTransformers(folder),
        "modelport": lambda messages: modelport(messages).content,
    }
    for generate in libraries.values():
        generate([{"role": "user", "content": "Hello"}])
    messages = [{"role": "system", "content": "You are an agent that explores a town, one step at a time."}]
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    different = 0
    for turn in range(1, turns + 1):
        messages.append({"role": "user", "content": observation(turn)})
        texts = {}
        for name, generate in libraries.items():
            begin = time.perf_counter()
            texts[name] = generate(messages)
            seconds[name].append(time.perf_counter() - begin)
        different += len({text.strip() for text in texts.values()}) > 1
        messages.append({"role": "assistant", "content": texts["transformers, one cache"]})
    length = len(AutoTokenizer.from_pretrained(folder)(str(messages)).input_ids)
    print(
        f"{turns} turns, about {length} tokens at the end, {NEW} new tokens each; {different} turns with different text"
    )
    for name, times in seconds.items():
        total = sum(times)
        ratio, growth = total / sum(seconds["modelport"]), times[-1] / times[0]
        print(
            f"{name:24} {total:6.1f} s in all, {ratio:.2f} times modelport's; first turn {times[0]:5.2f} s, "
            f"last {times[-1]:5.2f} s, {growth:.1f} times the first"
        )
    modelport.close()


if __name__ == "__main__":
    main()
