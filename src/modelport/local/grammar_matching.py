"""Holds an answer to a grammar on every local engine: which tokens may come next, and which must."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest, MissingDependency, ServerError, UnsupportedFeature

if TYPE_CHECKING:
    import numpy as np

#: How many grammars are kept compiled.
KEPT = 64
#: What llguidance says of a schema that is right, but of which it does not know all.
_CANT = ("nimplemented", "not supported", "only supported", "not disjoint", "Unknown format")
_KEYWORDS = {"Resource '": "$ref", "patternProperty": "patternProperties", "regex": "pattern"}


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
        problem = _problem(lark)
    except ImportError:
        raise MissingDependency("llguidance", extra) from None
    if problem:
        kind = UnsupportedFeature if any(word in problem for word in _CANT) else InvalidRequest
        lines = problem.splitlines()
        told = " ".join([lines[0], *(line for line in lines[1:] if line.startswith("error:"))])
        if "JSON schema" in told:  # whose keyword it does not always name
            told = next((f"{keyword}: {told}" for word, keyword in _KEYWORDS.items() if word in told), told)
        raise kind(f"grammar: the engine can't hold an answer to it: {told}")


@lru_cache(KEPT)
def _problem(lark: str) -> str:
    from llguidance import LLMatcher

    return str(LLMatcher.validate_grammar(lark))


class TokenMasks:
    """Makes matchers for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers.
        vocab_size: The length of the model's logits, which may exceed the tokenizer's vocabulary.
        eos: The tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos: list[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos
        self._ours: Any = None
        self._compiled = lru_cache(KEPT)(self._compile)

    def matcher(self, lark: str) -> Matcher:
        """A matcher at the beginning of an answer; a grammar is compiled once.

        Raises:
            InvalidRequest: The grammar is wrong.
        """
        return Matcher(self._compiled(lark).deep_copy(), self._vocab_size)

    def _compile(self, lark: str) -> Any:
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._ours is None:  # takes up to a second, so not before the first grammar
            self._ours = from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos)
        matcher = LLMatcher(self._ours, lark)
        if matcher.is_error():
            raise InvalidRequest(f"grammar: the engine can't hold an answer to it: {matcher.get_error()}")
        return matcher


class Matcher:
    """Follows one answer through its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed(self) -> np.ndarray:
        """Which tokens may come next.

        Returns:
            An array of bool, one for each logit.

        Raises:
            ServerError: The matcher has failed, or allows nothing.
        """
        import numpy as np

        bits = self._bits()
        if not bits.any():
            raise ServerError("the grammar's matcher allows no token of this tokenizer's here", retryable=False)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def _bits(self) -> np.ndarray:
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return bits

    def advance(self, token: int) -> None:
        """Takes the token that came.

        Raises:
            ServerError: The grammar does not allow it.
        """
        self._matcher.consume_token(token)
        self._check()

    def takes(self, token: int) -> bool:
        """Takes the token if the grammar allows it: far cheaper than to ask which tokens it allows.

        Raises:
            ServerError: The matcher has failed.
        """
        taken: int = self._matcher.try_consume_tokens([token])
        self._check()
        return taken == 1

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


class Follower:
    """Follows the text of an answer that an engine of another's holds to a grammar, or says that it does.

    Args:
        lark: The grammar. One that speaks of tokens, not of text, can't be followed.
    """

    def __init__(self, lark: str) -> None:
        self._matcher = _by_bytes(lark).deep_copy()

    def follows(self, text: str) -> bool:
        """Whether the grammar allows this text to come next."""
        data = list(text.encode())
        return bool(self._matcher.is_error() or self._matcher.try_consume_tokens(data) == len(data))


@lru_cache(KEPT)
def _by_bytes(lark: str) -> Any:
    from llguidance import LLMatcher, LLTokenizer

    return LLMatcher(LLTokenizer("byte"), lark, log_level=0)
