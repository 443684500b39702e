"""Checks the header of a GGUF file before llama.cpp reads it: some numbers in a header make llama.cpp end the process.

See https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, BinaryIO

from modelport.errors import InvalidRequest
from modelport.local.special_tokens import SpecialTokens

#: The fields of a model's architecture that are checked -> the smallest and the largest value that is accepted. Models
#: without attention have 0 heads.
_BOUNDS = {
    "block_count": (1, 4096), "context_length": (1, 2**27), "embedding_length": (1, 2**20),
    "attention.head_count": (0, 2**14), "attention.head_count_kv": (0, 2**14), "feed_forward_length": (0, 2**24),
}  # fmt: skip
#: GGUF's types of numbers -> their format for `struct`.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
#: The types of tokens (unknown and control) that llama.cpp reads as special, and the texts that it reads so whatever
#: their type is.
_SPECIAL_TYPES = (2, 3)
_LOOKS_SPECIAL = re.compile(r"<[|｜].+[|｜]>|<end_of_\w+>|_?< ?EOT ?>")
_MAX_FIELDS, _MAX_TENSORS, _MAX_DIMENSIONS = 100_000, 1_000_000, 4
_MAX_KEY_LENGTH = 65_535  # GGUF's own limit.
#: A longer text (a chat template) or list (a vocabulary) is an error of the file.
_MAX_TEXT, _MAX_ITEMS = 64 * 2**20, 16 * 2**20


@dataclass(frozen=True)
class GgufHeader:
    """What is read from a header.

    Args:
        chat_templates: The source texts of the model's chat templates; empty if there are none.
        longest_token: The length of the vocabulary's longest token, in bytes; 0 if there is no vocabulary.
        special_tokens: The special tokens, such as those that begin and end a turn.
        template_variables: The variables of a chat template that llama.cpp takes from the header.
    """

    chat_templates: tuple[str, ...]
    longest_token: int
    special_tokens: SpecialTokens
    template_variables: Mapping[str, str]


def check_header(path: str) -> GgufHeader:
    """Check the fields of a GGUF file that llama.cpp would trust.

    Args:
        path: The path of the file.

    Returns:
        What modelport itself uses of the header.

    Raises:
        InvalidRequest: The file is no GGUF file, its header is damaged, or a number in it is impossible.
    """
    try:
        with open(path, "rb") as file:
            fields = _read_fields(file)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is no complete GGUF file: {error}") from None
    architecture = fields.get("general.architecture")
    for name, (smallest, largest) in _BOUNDS.items():
        key = f"{architecture}.{name}"
        value = fields.get(key)
        for number in value if isinstance(value, list) else [value]:  # A list has a value for each layer.
            if isinstance(number, int | float) and not smallest <= number <= largest:
                raise InvalidRequest(f"{path}: {key}={number}: must be at least {smallest} and at most {largest}")
    templates = (value for key, value in fields.items() if key.startswith("tokenizer.chat_template"))
    tokens, types = (_list_in(fields, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    texts = [token.decode(errors="replace") if isinstance(token, bytes) else "" for token in tokens]
    variables = {}
    for name in ("bos_token", "eos_token"):
        number = fields.get(f"tokenizer.ggml.{name}_id")
        variables[name] = texts[number] if isinstance(number, int) and 0 <= number < len(texts) else ""
    return GgufHeader(
        tuple(template for template in templates if isinstance(template, str)),
        max((len(token) for token in tokens if isinstance(token, bytes)), default=0),
        SpecialTokens(
            text
            for text, kind in zip_longest(texts, types[: len(texts)])
            if kind in _SPECIAL_TYPES or _LOOKS_SPECIAL.fullmatch(text)
        ),
        variables,
    )


def _list_in(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    return value if isinstance(value, list) else []


def _read_fields(file: BinaryIO) -> dict[str, Any]:
    """Return the numbers and texts of the header. Lists are returned only if they are short or in `_LISTS`."""
    magic, version, tensors, count = struct.unpack("<4sIQQ", _read(file, 24))
    if magic != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    if version not in (2, 3):
        raise ValueError(f"version {version} is unknown")
    if count > _MAX_FIELDS:
        raise ValueError(f"its header has {count} fields")
    fields = {}
    for _ in range(count):
        key = _read_text(file, _MAX_KEY_LENGTH)
        (kind,) = struct.unpack("<I", _read(file, 4))
        fields[key] = _read_value(file, kind, key in _LISTS)
    _check_size(file, tensors, fields.get("general.alignment"))
    return fields


def _check_size(file: BinaryIO, tensors: int, alignment: Any) -> None:
    """Check that the file reaches to the beginning of its last tensor: a download may have been interrupted."""
    if tensors > _MAX_TENSORS:
        raise ValueError(f"its header has {tensors} tensors")
    last = -1
    for _ in range(tensors):
        _read_text(file, _MAX_KEY_LENGTH)
        (dimensions,) = struct.unpack("<I", _read(file, 4))
        if dimensions > _MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        *_, offset = struct.unpack(f"<{dimensions}QIQ", _read(file, 8 * dimensions + 12))
        last = max(last, offset)
    begin = file.tell()
    if isinstance(alignment, int) and alignment > 0:
        begin += -begin % alignment
    if tensors and begin + last >= (size := os.fstat(file.fileno()).st_size):
        raise ValueError(
            f"it has {size} bytes, and its last tensor begins at {begin + last}. Is the download complete?"
        )


def _read_value(file: BinaryIO, kind: int, keep_list: bool) -> Any:
    if kind == _STRING:
        return _read_text(file, _MAX_TEXT)
    if kind == _ARRAY:
        item_kind, length = struct.unpack("<IQ", _read(file, 12))
        if length > _MAX_ITEMS:
            raise ValueError(f"a list has {length} items")
        if item_kind == _STRING:
            texts = []
            for _ in range(length):
                (size,) = struct.unpack("<Q", _read(file, 8))
                text = _read(file, size)
                if keep_list:
                    texts.append(text)
            return texts
        if item_kind not in _NUMBERS:
            raise ValueError(f"a list has items of the unknown type {item_kind}")
        data = _read(file, length * struct.calcsize(f"<{_NUMBERS[item_kind]}"))
        if length > _BOUNDS["block_count"][1] and not keep_list:
            return None  # No list of the layers.
        return list(struct.unpack(f"<{length}{_NUMBERS[item_kind]}", data))
    if kind not in _NUMBERS:
        raise ValueError(f"a field has the unknown type {kind}")
    (number,) = struct.unpack(f"<{_NUMBERS[kind]}", _read(file, struct.calcsize(f"<{_NUMBERS[kind]}")))
    return number


def _read_text(file: BinaryIO, longest: int) -> str:
    (size,) = struct.unpack("<Q", _read(file, 8))
    if size > longest:
        raise ValueError(f"a text has {size} bytes")
    return _read(file, size).decode(errors="replace")


def _read(file: BinaryIO, size: int) -> bytes:
    if size > _MAX_TEXT * 8:
        raise ValueError(f"a field has {size} bytes")
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends within its header")
    return data
