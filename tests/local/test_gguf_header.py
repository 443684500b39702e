"""A damaged or hostile GGUF file raises an error, and does not end the process."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.properties import examples

from modelport.errors import InvalidRequest
from modelport.local.llamacpp.gguf_header import check_header


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(**fields: Any) -> bytes:
    """Return the header of a file whose architecture is `llama`. An `int` is written as 32 bits, a list as 64 bits."""
    result = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields) + 1)
    result += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    for name, value in fields.items():
        result += text(f"llama.{name.replace('__', '.')}")
        if isinstance(value, list):
            result += struct.pack("<IIQ", 9, 10, len(value)) + struct.pack(f"<{len(value)}Q", *value)
        elif isinstance(value, str):
            result += struct.pack("<I", 8) + text(value)
        else:
            result += struct.pack("<Iq", 11, value)
    return result


def write(folder: Path, data: bytes) -> str:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return str(path)


GOOD: dict[str, Any] = {"block_count": 30, "context_length": 8192, "embedding_length": 576, "attention__head_count": 9}


@pytest.mark.parametrize(
    "fields",
    [GOOD, {**GOOD, "attention__head_count": 0}, {**GOOD, "attention__head_count": [9, 0, 9]}, {"name": "x" * 100_000},
     {**GOOD, "context_length": 10_485_760}, {"scores": [0] * 200_000}],
    ids=lambda fields: " ".join(fields),
)  # fmt: skip
def test_good_header_is_accepted(fields: dict[str, Any], tmp_path: Path) -> None:
    check_header(write(tmp_path, header(**fields)))


@pytest.mark.parametrize("name", ["block_count", "context_length", "embedding_length"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**32 - 1, 2**62])
def test_impossible_number_is_refused_by_name(name: str, value: int, tmp_path: Path) -> None:
    path = write(tmp_path, header(**{**GOOD, name: value}))
    with pytest.raises(InvalidRequest, match=rf"model\.gguf: llama\.{name}={value}: must be at least 1 and at most"):
        check_header(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"GGUF", b"PK\x03\x04" + b"\0" * 60, struct.pack("<4sIQQ", b"GGUF", 9, 0, 0),
     struct.pack("<4sIQQ", b"GGUF", 3, 0, 2**60), struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 2**63),
     struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**40),
     struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("a") + struct.pack("<I", 77), header(**GOOD)[:-3]],
    ids=range(9),
)  # fmt: skip
def test_damaged_header_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"model\.gguf is no complete GGUF file: "):
        check_header(write(tmp_path, data))


@examples(300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(header(**GOOD)) - 1), st.integers(0, 255)), max_size=4),
    length=st.integers(0, 400),
)
def test_random_damage_raises_invalid_request_or_nothing(
    changes: list[tuple[int, int]], length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(header(**GOOD))
    for position, value in changes:
        data[position] = value
    try:
        check_header(write(tmp_path_factory.mktemp("damaged"), bytes(data[: max(length, 1)])))
    except InvalidRequest:
        pass


def with_tensors(*offsets: int, size: int) -> bytes:
    """Return a file with tensors of one dimension, whose weights have `size` bytes."""
    begin = struct.pack("<4sIQQ", b"GGUF", 3, len(offsets), 0)
    infos = (text(f"t{n}") + struct.pack("<IQIQ", 1, 8, 0, offset) for n, offset in enumerate(offsets))
    return begin + b"".join(infos) + bytes(size)


def test_file_that_ends_before_its_last_tensor_is_refused(tmp_path: Path) -> None:
    check_header(write(tmp_path, with_tensors(0, 64, 32, size=100)))
    with pytest.raises(InvalidRequest, match=r"has 1\d\d bytes, and its last tensor begins at 1\d\d. Is the download"):
        check_header(write(tmp_path, with_tensors(0, 64, 32, size=40)))


@pytest.mark.parametrize(("count", "dimensions"), [(2**40, 1), (1, 2**31)])
def test_impossible_tensors_are_refused(tmp_path: Path, count: int, dimensions: int) -> None:
    data = struct.pack("<4sIQQ", b"GGUF", 3, count, 0) + text("t") + struct.pack("<I", dimensions)
    with pytest.raises(InvalidRequest, match=r"tensors|dimensions"):
        check_header(write(tmp_path, data))
