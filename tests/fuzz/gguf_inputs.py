"""Strategies: the headers of GGUF files with mistakes.

An input is a list of changes. The file is made when the input is played.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from tests.fuzz.small_models import write_gguf

_TEXT, _ARRAY = 8, 9
_ALIGNMENT = 32
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
#: Chat templates that loop, recurse, allocate, look for Python's internals, or are broken.
TEMPLATES = (
    "", "{{", "{% for %}", "{{ messages[0].content }}", "{{ raise_exception('no') }}", "{{ 1 // 0 }}",
    "{{ nonesuch.x }}",
    "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{% for a in range(10**9) %}{{ a }}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 'a' * 10**9 }}",
    "{% for a in range(100000) %}{% endfor %}ok", "{{ ('a' * 10**6 ~ 'b') * 500 }}", "{{ 10 ** 10 ** 7 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.system('id') }}",
    "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{{ messages|map(attribute='content')|join('\n') }}",
    "{% set n = namespace(i=0) %}{% for _ in range(10**6) %}{% set n.i = n.i + 1 %}{% endfor %}",
    "{{ messages }}" * 500,
    "{% if " + "(" * 300 + "1" + ")" * 300 + " %}{% endif %}", "{{ '%1000000000d' % 1 }}", "\x00", "{{ '\ud800' }}",
    "{% generation %}x{% endgeneration %}", "{{ strftime_now('%Y') }}", "{{ 'a'.format(1) }}", "{{ tools|tojson }}",
    "{{ 'x'|center(10**9) }}", "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ messages[0]['content'] | replace('', 'a' * 10**5) | replace('a', 'a' * 10**5) }}",
)  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A field of a header: its key, the number of its type, and the bytes of its value."""

    key: bytes
    kind: int
    value: bytes


@dataclass(frozen=True)
class Header:
    """The parts of a GGUF file."""

    version: int
    tensor_count: int
    fields: tuple[Field, ...]
    tensors: bytes
    weights: bytes
    field_count: int | None = None

    def data(self) -> bytes:
        """Return the bytes of the file."""
        count = len(self.fields) if self.field_count is None else self.field_count
        head = struct.pack("<4sIQQ", b"GGUF", self.version, self.tensor_count, count)
        fields = (
            struct.pack("<Q", len(field.key)) + field.key + struct.pack("<I", field.kind) + field.value
            for field in self.fields
        )
        head += b"".join(fields) + self.tensors
        return head + bytes(-len(head) % _ALIGNMENT) + self.weights


@cache
def small_header() -> Header:
    """Return the parts of the small model's file."""
    with TemporaryDirectory() as folder:
        data = write_gguf(Path(folder) / "model.gguf").read_bytes()
    _, version, tensor_count, count = struct.unpack_from("<4sIQQ", data)
    position, fields = 24, []
    for _ in range(count):
        (length,) = struct.unpack_from("<Q", data, position)
        key = data[position + 8 : position + 8 + length]
        (kind,) = struct.unpack_from("<I", data, position + 8 + length)
        begin = position + 12 + length
        position = _end_of_value(data, begin, kind)
        fields.append(Field(key, kind, data[begin:position]))
    begin = position
    for _ in range(tensor_count):  # Each has its name, its dimensions, its type, and the offset of its weights.
        position = _end_of_value(data, position, _TEXT)
        (dimensions,) = struct.unpack_from("<I", data, position)
        position += 4 + 8 * dimensions + 12
    weights = position + -position % _ALIGNMENT
    return Header(version, tensor_count, tuple(fields), data[begin:position], data[weights:])


def _end_of_value(data: bytes, position: int, kind: int) -> int:
    if kind == _TEXT:
        return position + 8 + int(struct.unpack_from("<Q", data, position)[0])
    if kind != _ARRAY:
        return position + struct.calcsize(f"<{_NUMBERS[kind]}")
    item_kind, length = struct.unpack_from("<IQ", data, position)
    position += 12
    for _ in range(length):
        position = _end_of_value(data, position, item_kind)
    return position


def text_value(text: str) -> bytes:
    """Return the bytes of a text in a header."""
    data = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(data)) + data


_INTEGERS = (0, 1, -1, 2, 3, 255, 4096, 2**16, 2**24, 2**27, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1)
_floats = st.sampled_from((0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan")))
_texts = st.one_of(
    st.sampled_from(("", "llama", "gpt2", "spm", "no", "a" * 70_000, "\x00")), st.sampled_from(TEMPLATES)
)


@st.composite
def _values(draw: st.DrawFn) -> tuple[int, bytes]:
    """Draw the type and the bytes of a value."""
    kind = draw(st.sampled_from((4, 4, 4, 5, 6, 7, 8, 8, 9, 10, 11, 12, 13, 99)))
    if kind in (4, 5, 10, 11):
        size = 32 if kind in (4, 5) else 64
        return kind, (draw(st.sampled_from(_INTEGERS)) % 2**size).to_bytes(size // 8, "little")
    if kind in (6, 12):
        return kind, struct.pack("<f" if kind == 6 else "<d", draw(_floats))
    if kind == _TEXT:
        return kind, text_value(draw(_texts))
    if kind == _ARRAY:
        item_kind, length = draw(st.sampled_from((4, 5, 6, 8, 9, 99))), draw(st.sampled_from((0, 1, 300, 2**31, 2**62)))
        return kind, struct.pack("<IQ", item_kind, length) + bytes(4 * min(length, 300))
    return kind, draw(st.binary(max_size=9))


@st.composite
def headers(draw: st.DrawFn) -> Header:
    """Draw the header of the small model with up to three changes of its fields."""
    header = small_header()
    fields = list(header.fields)
    template = next(number for number, field in enumerate(fields) if field.key == b"tokenizer.chat_template")
    for _ in range(draw(st.integers(0, 3))):
        number = draw(st.integers(0, len(fields) - 1))
        change = draw(
            st.sampled_from(("value", "value", "same type", "same type", "drop", "repeat", "rename", "template"))
        )
        if change == "value":
            kind, value = draw(_values())
            fields[number] = replace(fields[number], kind=kind, value=value)
        elif change == "same type" and (kind := fields[number].kind) in (4, 5):
            fields[number] = Field(
                fields[number].key, kind, (draw(st.sampled_from(_INTEGERS)) % 2**32).to_bytes(4, "little")
            )
        elif change == "drop" and len(fields) > 1:
            del fields[number]
        elif change == "repeat":
            fields.append(fields[number])
        elif change == "rename":
            fields[number] = replace(
                fields[number], key=draw(st.sampled_from((b"", b"x", b"\xff", b"general.alignment")))
            )
        elif change == "template" and template < len(fields) and fields[template].kind == _TEXT:
            fields[template] = replace(fields[template], value=text_value(draw(st.sampled_from(TEMPLATES))))
    header = replace(header, fields=tuple(fields))
    other = draw(st.integers(0, 29))
    if other == 0:
        return replace(header, version=draw(st.sampled_from((0, 1, 2, 4, 2**32 - 1))))
    if other == 1:
        return replace(header, tensor_count=draw(st.sampled_from((0, 1, 11, 13, 2**40, 2**64 - 1))))
    return replace(header, field_count=draw(st.sampled_from((0, 1, 2**40)))) if other == 2 else header


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw the bytes of a file: a changed header, in which some bytes may be changed too, or which is truncated."""
    data = bytearray(draw(headers()).data())
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        data[draw(st.integers(0, min(len(data), 8000) - 1))] = draw(st.integers(0, 255))
    if draw(st.integers(0, 19)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)
