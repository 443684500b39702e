"""Holds an answer to a grammar on every local engine: which tokens may come next, and which must."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest, MissingDependency, ServerError, UnsupportedFeature

if TYPE_CHECKING:
    import numpy as np


def check_grammar(lark: str, extra: str) -> None:
    """Refuses a grammar that can't be enforced, before anything is computed.

    Args:
        lark: In llguidance's Lark.
        extra: The extra of this package that brings llguidance, for the error where it is missing.

    Raises:
        UnsupportedFeature: The schema has a keyword that can't be enforced.
        InvalidRequest: The grammar is wrong.
    """
    try:
        from llguidance import LLMatcher
    except ImportError:
        raise MissingDependency("llguidance", extra) from None
    if problem := LLMatcher.validate_grammar(lark):
        kind = UnsupportedFeature if "nimplemented" in problem or "not supported" in problem else InvalidRequest
        lines = problem.splitlines()
        told = " ".join([lines[0], *(line for line in lines[1:] if line.startswith("error:"))])
        raise kind(f"grammar: the engine can't hold an answer to it: {told}")


def after_thinking(lark: str, opened: bool) -> str:
    """The grammar for an answer that follows a free thought.

    Args:
        lark: Of the answer; its start symbol is `start`.
        opened: Whether the prompt ends within the thought.
    """
    answer = re.sub(r"\bstart\b(?=\s*:)", "answer_", lark, count=1)
    thought = 'thought_[suffix="</think>"]: /(?s:.*)/'
    begin = "thought_" if opened else '("<think>" thought_)?'
    return f"start: {begin} /\\n*/ answer_\n{thought}\n{answer}"


class Masks:
    """Makes matchers for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.
        vocab_size: The length of the model's logits, which may exceed the tokenizer's vocabulary.
        eos: The tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos: list[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos
        self._ours: Any = None

    def matcher(self, lark: str) -> Matcher:
        """A matcher at the beginning of an answer.

        Raises:
            InvalidRequest: The grammar is wrong.
        """
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._ours is None:  # takes up to a second, so not before the first grammar
            self._ours = from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos)
        matcher = LLMatcher(self._ours, lark)
        if matcher.is_error():
            raise InvalidRequest(f"grammar: the engine can't hold an answer to it: {matcher.get_error()}")
        return Matcher(matcher, self._vocab_size)


class Matcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> np.ndarray:
        """Which tokens may come next.

        Returns:
            An array of bool, one for each logit.

        Raises:
            ServerError: The matcher has failed.
        """
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def advance(self, token: int) -> None:
        """Takes the token that came.

        Raises:
            ServerError: The grammar does not allow it.
        """
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """The tokens that must come next, already taken: they need no choice, and no forward pass each."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        for token in tokens:
            self.advance(token)
        return tokens

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ServerError(f"the grammar's matcher failed: {self._matcher.get_error()}", retryable=False)
