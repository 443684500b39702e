"""Turns generated token ids into text, and makes the entries of `ChatMessage.logprobs`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any


class Detokenizer:
    """Decodes tokens as they are generated. Bytes of an incomplete character are buffered until it is complete.

    Args:
        tokenizer: A fast tokenizer of the transformers library.
        hidden: Token ids that are never part of the text, such as those that end the output. Special tokens that are
            not among them are part of the text.
    """

    def __init__(self, tokenizer: Any, hidden: Collection[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer.backend_tokenizer
        self._hidden = hidden
        self._stream = DecodeStream(skip_special_tokens=False)

    def decode(self, tokens: list[int]) -> str:
        """Decode the next tokens, and return the text of the characters that they complete."""
        parts = (self._stream.step(self._tokenizer, token) for token in tokens if token not in self._hidden)
        return "".join(part for part in parts if part)


def special_token_ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids of the special tokens of a tokenizer, by their spellings."""
    added = {token.content: identifier for identifier, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {**dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)), **added}


def logprobs_entry(tokenizer: Any, token: int, logprob: float, best: Iterable[tuple[int, float]]) -> dict[str, Any]:
    """Return the entry of a token in `ChatMessage.logprobs`.

    Args:
        tokenizer: A fast tokenizer of the transformers library.
        token: The token's id.
        logprob: The token's natural log probability.
        best: The ids of the most probable tokens in its place, with their log probabilities.
    """
    alternatives = [_token_entry(tokenizer, other, value) for other, value in best]
    return {**_token_entry(tokenizer, token, logprob), "top_logprobs": alternatives}


def _token_entry(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    text = tokenizer.decode([token], skip_special_tokens=False)
    # A token that is only a part of a character decodes to U+FFFD, so its bytes are unknown.
    return {"token": text, "bytes": None if "�" in text else list(text.encode()), "logprob": logprob}
