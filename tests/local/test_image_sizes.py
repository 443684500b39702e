"""The size of an image is read from its header, and limited before an engine decodes it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from modelport import ChatMessage, InvalidRequest
from modelport.local.image_sizes import MAX_IMAGE_PIXELS, check_media, check_sizes, image_size
from modelport.types.content import Attachment, Image, Text

pillow = pytest.importorskip("PIL.Image")
SIZES = [(1, 1), (16, 9), (300, 2), (1025, 768)]


def saved(name: str, size: tuple[int, int], **options: Any) -> bytes:
    """Return an image as pillow writes it."""
    data = BytesIO()
    mode = "P" if name == "GIF" else "RGB"
    pillow.new(mode, size).save(data, name, **options)
    return data.getvalue()


def png(width: int, height: int) -> bytes:
    """Return a PNG of few bytes that has this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * min(height, 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    """Return the header of a BMP: 354 bytes let llama.cpp allocate 2 GB."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6) + b"\0" * 300


def old_bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIHHHH", 100, 0, 0, 26, 12, width, height, 1, 24) + b"\0" * 300


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(saved("JPEG", (16, 16)))
    position = data.index(b"\xff\xc0")
    data[position + 5 : position + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    data = bytearray(saved("GIF", (16, 16)))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def webp(kind: bytes, payload: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + kind + struct.pack("<I", 50) + payload + b"\0" * 50


BOMBS = {
    "png": png(26_000, 26_000),
    "jpeg": jpeg(65_535, 65_535),
    "gif": gif(65_535, 65_535),
    "bmp": bmp(26_000, 26_000),
    "bmp from top to bottom": bmp(26_000, -26_000),
    "bmp of OS/2": old_bmp(26_000, 26_000),
    "webp": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_000, 16_000)),
    "lossless webp": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_000 | 16_000 << 14)),
    "extended webp": webp(b"VP8X", b"\0" * 4 + (26_000).to_bytes(3, "little") * 2),
}
UNKNOWN = {
    "empty": b"",
    "tga": b"\0\0\x02" + b"\0" * 9 + struct.pack("<HH", 26_000, 26_000) + b"\x18\0",
    "psd": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HII", 3, 26_000, 26_000),
    "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 26000 +X 26000\n",
    "pic": b"\x53\x80\xf6\x34" + b"\0" * 84 + b"PICT" + struct.pack(">HH", 26_000, 26_000),
    "pnm": b"P6\n26000 26000\n255\n",
    "apple's png": b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + b"\0" * 8 + png(9, 9)[8:],
    "png without its header": png(64, 64)[:20],
    "jpeg without its size": b"\xff\xd8\xff\xda" + b"\0" * 100,
    "jpeg of comments": b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000 + jpeg(16, 16)[2:],
    "jpeg without markers": b"\xff\xd8\xff\xe0\0\2" + b"\0" * 100,
    "jpeg that ends": b"\xff\xd8\xff\xff\xff",
    "bmp of 64 bytes": b"BM" + b"\0" * 12 + struct.pack("<I", 64) + b"\0" * 100,
    "webp of another kind": webp(b"ALPH", b""),
    "audio": b"RIFF\0\0\0\0WAVEfmt " + b"\0" * 40,
}


def messages(*parts: Any) -> list[ChatMessage]:
    return [ChatMessage("user", (*parts, Text("?")))]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "name, options",
    [
        ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True, "comment": b"\xff\xd8\xff\xc0" * 9}), ("GIF", {}),
        ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0" + b"\0" * 90}),
    ],
    ids=str,
)  # fmt: skip
def test_image_size_is_that_of_pillow(name: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    assert image_size(saved(name, size, **options)) == size


def test_image_size_of_jpeg_with_padding_between_segments() -> None:
    data = jpeg(320, 200)
    end = 4 + int.from_bytes(data[4:6])
    assert image_size(data[:end] + b"\0\0\xff\xff" + data[end:]) == (320, 200)


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("part", [lambda data: Image(data, "image/png"), lambda data: Attachment("audio", data, "wav")])
def test_check_media_of_a_large_image_raises_with_size_and_bound(name: str, part: Callable[[bytes], Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"has \d+ x \d+ pixels, and at most 50,000,000 "):
        check_media(messages(part(BOMBS[name])))


@pytest.mark.parametrize("name", UNKNOWN)
def test_check_media_of_an_unknown_format_raises(name: str) -> None:
    with pytest.raises(InvalidRequest, match="must be a PNG, JPEG, GIF, WebP or BMP"):
        check_media(messages(Image(UNKNOWN[name], "image/png")))


@pytest.mark.parametrize("name", sorted(set(UNKNOWN) - {"audio"}))
def test_check_media_of_audio_that_is_none_raises(name: str) -> None:
    with pytest.raises(InvalidRequest, match="must be WAV, MP3 or FLAC"):
        check_media(messages(Attachment("audio", UNKNOWN[name], "wav")))


@pytest.mark.parametrize(
    "data", [UNKNOWN["audio"], b"ID3" + b"\0" * 20, b"\xff\xfb" + b"\0" * 20, b"fLaC" + b"\0" * 20]
)
def test_check_media_accepts_audio_urls_and_small_images(data: bytes) -> None:
    audio, by_url = Attachment("audio", data, "wav"), Image(url="https://example.com/a.png")
    check_media([*messages(audio, by_url, Image(png(5000, 5000), "image/png")), ChatMessage("user", "?")])


def test_check_sizes_bounds_all_images_of_a_request() -> None:
    check_sizes([(7000, 7000)] * 2)
    check_media(messages(*[Image(png(7000, 7000), "image/png")] * 2))
    with pytest.raises(InvalidRequest, match=r"have 147,000,000 pixels, and at most 100,000,000 "):
        check_media([*messages(*[Image(png(7000, 7000), "image/png")] * 2), *messages(Image(bmp(7000, 7000)))])


def test_bound_accepts_every_camera() -> None:
    assert MAX_IMAGE_PIXELS >= 8192 * 6100


@pytest.mark.engine
def test_transformers_checks_sizes_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from modelport.local.transformers.images import prompt_with_images

    monkeypatch.setattr(pillow.Image, "convert", lambda self, mode: pytest.fail("an image was decoded"))
    for images in (
        [png(13_300, 13_300)], [bmp(26_000, 26_000)], [png(7000, 7000)] * 3,
        # Pillow takes the size of the second header.
        [png(9, 9)[:33] + png(13_000, 6000)[8:]],
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=r"at most [15]0+,000,000 "):
            prompt_with_images(None, "", [Image(data, "image/png") for data in images])  # type: ignore[arg-type]
    tiff = BytesIO()
    pillow.new("RGB", (9, 9)).save(tiff, "TIFF")
    with pytest.raises(InvalidRequest, match="can't be read"):
        prompt_with_images(None, "", [Image(tiff.getvalue(), "image/tiff")])  # type: ignore[arg-type]


@pytest.mark.engine
def test_llamacpp_refuses_an_image_bomb_before_the_engine_sees_it(tmp_path: Path) -> None:
    from tests.servers.tiny_mmproj import write_tiny_mmproj

    from modelport import LlamaCppModel

    projector = tmp_path / "mmproj.gguf"
    write_tiny_mmproj(projector)
    with LlamaCppModel(mmproj=projector, context_length=512, progress=False) as model:
        for data, bound in ((BOMBS["bmp"], "at most 50,000,000"), (png(10_000, 10_000), "at most 50,000,000")):
            with pytest.raises(InvalidRequest, match=bound):
                model([{"role": "user", "content": [{"type": "image", "image": data}]}], max_tokens=1)
        assert model([{"role": "user", "content": [{"type": "image", "image": png(64, 64)}]}], max_tokens=1).text
