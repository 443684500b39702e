"""Parts of a message: images, audio and files."""

from __future__ import annotations

import base64
import copy
import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from modelport.errors import InvalidRequest
from modelport.inputs.messages import normalise_messages
from modelport.inputs.parts import image_from
from modelport.protocols.chat_completions.request import plain_dict
from modelport.types.content import MAX_IMAGE_BYTES, Attachment, Image
from tests.inputs.message_examples import BASE64, IMAGE, PNG, normalise_one

PIL_IMAGE = PILImage.new("RGB", (2, 2), "red")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": PIL_IMAGE},
        {"type": "image", "image": PNG},
        {"type": "image", "image": bytearray(PNG)},
        {"type": "image", "data": PNG},
        {"type": "image", "base64": BASE64},
        {"type": "image", "base64": BASE64, "media_type": "image/png"},
        {"type": "image", "url": f"data:image/png;base64,{BASE64}"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{BASE64}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}},
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/jpeg;base64,{BASE64}"},
        },  # The media type comes from the bytes, not from the URL.
        IMAGE,
    ],
)
def test_image_each_format_gives_same_part(part: Any) -> None:
    assert normalise_one({"role": "user", "content": [part]}).content == (IMAGE,)


def test_image_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for part in ({"image": path}, {"image": str(path)}, {"path": str(path)}, {"path": path}, {"url": path}):
        assert normalise_one({"role": "user", "content": [{"type": "image", **part}]}).content == (IMAGE,)


SIGNED = "h.example/i.png?sig=S1GNATURE"


@pytest.mark.parametrize("keys", [lambda url: {"url": url}, lambda url: {"image_url": url},
                                   lambda url: {"image_url": {"url": url}}, lambda url: {"data": url}])  # fmt: skip
def test_image_url_never_reads_a_file(keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL often comes from an untrusted source, such as a page that an agent read or a user of a service."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for url in (str(tmp_path / "a.png"), "../a.png", "~/a.png", "/dev/zero", f"file://{tmp_path}/a.png", "", "http:a"):
        with pytest.raises(InvalidRequest, match="must be an http, https or data URL") as raised:
            normalise_one({"role": "user", "content": [{"type": "image", **keys(url)}]})
        assert "a.png" not in str(raised.value) and "zero" not in str(raised.value)


@pytest.mark.parametrize("key", ["url", "image_url", "image", "path", "data"])
@pytest.mark.parametrize("scheme", ["ftp", "file", "httpx", "s3", " https"])
def test_image_url_of_other_scheme_raises_without_signature(key: str, scheme: str) -> None:
    with pytest.raises(InvalidRequest, match="must be an http, https or data URL, not ") as raised:
        normalise_one({"role": "user", "content": [{"type": "image", key: f"{scheme}://{SIGNED}"}]})
    assert "S1GNATURE" not in str(raised.value)


def test_image_url_scheme_is_case_insensitive() -> None:
    for key in ("url", "image"):
        parts = [{"type": "image", key: f"HTTPS://{SIGNED}"}, {"type": "image", key: f"Data:image/png;base64,{BASE64}"}]
        assert normalise_one({"role": "user", "content": parts}).content == (Image(url=f"https://{SIGNED}"), IMAGE)


@pytest.mark.parametrize("key", ["image", "path"])
def test_image_path_of_special_or_large_file_raises(key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge.png", "wb") as file:
        file.write(PNG)
        file.truncate(MAX_IMAGE_BYTES + 1)
    for name, error_text in (
        ("pipe", "not a regular file"), ("/dev/zero", "not a regular file"), (".", "not a regular file"),
        ("huge.png", "larger than 20 MiB"), ("a" * 5000, "can't be read"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=error_text) as raised:
            normalise_one({"role": "user", "content": [{"type": "image", key: str(tmp_path / name)}]})
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize("url", ["http://example.com/a.png", "https://example.com/a.png"])
def test_image_url_is_not_fetched(url: str) -> None:
    parts = [
        {"type": "image", "url": url},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "image": url},
    ]
    assert normalise_one({"role": "user", "content": parts}).content == (Image(url=url),) * 3


def test_image_detail_is_kept() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    assert normalise_one({"role": "user", "content": [part]}).content == (
        Image(url="https://example.com/a.png", detail="low"),
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "YCbCr"])
def test_image_from_pil_any_mode_becomes_png(mode: str) -> None:
    image = PILImage.new("RGB", (2, 2), "red").convert(mode)
    result = image_from(image)
    assert result.media_type == "image/png"
    assert PILImage.open(io.BytesIO(result.data or b"")).size == (2, 2)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_image_from_bytes_detects_media_type(image_format: str) -> None:
    buffer = io.BytesIO()
    PIL_IMAGE.save(buffer, image_format)
    assert image_from(buffer.getvalue()).media_type == f"image/{image_format.lower()}"


def test_image_repr_hides_bytes_and_url() -> None:
    assert repr(IMAGE) == f"Image(image/png, {len(PNG)} bytes)"
    by_url = Image(url="https://example.com/a.png?sig=secret")
    assert "secret" not in repr(by_url) and "secret" in by_url.as_url()
    # The locals in a traceback show neither the URL nor a body with the URL.
    assert repr([by_url.url, by_url.to_dict()]).count("secret") == 0 and repr(by_url.url) == "'https://example.com/…'"
    assert pickle.loads(pickle.dumps(by_url)) == copy.deepcopy(by_url) == by_url


@pytest.mark.parametrize("cache_control", [{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])
def test_cache_control_stays_on_its_part(cache_control: dict[str, str]) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}, "cache_control": cache_control}
    content = [{"type": "text", "text": "a", "cache_control": cache_control}, image, {"type": "text", "text": "b"}]
    (message,) = normalise_messages([{"role": "user", "content": content}])
    assert plain_dict(message)["content"] == content
    (only_part,) = normalise_messages([{"role": "user", "content": content[:1]}])
    assert plain_dict(only_part)["content"] == content[:1]


def test_audio_and_files_are_decoded_and_encoded() -> None:
    data = base64.b64encode(b"RIFF").decode()
    parts = [
        {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": data}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
    ]
    content = (
        Attachment("audio", b"RIFF", "mp3"),
        Attachment("audio", b"RIFF", "wav"),
        Attachment("file", b"RIFF", "application/pdf", "a.pdf"),
    )
    result = normalise_one({"role": "user", "content": parts})
    assert result.content == content
    assert normalise_messages([plain_dict(result)]) == (result,)
