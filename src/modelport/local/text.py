"""From tokens to text, and from text to thinking and answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from modelport.constrained.reasoning import THINK_CLOSE, THINK_OPEN
from modelport.layers.stop import StopScanner


class Decoder:
    """Text from tokens as they come; half a character waits for its other half.

    Args:
        tokenizer: A fast tokenizer of transformers.
        hidden: Tokens that are no text, such as those that end an answer.
        special: Whether other special tokens are text, for answers whose marks are such tokens.
    """

    def __init__(self, tokenizer: Any, hidden: Collection[int], special: bool = False) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer.backend_tokenizer
        self._hidden = hidden
        self._stream = DecodeStream(skip_special_tokens=not special)

    def feed(self, tokens: list[int]) -> str:
        """The text that is complete with these tokens."""
        pieces = (self._stream.step(self._tokenizer, token) for token in tokens if token not in self._hidden)
        return "".join(piece for piece in pieces if piece)


def token_text(tokenizer: Any, token: int) -> dict[str, Any]:
    """A token as log probabilities name it: its text, and its bytes where the tokenizer tells them."""
    text = tokenizer.decode([token], skip_special_tokens=False)
    # Part of a character is no text; what its bytes are, only byte-level vocabularies tell.
    return {"token": text, "bytes": None if "�" in text else list(text.encode())}


class ThinkingSplitter:
    """Tells thinking from answer in a text that comes in pieces.

    Args:
        opened: Whether the prompt ends within a thought, so that the text begins there.
    """

    def __init__(self, opened: bool) -> None:
        self._enter(opened, [THINK_OPEN])

    def _enter(self, inside: bool, marks: list[str]) -> None:
        self.inside = inside
        self._scanner = StopScanner([f"\n{THINK_CLOSE}", THINK_CLOSE] if inside else marks)
        self._blank = True

    def feed(self, text: str) -> tuple[str, str]:
        """Takes the next piece.

        Returns:
            What is thinking in it, and what is answer; line breaks around the marks belong to the marks.
        """
        told = {True: "", False: ""}
        while text:
            whole = self._scanner.buffered + text
            out, found = self._scanner.feed(text)
            told[self.inside] += self._trimmed(out)
            if found is None:
                break
            text = whole[len(out) + len(found) :]
            # A thought comes once: after it a mark is text like any other.
            self._enter(not self.inside, [])
        return told[True], told[False]

    def end(self) -> tuple[str, str]:
        """What was held back, where nothing follows."""
        held = self._trimmed(self._scanner.flush())
        return (held, "") if self.inside else ("", held)

    def _trimmed(self, text: str) -> str:
        text = text.lstrip("\n") if self._blank else text
        self._blank = self._blank and not text
        return text
