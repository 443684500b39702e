"""Grammars for constrained decoding: checks them, and finds which tokens they allow or force next.

Grammars are written in the Lark dialect of the llguidance library, and may contain JSON schemas. For every local
engine, `check_grammar` refuses a grammar that llguidance can't enforce. On transformers and MLX, modelport itself
enforces a grammar: `GrammarCompiler` compiles it for one tokenizer, and makes a `GrammarMatcher` for each output.
llama.cpp and vLLM enforce it themselves. But llama.cpp ignores a grammar that it can't read, so `TextMatcher` checks
llama.cpp's output.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest, MissingDependency, ServerError, UnsupportedFeature

if TYPE_CHECKING:
    import numpy as np

#: How many compiled grammars are cached.
GRAMMAR_CACHE_SIZE = 64
#: Parts of llguidance's messages about a JSON schema that is valid, but has a keyword that llguidance does not support.
#: "nimplemented" is "unimplemented" without its first letter, whose case varies.
_UNSUPPORTED_PHRASES = ("nimplemented", "not supported", "only supported", "not disjoint", "Unknown format")
#: Words in llguidance's messages, and the keyword of JSON Schema that a message with this word is about.
_KEYWORD_BY_WORD = {"Resource '": "$ref", "patternProperty": "patternProperties", "regex": "pattern"}


def check_grammar(lark: str, extra: str) -> None:
    """Refuse a grammar that can't be enforced, before anything is computed.

    Args:
        lark: The grammar, in llguidance's Lark dialect.
        extra: modelport's optional dependencies that contain llguidance, for the error if llguidance is missing.

    Raises:
        UnsupportedFeature: A JSON schema in the grammar has a keyword that can't be enforced.
        InvalidRequest: The grammar is invalid.
        MissingDependency: llguidance is not installed.
    """
    try:
        problem = _grammar_problem(lark)
    except ImportError:
        raise MissingDependency("llguidance", extra) from None
    if problem:
        kind = UnsupportedFeature if any(phrase in problem for phrase in _UNSUPPORTED_PHRASES) else InvalidRequest
        lines = problem.splitlines()
        reason = " ".join([lines[0], *(line for line in lines[1:] if line.startswith("error:"))])
        if "JSON schema" in reason:
            keywords = (keyword for word, keyword in _KEYWORD_BY_WORD.items() if word in reason)
            reason = next((f"{keyword}: {reason}" for keyword in keywords), reason)
        raise kind(f"grammar: the engine can't enforce it: {reason}")


@lru_cache(GRAMMAR_CACHE_SIZE)
def _grammar_problem(lark: str) -> str:
    """Return llguidance's message about a grammar; empty if llguidance can enforce it."""
    from llguidance import LLMatcher

    return str(LLMatcher.validate_grammar(lark))


class GrammarCompiler:
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of the transformers library.
        vocab_size: The length of the model's logits, which may be more than the tokenizer's vocabulary.
        eos: The token ids that end an output.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos: list[int]) -> None:
        self._tokenizer, self._vocab_size, self._eos = tokenizer, vocab_size, eos
        self._llguidance_tokenizer: Any = None
        self._compiled = lru_cache(GRAMMAR_CACHE_SIZE)(self._compile)

    def matcher(self, lark: str) -> GrammarMatcher:
        """Return a matcher for a new output. Compiled grammars are cached.

        Raises:
            InvalidRequest: The grammar is invalid.
        """
        return GrammarMatcher(self._compiled(lark).deep_copy(), self._vocab_size)

    def _compile(self, lark: str) -> Any:
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._llguidance_tokenizer is None:  # Making it takes up to a second, so it is made for the first grammar.
            self._llguidance_tokenizer = from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos)
        matcher = LLMatcher(self._llguidance_tokenizer, lark)
        if matcher.is_error():
            raise InvalidRequest(f"grammar: the engine can't enforce it: {matcher.get_error()}")
        return matcher


class GrammarMatcher:
    """Follows one output through its grammar: which tokens are allowed next, and which must come next."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher, self._vocab_size = matcher, vocab_size

    def allowed_tokens(self) -> np.ndarray:
        """Return which tokens may come next.

        Returns:
            An array of bool, with one element for each logit.

        Raises:
            ServerError: The matcher has failed, or allows no token.
        """
        import numpy as np

        bits = self._bitmask()
        if not bits.any():
            raise ServerError("the grammar allows none of the tokenizer's tokens next", retryable=False)
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(np.bool_)

    def _bitmask(self) -> np.ndarray:
        import numpy as np

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return bits

    def consume(self, token: int) -> None:
        """Advance by a generated token.

        Raises:
            ServerError: The grammar does not allow the token.
        """
        self._matcher.consume_token(token)
        self._check()

    def try_consume(self, token: int) -> bool:
        """Advance by a token if the grammar allows it. This is much cheaper than `allowed_tokens`.

        Returns:
            Whether the grammar allows the token.

        Raises:
            ServerError: The matcher has failed.
        """
        count: int = self._matcher.try_consume_tokens([token])
        self._check()
        return count == 1

    def consume_forced_tokens(self) -> list[int]:
        """Advance by the tokens that must come next, because the grammar allows no others, and return them.

        The model need not choose such tokens, so they need no forward pass of their own.
        """
        tokens: list[int] = self._matcher.compute_ff_tokens()
        for token in tokens:
            self.consume(token)
        return tokens

    @property
    def is_complete(self) -> bool:
        """Whether the output is complete: the grammar allows no further token."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ServerError(f"the grammar's matcher failed: {self._matcher.get_error()}", retryable=False)


class TextMatcher:
    """Checks the text of an output against its grammar, to detect an engine that ignores the grammar.

    Args:
        lark: The grammar. A grammar that names special tokens, which are not text, can't be checked.
    """

    def __init__(self, lark: str) -> None:
        self._matcher = _compile_for_bytes(lark).deep_copy()

    def try_consume(self, text: str) -> bool:
        """Advance by the next text of the output, and return whether the grammar allows it.

        The result is always true if the grammar can't be checked.
        """
        data = list(text.encode())
        return bool(self._matcher.is_error() or self._matcher.try_consume_tokens(data) == len(data))


def checked_text_matcher(lark: str, extra: str) -> TextMatcher:
    """Refuse a grammar that can't be enforced, and return a matcher for the text of an output.

    The grammar is compiled once for both. That may take seconds, and releases Python's lock, so call it in a thread.

    Args:
        lark: The grammar, in llguidance's Lark dialect.
        extra: See `check_grammar`, whose errors this function raises.
    """
    try:
        is_wrong = _compile_for_bytes(lark).is_error()
    except ImportError:
        raise MissingDependency("llguidance", extra) from None
    if is_wrong:  # Or it names special tokens, which this check accepts.
        check_grammar(lark, extra)
    return TextMatcher(lark)


@lru_cache(GRAMMAR_CACHE_SIZE)
def _compile_for_bytes(lark: str) -> Any:
    """Compile a grammar for a tokenizer whose tokens are single bytes, so that it matches text."""
    from llguidance import LLMatcher, LLTokenizer

    return LLMatcher(LLTokenizer("byte"), lark, log_level=0)
