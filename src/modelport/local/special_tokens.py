"""Finds the spellings of a model's special tokens in the texts of a conversation, and breaks them in two.

A tokenizer reads `<|im_end|>` in a prompt as the mark that ends a turn, whoever wrote it. So a stranger's text could
end its own turn and begin one of the system. Broken in two parts that are encoded apart, it is ordinary text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelport.errors import InvalidRequest
from modelport.local.bounds import parsed_arguments
from modelport.types.warnings import CallWarning

#: The warning where the parts can't be encoded apart, and a space was put between them.
SPACE_ADDED = CallWarning(
    "changed",
    "messages",
    "A text contains the spelling of a special token of the model. A space was put into it, because this engine can't "
    "read it as ordinary text.",
)
#: A longer spelling is ignored, and so is one of a single character, which can't be broken.
_MAX_LENGTH = 128
#: Breaking a spelling can leave another one in its rest.
_MAX_PASSES = 8
_PRIVATE_USE = re.compile("[\ue000-\uf8ff]")


class SpecialTokens:
    """The special tokens of a model.

    Args:
        spellings: Their texts.
    """

    def __init__(self, spellings: Iterable[str] = ()) -> None:
        usable = {text for text in spellings if 1 < len(text) <= _MAX_LENGTH and text.strip()}
        self._pattern = re.compile(_pattern_of(usable)) if usable else None

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> SpecialTokens:
        """Return the special tokens of a tokenizer of the transformers library."""
        added = tokenizer.added_tokens_decoder.values()
        return cls({*(token.content for token in added if token.special), *tokenizer.all_special_tokens})

    def occur_in(self, value: Any) -> bool:
        """Return whether a text in a value, such as a list of messages, contains a spelling."""
        pattern = self._pattern
        return pattern is not None and any(pattern.search(text) for text in _texts_in(value))

    def break_in(self, value: Any, separator: str) -> Any:
        """Return a copy of a value, with a separator inside each spelling.

        Raises:
            InvalidRequest: The value is nested too deeply.
        """
        try:
            return self._break_in(value, separator)
        except RecursionError:
            raise InvalidRequest("messages or tools are nested too deeply") from None

    def _break_in(self, value: Any, separator: str) -> Any:
        if isinstance(value, str):
            return self._break(value, separator)
        if isinstance(value, Mapping):
            return {
                self._break(key, separator) if isinstance(key, str) else key: self._break_value(key, item, separator)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)([self._break_in(item, separator) for item in value])
        return value

    def _break_value(self, key: Any, value: Any, separator: str) -> Any:
        if key == "arguments":
            parsed = _parsed(value)
            broken = self._break_in(parsed, separator)
            return broken if parsed is value else json.dumps(broken, ensure_ascii=False)
        if key == "content" and isinstance(value, list | tuple):
            return self._break_parts(value, separator)
        return self._break_in(value, separator)

    def _break_parts(self, parts: Iterable[Any], separator: str) -> Any:
        """Break the content of a message. Its texts can form a spelling together: templates write them in a row."""
        for candidate in (parts, _joined(parts)):
            broken = self._break_in(candidate, separator)
            if self._pattern is None or not any(map(self._pattern.search, _in_a_row(broken))):
                return broken
        raise InvalidRequest("texts around an image form the spelling of a special token of the model together")

    def _break(self, text: str, separator: str) -> str:
        if self._pattern is None:
            return text
        for _ in range(_MAX_PASSES):
            text, count = self._pattern.subn(lambda match: match[0][0] + separator + match[0][1:], text)
            if not count:
                return text
        raise InvalidRequest("a text contains special tokens of the model inside each other")


def separator_for(value: Any) -> str:
    """Return a character that no text in a value contains.

    Raises:
        InvalidRequest: The texts contain every character for private use.
    """
    used = {character for text in _texts_in(value) for character in _PRIVATE_USE.findall(text)}
    for code in range(0xE000, 0xF900):
        if chr(code) not in used:
            return chr(code)
    raise InvalidRequest("the texts contain special tokens of the model, and every private-use character")


def _texts_in(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack += (key for key in item if isinstance(key, str))
            stack += (_parsed(entry) if key == "arguments" else entry for key, entry in item.items())
            yield from _in_a_row(item.get("content"))
        elif isinstance(item, list | tuple):
            stack += item


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _in_a_row(content: Any) -> tuple[str, ...]:
    """Return the texts of a content of several parts as templates may write them: as they are, or each trimmed."""
    texts = [part["text"] for part in content if _is_text(part)] if isinstance(content, list | tuple) else []
    return ("".join(texts), "".join(text.strip() for text in texts)) if len(texts) > 1 else ()


def _joined(parts: Iterable[Any]) -> list[Any]:
    """Return the parts of a content, with texts that follow each other as one."""
    joined: list[Any] = []
    for part in parts:
        if joined and _is_text(part) and _is_text(joined[-1]):
            joined[-1] = {**joined[-1], "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined


def _parsed(arguments: Any) -> Any:
    r"""Return the arguments of a tool call, parsed if their text contains escapes. Then `\u003c` can be `<`."""
    return parsed_arguments(arguments) if isinstance(arguments, str) and "\\" in arguments else arguments


def _pattern_of(spellings: Iterable[str]) -> str:
    """Return a regular expression for the spellings, of which the longest matches.

    It is a tree of their characters: some models have 6,000 special tokens, and a list would be tried one by one.
    """
    tree: dict[str, Any] = {}
    for spelling in spellings:
        node = tree
        for character in spelling:
            node = node.setdefault(character, {})
        node[""] = {}

    def write(node: dict[str, Any]) -> str:
        options = [re.escape(character) + write(child) for character, child in node.items() if character]
        if not options:
            return ""
        if len(options) == 1 and "" not in node:
            return options[0]
        return f"(?:{'|'.join(options)}){'?' if '' in node else ''}"

    return write(tree)
