"""The subject of a conformance check: a model under test, and what its tester knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.model import Model

#: The prompts that checks send to the model. A subject overrides those that it can't answer, for example because it is
#: a server of fixed responses.
PROMPTS: dict[str, str] = {
    "plain": "What is the capital of France? Answer in one sentence.",
    "long": "Write a long story about a fox who finds a library in the forest.",
    "numbered": "Tell me a short fact about the number {n}.",
    "schema": "Make up a person and describe them as JSON with a name and an age.",
    "tool": "What is the weather in Paris?",
    "two tools": "What is the weather in Paris and in Rome?",
    "image": "What do you see?",
}


@dataclass
class Subject:
    """A model under test, and what its tester knows that the model itself does not show.

    Checks that need something which the subject does not provide end as "not checked".

    Args:
        make: Returns the model. It is called for every check, and may return the same model each time.
        prompts: Replacements for entries of `PROMPTS`. Two more keys may be given: `reasoning`, a prompt that makes
            the model reason before it answers; and `too long`, a prompt that exceeds the context window.
        count_tokens: Counts the tokens of a prompt, given as a list of message dicts, by the model's own tokenizer and
            chat template.
        busy: Returns the number of requests that the engine is working on.
        faults: Functions that make a model which meets a fault, by the name of the fault: `401`, `404`, `429`, `500`,
            `timeout`, `refused`.
        secrets: Keys that must appear nowhere.
        deterministic: Whether equal requests at temperature 0 return equal text. On some engines they do not, because
            batching changes the text.
    """

    make: Callable[[], Model]
    prompts: Mapping[str, str] = field(default_factory=dict)
    count_tokens: Callable[[list[dict[str, Any]]], int] | None = None
    busy: Callable[[], int] | None = None
    faults: Mapping[str, Callable[[], Model]] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    deterministic: bool = True

    def prompt(self, name: str) -> str:
        """Return the prompt of this name, as this subject needs it."""
        return {**PROMPTS, **self.prompts}[name]
