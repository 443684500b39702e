"""Grammars for constrained decoding: checks them, and finds which tokens they allow or force next.

Grammars are written in the Lark dialect of the llguidance library, and may contain JSON schemas. For every local
engine, a grammar that llguidance can't enforce is refused. On transformers and MLX, modelport itself enforces a
grammar: `GrammarCompiler` compiles it for one tokenizer, and makes a `GrammarMatcher` for each output. llama.cpp and
vLLM enforce it themselves, so `check_grammar` checks it. But llama.cpp ignores a grammar that it can't read, so
`TextMatcher` checks llama.cpp's output. Each grammar is compiled once, in a thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest, MissingDependency, ServerError, UnsupportedFeature

if TYPE_CHECKING:
    import numpy as np

#: How many compiled grammars are cached, and how many characters they have in total. A compiled grammar takes about 80
#: times as many bytes.
MAX_CACHED_GRAMMARS, MAX_CACHED_CHARACTERS = 64, 2**20
#: Parts of llguidance's messages about a JSON schema that is valid, but has a keyword that llguidance does not support.
#: "nimplemented" is "unimplemented" without its first letter, whose case varies.
_UNSUPPORTED_PHRASES = ("nimplemented", "not supported", "only supported", "not disjoint", "Unknown format")
#: Words in llguidance's messages, and the keyword of JSON Schema that a message with this word is about.
_KEYWORD_BY_WORD = {"Resource '": "$ref", "patternProperty": "patternProperties", "regex": "pattern"}


class GrammarCache:
    """The results of a function for the grammars that were used last.

    The function is called once for a grammar, even if several threads need its result at the same time: the others wait
    for the first. Compiling a grammar may take seconds, and a batch of calls has the same one. What the function raises
    is not cached.

    Args:
        compile: The function, which takes a grammar.
    """

    def __init__(self, compile: Callable[[str], Any]) -> None:
        self._compile = compile
        self._forget()
        _caches.add(self)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._results: dict[str, Future[Any]] = {}  # The grammar that was used last is the last one.

    def get(self, lark: str) -> Any:
        """Return the result for a grammar."""
        with self._lock:
            result = self._results.pop(lark, None)
            is_first = result is None
            self._results[lark] = result = result or Future()
            while len(self._results) > MAX_CACHED_GRAMMARS or (
                len(self._results) > 1 and sum(map(len, self._results)) > MAX_CACHED_CHARACTERS
            ):
                del self._results[next(iter(self._results))]
        if is_first:
            try:
                result.set_result(self._compile(lark))
            except BaseException as error:
                with self._lock:
                    if self._results.get(lark) is result:
                        del self._results[lark]
                result.set_exception(error)
        return result.result()


_caches: weakref.WeakSet[GrammarCache] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cache in _caches:  # A fork copies no threads, so nobody would finish what the parent compiles.
        cache._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)


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
        problem = _problems.get(lark)
    except ImportError:
        raise MissingDependency("llguidance", extra) from None
    if problem:
        raise _refusal(problem)


def _refusal(problem: str) -> UnsupportedFeature | InvalidRequest:
    """Return the error for llguidance's message about a grammar that it can't enforce."""
    kind = UnsupportedFeature if any(phrase in problem for phrase in _UNSUPPORTED_PHRASES) else InvalidRequest
    lines = problem.splitlines()
    reason = " ".join([lines[0], *(line for line in lines[1:] if line.startswith("error:"))])
    if "JSON schema" in reason:
        keywords = (keyword for word, keyword in _KEYWORD_BY_WORD.items() if word in reason)
        reason = next((f"{keyword}: {reason}" for keyword in keywords), reason)
    return kind(f"grammar: the engine can't enforce it: {reason}")


def _grammar_problem(lark: str) -> str:
    """Return llguidance's message about a grammar; empty if llguidance can enforce it."""
    from llguidance import LLMatcher

    return str(LLMatcher.validate_grammar(lark))


_problems = GrammarCache(_grammar_problem)


class GrammarCompiler:
    """Compiles grammars for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of the transformers library.
        vocab_size: The length of the model's logits, which may be more than the tokenizer's vocabulary.
        eos: The token ids that end an output.
        extra: See `check_grammar`.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, eos: list[int], extra: str) -> None:
        self._tokenizer, self._vocab_size, self._eos, self._extra = tokenizer, vocab_size, eos, extra
        self._llguidance_tokenizer: Any = None
        self._compiled = GrammarCache(self._compile)

    def matcher(self, lark: str) -> GrammarMatcher:
        """Return a matcher for a new output. Compiled grammars are cached.

        Compiling may take seconds, and releases Python's lock, so call this method in a thread.

        Raises:
            ModelError: As `check_grammar` raises.
        """
        return GrammarMatcher(self._compiled.get(lark).deep_copy(), self._vocab_size)

    def _compile(self, lark: str) -> Any:
        try:
            from llguidance import LLMatcher
            from llguidance.hf import from_tokenizer
        except ImportError:
            raise MissingDependency("llguidance", self._extra) from None
        if self._llguidance_tokenizer is None:  # Making it takes up to a second, so it is made for the first grammar.
            self._llguidance_tokenizer = from_tokenizer(self._tokenizer, n_vocab=self._vocab_size, eos_token=self._eos)
        matcher = LLMatcher(self._llguidance_tokenizer, lark, log_level=0)
        if matcher.is_error():
            raise _refusal(matcher.get_error())
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
        self._matcher = _compiled_for_bytes.get(lark).deep_copy()

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
        is_wrong = _compiled_for_bytes.get(lark).is_error()
    except ImportError:
        raise MissingDependency("llguidance", extra) from None
    if is_wrong:  # Or it names special tokens, which this check accepts.
        check_grammar(lark, extra)
    return TextMatcher(lark)


def _compile_for_bytes(lark: str) -> Any:
    """Compile a grammar for a tokenizer whose tokens are single bytes, so that it matches text."""
    from llguidance import LLMatcher, LLTokenizer

    return LLMatcher(LLTokenizer("byte"), lark, log_level=0)


_compiled_for_bytes = GrammarCache(_compile_for_bytes)
