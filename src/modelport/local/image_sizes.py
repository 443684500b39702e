"""Reads the size of images from their headers, and limits it, before an engine decodes them.

A file of a few hundred bytes can say that its image has 700 million pixels, for which a decoder takes gigabytes. The
size is read as the decoder of llama.cpp reads it (stb_image: https://github.com/nothings/stb). An image whose size is
not found is refused: the decoder may know other formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from modelport.errors import InvalidRequest
from modelport.types.content import Attachment, Image
from modelport.types.messages import ChatMessage

#: The most pixels of one image, and of all images of a request together.
MAX_IMAGE_PIXELS, MAX_REQUEST_PIXELS = 50_000_000, 100_000_000
#: The formats whose size is read, by pillow's names.
IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
#: The most segments of a JPEG before its size. A photo with large profiles has some hundred.
_MAX_SEGMENTS = 4096


def check_media(messages: Iterable[ChatMessage]) -> None:
    """Check the images of messages for an engine that finds out itself what the bytes are, as llama.cpp does.

    Raises:
        InvalidRequest: An image is too large, or its format is not known. The bytes of an audio part count as an image
            if they are not audio.
    """
    parts = [
        part for message in messages if isinstance(message.content, tuple) for part in message.content
        if isinstance(part, Image | Attachment) and part.data is not None
    ]  # fmt: skip
    sizes = []
    for part in parts:
        data = part.data or b""
        if part.kind == "audio" and _is_audio(data):
            continue
        if (size := image_size(data)) is None:
            raise InvalidRequest(
                f"the size of an image of {len(data)} bytes can't be read; it must be a PNG, JPEG, GIF, WebP or BMP"
                if part.kind == "image"
                else f"{part.kind} of {len(data)} bytes: the data must be WAV, MP3 or FLAC"
            )
        sizes.append(size)
    check_sizes(sizes)


def check_sizes(sizes: Iterable[tuple[int, int]]) -> None:
    """Check the sizes of all images of a request.

    Args:
        sizes: The width and the height of each image, in pixels.

    Raises:
        InvalidRequest: An image is too large, or all are together.
    """
    total = 0
    for width, height in sizes:
        if width * height > MAX_IMAGE_PIXELS:
            raise InvalidRequest(
                f"an image has {width} x {height} pixels, and at most {MAX_IMAGE_PIXELS:,} are accepted: make it "
                "smaller. Models scale images down to a few million pixels anyway"
            )
        total += width * height
    if total > MAX_REQUEST_PIXELS:
        raise InvalidRequest(
            f"the images of the request have {total:,} pixels, and at most {MAX_REQUEST_PIXELS:,} are accepted: make "
            "them smaller, or send fewer"
        )


def image_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and the height of an image in pixels, or `None` if its header can't be read."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            # Apple's variant has another chunk before the header.
            return struct.unpack_from(">II", data, 16) if data[12:16] == b"IHDR" else None
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack_from("<HH", data, 6)
        if data.startswith(b"BM"):
            return _bmp_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError):  # The data ends in the header.
        pass
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    for _ in range(_MAX_SEGMENTS):
        position = data.find(b"\xff", position)  # Decoders skip padding between segments.
        if position < 0:
            return None
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        length, height, width = struct.unpack_from(">HxHH", data, position + 1)
        if marker in (0xC0, 0xC1, 0xC2):
            return width, height
        # Further segments are tables (DHT, DQT, DRI), data of applications and comments.
        if not (marker in (0xC4, 0xDB, 0xDD, 0xFE) or 0xE0 <= marker <= 0xEF) or length < 2:
            return None
        position += 1 + length
    return None


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        return struct.unpack_from("<HH", data, 18)
    if header_size not in (40, 56, 108, 124):
        return None
    width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # A negative height means that the rows are in the order from top to bottom.


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _is_audio(data: bytes) -> bool:
    """Return whether llama.cpp reads the data as audio: it then does not try to decode an image."""
    if len(data) < 12:
        return False
    is_mp3 = data.startswith(b"ID3") or (data[0] == 0xFF and data[1] & 0xE0 == 0xE0)
    return is_mp3 or data.startswith(b"fLaC") or (data[:4] == b"RIFF" and data[8:12] == b"WAVE")
