"""The subject of a conformance check: a model under test, and what its tester knows about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelport.model import Model

#: The prompts that checks send to the model, by name. `Subject.prompts` replaces those that the model under test can't
#: answer, for example because it has a fixed set of responses.
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

    A check that needs something that the subject does not provide has the outcome "not checked".

    Args:
        make: Returns the model. It is called for every check, and may return the same model each time.
        prompts: Replacements for entries of `PROMPTS`, by name. Two further names are possible: `reasoning`, a prompt
            that makes the model reason before it answers; and `too long`, a prompt that exceeds the context window.
        count_tokens: Returns the number of tokens of a prompt (a list of message dicts), by the model's own tokenizer
            and chat template.
        busy: Returns the number of requests that the engine is working on.
        faults: For each fault, a function that returns a model whose calls fail with it. The names of the faults are
            the HTTP statuses `401`, `404`, `429` and `500`; `timeout`; `refused` (the connection is refused);
            `retry_after` (status 429 with the header Retry-After); and `truncated` (the response ends early, although
            the connection is closed properly). The models should not retry: pass `retry=False` to them.
        secrets: The model's API keys. The check `secrets` fails if one of them appears in a text.
        deterministic: Whether equal requests at temperature 0 return equal text. On some engines they do not, because
            the other requests of a batch change the text.
    """

    make: Callable[[], Model]
    prompts: Mapping[str, str] = field(default_factory=dict)
    count_tokens: Callable[[list[dict[str, Any]]], int] | None = None
    busy: Callable[[], int] | None = None
    faults: Mapping[str, Callable[[], Model]] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    deterministic: bool = True

    def prompt(self, name: str) -> str:
        """Return the prompt of this name, from `prompts` or else from `PROMPTS`."""
        return {**PROMPTS, **self.prompts}[name]
