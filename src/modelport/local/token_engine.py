"""How an engine that exchanges token ids is called: a prompt and a request go in, batches of tokens come out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelport.local.chat_template import ChatTemplate
from modelport.local.engine import Engine
from modelport.types.content import Image


@dataclass(frozen=True)
class Prompt:
    """The model's input.

    Args:
        tokens: Token ids.
        inputs: What a processor adds for images, such as `pixel_values`; empty for text alone.
        starts_in_reasoning: Whether the prompt ends within the model's reasoning.
    """

    tokens: list[int]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    starts_in_reasoning: bool = False


@dataclass(frozen=True)
class EngineRequest:
    """A request to generate one output.

    Args:
        prompt: The model's input.
        max_tokens: The most tokens to generate; prompt and output together fit the context.
        parameters: The parameters of the call, without `max_tokens`.
        lark: The grammar of the output, in llguidance's Lark; `None` for free text.
        tokens_per_notification: How many tokens the engine may collect before it notifies the caller.
    """

    prompt: Prompt
    max_tokens: int
    parameters: Mapping[str, Any]
    lark: str | None = None
    tokens_per_notification: int = 1


@dataclass(slots=True)
class TokenBatch:
    """Consecutive tokens of an output.

    Args:
        tokens: Token ids, including the token that ends the output.
        logprobs: An entry of `ChatMessage.logprobs` for each token, where the call asks for log probabilities.
        cached_tokens: How many tokens of the prompt were in the prefix cache; only in the first batch of an output.
        finish_reason: `stop` or `length`; only in the last batch of an output.
    """

    tokens: list[int]
    logprobs: list[dict[str, Any]] | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None


class TokenEngine(Engine, Protocol):
    """An engine that takes token ids and returns token ids."""

    #: A fast tokenizer of transformers.
    tokenizer: Any
    template: ChatTemplate
    #: The most tokens of prompt and output together.
    context_length: int
    #: The token ids that end an output.
    eos: list[int]

    def encode_prompt(self, text: str, images: list[Image]) -> Prompt:
        """Encode a rendered conversation."""
        ...

    def run(self, request: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Generate an output. Closing the generator stops the engine within a token."""
        ...
