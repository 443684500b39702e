"""Conformance checks of image input."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from modelport.model import Model
from modelport.testing.check import Check, NotChecked
from modelport.testing.subject import Subject


def solid_png(colour: tuple[int, int, int], size: int = 32) -> bytes:
    """Return a square PNG of one colour, without using an imaging library.

    Args:
        colour: Red, green and blue, each from 0 to 255.
        size: Width and height in pixels.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = (b"\0" + bytes(colour) * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def _image_messages(subject: Subject, colour: tuple[int, int, int]) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": subject.prompt("image")}, {"type": "image", "image": solid_png(colour)}]
    return [{"role": "user", "content": parts}]


def image_input(subject: Subject, model: Model) -> None:
    """An image reaches the model: a red and a blue image lead to different log probabilities, or different text.

    Without log probabilities, equal text shows nothing: the model may see both images and say the same about them.
    """
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 8}
    if model.capabilities.logprobs:
        options |= {"logprobs": True, "top_logprobs": 3}
    red, blue = (
        model.generate(_image_messages(subject, colour), **options) for colour in ((200, 30, 30), (30, 30, 200))
    )
    if not model.capabilities.logprobs:
        if subject.deterministic and red.text != blue.text:
            return
        raise NotChecked("images are accepted; without log probabilities nothing shows that the model sees them")
    assert red.logprobs and blue.logprobs
    assert red.logprobs[0]["logprob"] != blue.logprobs[0]["logprob"], "a red and a blue image make no difference"


CHECKS = (
    Check(
        "image input", "A red and a blue image lead to different responses.", image_input,
        is_supported=lambda capabilities: "image" in capabilities.inputs,
        request_unsupported=lambda subject, model: model.generate(_image_messages(subject, (1, 2, 3))),
    ),
)  # fmt: skip
