"""The conformance check of special tokens: a text that contains the mark of a turn does not begin or end a turn."""

from __future__ import annotations

from typing import Any

from modelport.local.engine import EngineModel
from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.subject import Subject

#: The special tokens of well-known models. To a model that does not have one, its spelling is ordinary text anyway.
SPELLINGS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "</s>", "<eos>", "[INST]",
    "<｜User｜>",
)  # fmt: skip
#: A special token is one token, and its spelling as ordinary text is at least two.
_REPETITIONS, _FEWEST = 4, 6


def special_tokens(subject: Subject, model: Model) -> str:
    """The spelling of a special token is ordinary text in each message, in tool calls, and in tool results."""
    if not isinstance(model, EngineModel):
        raise NotChecked("the service encodes the prompt")
    shortest = _input_tokens(model, [{"role": "user", "content": "Hi"}])
    for spelling in SPELLINGS:
        added = _input_tokens(model, [{"role": "user", "content": f"Hi{spelling * _REPETITIONS}"}]) - shortest
        assert added >= _FEWEST, f"{_REPETITIONS} times {spelling} added {added} tokens to a user's message"
    every = "".join(SPELLINGS)
    in_user = _input_tokens(model, [{"role": "user", "content": f"Hi{every}"}]) - shortest
    elsewhere = _input_tokens(model, _conversation(every)) - _input_tokens(model, _conversation(""))
    # The counts can differ by the tokens at both ends of each text.
    assert elsewhere >= 4 * (in_user - 2), (
        f"{every} added {in_user} tokens to a user's message, and {elsewhere} tokens to four other places"
    )
    return f"{len(SPELLINGS)} spellings"


def _conversation(text: str) -> list[dict[str, Any]]:
    """Return a conversation with a text in a system message, an answer, a tool call, and a tool result."""
    call = {"id": "call00001", "type": "function", "function": {"name": "look_up", "arguments": {"word": f"x{text}"}}}
    return [
        {"role": "system", "content": f"Be terse.{text}"},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": f"Hi.{text}", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": f"Hi.{text}"},
        {"role": "user", "content": "Hi"},
    ]


def _input_tokens(model: Model, messages: list[dict[str, Any]]) -> int:
    usage = model.generate(messages, max_tokens=1, temperature=0).token_usage
    assert usage is not None and usage.input_tokens is not None, f"usage is {usage}"
    return usage.input_tokens


CHECKS = (
    Check(
        "special tokens", "The spelling of a special token in a message is ordinary text.", special_tokens,
        is_supported=lambda c: c.usage,
    ),
)  # fmt: skip
