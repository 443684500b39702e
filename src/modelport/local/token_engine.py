"""How an engine that takes and returns token ids is called: with an `EngineRequest`, for a stream of `TokenBatch`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelport.local.chat_template import ChatTemplate
from modelport.local.engine import Engine
from modelport.types.content import Image
from modelport.types.warnings import CallWarning


@dataclass(frozen=True)
class Prompt:
    """The model's input.

    Args:
        tokens: Token ids.
        inputs: For a prompt with images, what the model's processor returns for them, such as `pixel_values`, and
            further values for the engine. Empty for text alone.
        tail: The end of the prompt that is a mark, such as `<think>`; see `ReasoningFormat.tail_of`.
    """

    tokens: list[int]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    tail: str = ""


@dataclass(frozen=True)
class EngineRequest:
    """A request to generate one output.

    Args:
        prompt: The model's input.
        max_tokens: The most tokens to generate. Together with the prompt, they fit into the model's context.
        parameters: The other parameters of the call, such as `temperature`.
        grammar: The grammar of the output, as the engine's `compile_grammar` has returned it; `None` for free text.
        tokens_per_notification: How many tokens the engine may collect before it passes them to the caller.
        warnings: What was done in another way than requested.
    """

    prompt: Prompt
    max_tokens: int
    parameters: Mapping[str, Any]
    grammar: Any = None
    tokens_per_notification: int = 1
    warnings: tuple[CallWarning, ...] = ()


@dataclass(slots=True)
class TokenBatch:
    """Consecutive tokens of one output, which an engine passes to the caller together.

    Args:
        tokens: Token ids, including the token that ends the output.
        logprobs: An entry of `ChatMessage.logprobs` for each token; `None` unless the call asks for log probabilities.
        cached_tokens: How many tokens of the prompt were in the prefix cache; `None` except in an output's first batch.
        finish_reason: `stop` or `length`; `None` except in an output's last batch.
    """

    tokens: list[int]
    logprobs: list[dict[str, Any]] | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None


class TokenEngine(Engine, Protocol):
    """An engine that takes token ids and returns token ids."""

    #: A fast tokenizer of the transformers library.
    tokenizer: Any
    #: The model's chat template.
    template: ChatTemplate
    #: The most tokens of prompt and output together.
    context_length: int
    #: The token ids that end an output.
    eos: list[int]

    def encode_prompt(self, text: str, images: list[Image]) -> Prompt:
        """Encode a rendered conversation."""
        ...

    def compile_grammar(self, lark: str) -> Any:
        """Return what `run` needs to enforce a grammar for one output. This may take seconds; a thread calls it.

        Args:
            lark: The grammar, in llguidance's Lark dialect.

        Raises:
            UnsupportedFeature: A JSON schema in the grammar has a keyword that can't be enforced.
            InvalidRequest: The grammar is invalid.
            MissingDependency: llguidance is not installed.
        """
        ...

    def run(self, request: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Generate an output. If the generator is closed, the engine ends the request after its current step."""
        ...
