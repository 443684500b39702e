"""From every form in which callers write the parts of a message to `Part`s. Pure functions, but for reading a file."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Never

from modelport.errors import InvalidRequest
from modelport.secrets import url_start
from modelport.types.content import MAX_IMAGE_BYTES, Attachment, Image, Part, Text, sniff_image, split_data_url


def part_from(part: Any, place: str) -> Part:
    """A part of a message.

    Args:
        part: A `Part`, or a dict of OpenAI's or transformers' form.
        place: How an error names it.

    Raises:
        InvalidRequest: It is malformed, or holds a key that nobody would look at.
    """
    if isinstance(part, Part):
        _check_part(part, place)
        return part
    if not isinstance(part, Mapping):
        fail(place, f"must be a dict with a 'type', not {type(part).__name__}")
    if "type" not in part:
        fail(place, "has no 'type'; write {'type': 'text', 'text': …} or {'type': 'image', 'image': …}")
    kind = part["type"]
    reader = _PARTS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        fail(place, f"type {kind!r} is unknown; it must be one of {', '.join(sorted(_PARTS))}")
    _check_keys(part, _PART_KEYS[kind], place)
    result, control = reader(part, place), part.get("cache_control")
    if control is None:
        return result
    _check_control(control, place)
    return replace(result, cache_control=dict(control))


def _check_keys(given: Mapping[str, Any], known: set[str], place: str) -> None:
    for key, value in given.items():
        if key not in known and value is not None:
            fail(place, f"unknown key {key!r}; there are {', '.join(sorted(known))}")


def _check_control(control: Any, place: str) -> None:
    if not isinstance(control, Mapping) or control.get("type") != "ephemeral":
        fail(f"{place}['cache_control']", f"must be {{'type': 'ephemeral'}}, not {control!r}")
    if control.get("ttl") not in _CACHE_TIMES:
        fail(f"{place}['cache_control']['ttl']", f"must be '5m' or '1h', not {control['ttl']!r}")


def _check_part(part: Part, place: str) -> None:
    """Looks at a part that a caller has made."""
    if part.cache_control is not None:
        _check_control(part.cache_control, place)
    if isinstance(part, Text):
        kinds: dict[str, Any] = {"text": str}
    elif isinstance(part, Image):
        kinds = {"data": bytes, "media_type": str} if part.url is None else {"url": str}
        kinds["detail"] = str | None
    else:
        kinds = {"data": bytes, "format": str, "name": str | None}
    for name, kind in kinds.items():
        if not isinstance(value := getattr(part, name), kind):
            wanted = getattr(kind, "__name__", "str")
            fail(place, f"{type(part).__name__}'s {name!r} must be {wanted}, not {type(value).__name__}")


def _text(part: Mapping[str, Any], place: str) -> Part:
    if not isinstance(part.get("text"), str):
        fail(f"{place}['text']", f"must be a string, not {type(part.get('text')).__name__}")
    return Text(part["text"])


def _image(part: Mapping[str, Any], place: str) -> Part:
    key = next((k for k in ("image", "image_url", "url", "path", "base64", "data") if part.get(k) is not None), None)
    if key is None:
        fail(place, "holds no image; give 'image' (a PIL image, bytes or a path), 'url', 'path' or 'base64'")
    value: Any = part[key]
    detail, place = part.get("detail"), f"{place}[{key!r}]"
    if key == "image_url" and isinstance(value, Mapping):
        _check_keys(value, {"url", "detail"}, place)
        value, detail = value.get("url"), value.get("detail")
    if not isinstance(detail, str | None):
        fail(place, f"'detail' must be a string, not {type(detail).__name__}")
    if key == "base64" and isinstance(value, str):
        value = f"data:{part.get('media_type') or 'image/png'};base64,{value}"
    # A URL often comes from elsewhere (a page, a user of the caller's), who must not thereby read files here.
    return image_from(value, place, detail, files=key in ("image", "path"))


def image_from(value: Any, place: str = "image", detail: str | None = None, *, files: bool = True) -> Image:
    """An image from what callers have.

    Args:
        value: A PIL image, bytes, a path, an http(s) or `data:` URL.
        place: How an error names it.
        detail: OpenAI's `low`, `high` or `auto`.
        files: Whether a string may be a path.

    Raises:
        InvalidRequest: There is no such file, or it is no image.
    """
    if isinstance(value, str) and (url := _URL.match(value)):
        scheme = url[1].lower()
        if scheme != "data":
            return Image(url=scheme + value[url.end(1) :], detail=detail)
        try:
            value = split_data_url(scheme + value[url.end(1) :])[1]
        except ValueError as error:
            fail(place, str(error))
    elif isinstance(value, str) and (not files or "://" in value):
        hint = f", not {url_start(value)!r}" if "://" in value else "; a file goes under 'path'"
        fail(place, f"must be an http, https or data URL{hint}")
    elif isinstance(value, (str, os.PathLike)):
        value = _read(value, place)
    elif hasattr(value, "save"):  # a PIL image
        buffer = io.BytesIO()
        try:
            (value if value.mode in ("RGB", "RGBA", "L", "1", "P") else value.convert("RGB")).save(buffer, "PNG")
        except Exception as error:  # PIL reads a file only now, and raises what it likes for a broken one.
            fail(place, f"the {type(value).__name__} can't be written as PNG: {error}")
        value = buffer.getvalue()
    if not isinstance(value, (bytes, bytearray)):
        fail(place, f"must be a PIL image, bytes, a path or a URL, not {type(value).__name__}")
    media_type = sniff_image(bytes(value[:16]))
    if media_type is None:
        fail(place, "is no PNG, JPEG, GIF, WebP or BMP")
    return Image(bytes(value), media_type, detail=detail)


def _read(path: str | os.PathLike[Any], place: str) -> bytes:
    shown = repr(str(path)[:200])
    try:
        path = os.path.expanduser(path)
        if not stat.S_ISREG(os.stat(path).st_mode):  # looked at before it is opened: a pipe would wait for a writer
            fail(place, f"the image file {shown} is no regular file")
        with open(path, "rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        fail(place, f"the image file {shown} can't be read: {getattr(error, 'strerror', None) or error}")
    if len(data) > MAX_IMAGE_BYTES:
        fail(place, f"the image file {shown} is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    return data


def _audio(part: Mapping[str, Any], place: str) -> Part:
    inner = part.get("input_audio")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("data"), str):
        fail(place, "write {'type': 'input_audio', 'input_audio': {'data': <base64>, 'format': 'wav'}}")
    _check_keys(inner, {"data", "format"}, f"{place}['input_audio']")
    if not isinstance(kind := inner.get("format", "wav"), str):
        fail(place, f"'format' must be a string such as 'wav', not {type(kind).__name__}")
    return Attachment("audio", _decoded(f"data:audio/{kind};base64,{inner['data']}", place)[1], kind)


def _file(part: Mapping[str, Any], place: str) -> Part:
    inner = part.get("file")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("file_data"), str):
        fail(place, "write {'type': 'file', 'file': {'filename': …, 'file_data': 'data:application/pdf;base64,…'}}")
    _check_keys(inner, {"file_data", "filename"}, f"{place}['file']")
    if not isinstance(name := inner.get("filename"), str | None):
        fail(place, f"'filename' must be a string, not {type(name).__name__}")
    media_type, data = _decoded(inner["file_data"], place)
    return Attachment("file", data, media_type, name)


def _decoded(url: str, place: str) -> tuple[str, bytes]:
    try:
        return split_data_url(url)
    except ValueError as error:
        fail(place, str(error))


#: URLs that images have: with a host, or with the image itself.
_URL = re.compile(r"(https?(?=://[^/?#])|data(?=:))", re.I)
_PARTS: dict[str, Callable[[Mapping[str, Any], str], Part]] = {
    "text": _text, "image": _image, "image_url": _image, "input_audio": _audio, "file": _file,
}  # fmt: skip
_IMAGE_KEYS = {
    "type", "image", "image_url", "url", "path", "base64", "data", "media_type", "detail", "cache_control",
}  # fmt: skip
_PART_KEYS = {
    "text": {"type", "text", "cache_control"},
    "image": _IMAGE_KEYS,
    "image_url": _IMAGE_KEYS,
    "input_audio": {"type", "input_audio", "cache_control"},
    "file": {"type", "file", "cache_control"},
}
_CACHE_TIMES = (None, "5m", "1h")


def fail(place: str, problem: str) -> Never:
    """Refuses what stands at a place.

    Raises:
        InvalidRequest: Always.
    """
    raise InvalidRequest(f"{place}: {problem}")
