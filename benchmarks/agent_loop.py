"""An agent's conversation on the CPU: what each turn costs on `TransformersModel`, beside others.

    python benchmarks/agent_loop.py

A growing conversation of 12 turns: about 250 new tokens each, 16 generated (the observation of a tool, and a short
answer). In one run, turn by turn: `smolagents.TransformersModel`, plain transformers with one kept cache, and ours. The
weights are the same (SmolLM2-135M-Instruct, f32), and so must the texts be.
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


class KeptCache:
    """Plain transformers with one cache kept between turns, as a careful user would write it."""

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
    parser.add_argument("--turns", type=int, default=12)
    turns = parser.parse_args().turns
    import smolagents

    folder = smollm2_folder()
    ours = TransformersModel(folder, max_tokens=NEW, min_new_tokens=NEW, temperature=0)
    theirs: Any = smolagents.TransformersModel(
        str(folder), torch_dtype="float32", max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
    )
    as_parts = lambda ms: [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in ms]  # noqa: E731
    ways = {
        "smolagents": lambda messages: theirs(as_parts(messages)).content,
        "one kept cache": KeptCache(folder),
        "modelport": lambda messages: ours(messages).content,
    }
    for way in ways.values():
        way([{"role": "user", "content": "Hello"}])
    messages = [{"role": "system", "content": "You are an agent that explores a town, one step at a time."}]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    different = 0
    for turn in range(1, turns + 1):
        messages.append({"role": "user", "content": observation(turn)})
        answers = {}
        for name, way in ways.items():
            begin = time.perf_counter()
            answers[name] = way(messages)
            seconds[name].append(time.perf_counter() - begin)
        different += len({answer.strip() for answer in answers.values()}) > 1
        messages.append({"role": "assistant", "content": answers["one kept cache"]})
    length = len(AutoTokenizer.from_pretrained(folder)(str(messages)).input_ids)
    print(
        f"{turns} turns, about {length} tokens at the end, {NEW} new tokens each; {different} turns with different text"
    )
    for name, times in seconds.items():
        total = sum(times)
        ratio, growth = total / sum(seconds["modelport"]), times[-1] / times[0]
        print(
            f"{name:16} {total:6.1f} s in all, {ratio:.2f} times modelport's; first turn {times[0]:5.2f} s, "
            f"last {times[-1]:5.2f} s, {growth:.1f} times the first"
        )
    ours.close()


if __name__ == "__main__":
    main()
