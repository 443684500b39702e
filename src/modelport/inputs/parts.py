"""Converts the content parts that callers write (text, images, audio, files) to `Part`s.

In this module, `path` is the path of a value in the caller's messages, such as `messages[2]['content'][0]['image']`.
Every error names it. The path of a file is `file_path`.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Never

from modelport.errors import InvalidRequest
from modelport.schema.json_text import excerpt
from modelport.secrets import redact_url
from modelport.types.content import MAX_IMAGE_BYTES, Attachment, Image, Part, Text, sniff_image, split_data_url


def part_from(part: Any, path: str) -> Part:
    """Return the `Part` that a caller's content part describes.

    Args:
        part: A `Part`, or a dict in the format of OpenAI or transformers.
        path: The path of the part in the caller's messages, for error messages.

    Raises:
        InvalidRequest: The part is malformed, or has an unknown key.
    """
    if isinstance(part, Part):
        _check_part(part, path)
        return part
    if not isinstance(part, Mapping):
        refuse(path, f"must be a dict with a 'type', not {type(part).__name__}")
    if "type" not in part:
        refuse(path, "has no 'type'; write {'type': 'text', 'text': …} or {'type': 'image', 'image': …}")
    kind = part["type"]
    read_part = _PART_READERS.get(kind) if isinstance(kind, str) else None
    if read_part is None:
        refuse(path, f"type {excerpt(kind)} is unknown; it must be one of {', '.join(sorted(_PART_READERS))}")
    _check_keys(part, _PART_KEYS[kind], path)
    result, cache_control = read_part(part, path), part.get("cache_control")
    if cache_control is None:
        return result
    _check_cache_control(cache_control, path)
    return replace(result, cache_control=dict(cache_control))


def _check_keys(given: Mapping[str, Any], known: set[str], path: str) -> None:
    for key, value in given.items():
        if key not in known and value is not None:
            refuse(path, f"unknown key {excerpt(key)}; known are {', '.join(sorted(known))}")


def _check_cache_control(cache_control: Any, path: str) -> None:
    if not isinstance(cache_control, Mapping) or cache_control.get("type") != "ephemeral":
        refuse(f"{path}['cache_control']", f"must be {{'type': 'ephemeral'}}, not {excerpt(cache_control)}")
    if cache_control.get("ttl") not in _CACHE_TTLS:
        refuse(f"{path}['cache_control']['ttl']", f"must be '5m' or '1h', not {excerpt(cache_control['ttl'])}")


def _check_part(part: Part, path: str) -> None:
    """Check the types of the fields of a `Part` that a caller made, because dataclasses don't check them."""
    if part.cache_control is not None:
        _check_cache_control(part.cache_control, path)
    if isinstance(part, Text):
        types: dict[str, Any] = {"text": str}
    elif isinstance(part, Image):
        types = {"data": bytes, "media_type": str} if part.url is None else {"url": str}
        types["detail"] = str | None
    else:
        types = {"data": bytes, "format": str, "name": str | None}
    for name, expected in types.items():
        if not isinstance(value := getattr(part, name), expected):
            type_name = getattr(expected, "__name__", "str")
            refuse(path, f"{type(part).__name__}'s {name!r} must be {type_name}, not {type(value).__name__}")


def _read_text(part: Mapping[str, Any], path: str) -> Part:
    if not isinstance(part.get("text"), str):
        refuse(f"{path}['text']", f"must be a string, not {type(part.get('text')).__name__}")
    return Text(part["text"])


def _read_image(part: Mapping[str, Any], path: str) -> Part:
    key = next((k for k in ("image", "image_url", "url", "path", "base64", "data") if part.get(k) is not None), None)
    if key is None:
        refuse(path, "holds no image; give 'image' (a PIL image, bytes or a path), 'url', 'path' or 'base64'")
    value: Any = part[key]
    detail, path = part.get("detail"), f"{path}[{key!r}]"
    if key == "image_url" and isinstance(value, Mapping):
        _check_keys(value, {"url", "detail"}, path)
        value, detail = value.get("url"), value.get("detail")
    if not isinstance(detail, str | None):
        refuse(path, f"'detail' must be a string, not {type(detail).__name__}")
    if key == "base64" and isinstance(value, str):
        value = f"data:{part.get('media_type') or 'image/png'};base64,{value}"
    # A string may be a file path only under the keys `image` and `path`. The values of the other keys are often URLs
    # from untrusted sources, such as web pages, and a path in place of a URL could name any file of this machine.
    return image_from(value, path, detail, allow_files=key in ("image", "path"))


def image_from(value: Any, path: str = "image", detail: str | None = None, *, allow_files: bool = True) -> Image:
    """Return an `Image` from a caller's image.

    Args:
        value: A PIL image, bytes, a file path, an http(s) URL or a `data:` URL.
        path: The path of the value in the caller's messages, for error messages.
        detail: The resolution at which the model sees the image (`Image.detail`).
        allow_files: Whether a string may be a file path.

    Raises:
        InvalidRequest: The file can't be read, or the value is not an image in a supported format.
    """
    if isinstance(value, str) and (url := _URL.match(value)):
        scheme = url[1].lower()
        if scheme != "data":
            return Image(url=scheme + value[url.end(1) :], detail=detail)
        try:
            value = split_data_url(scheme + value[url.end(1) :])[1]
        except ValueError as error:
            refuse(path, str(error))
    elif isinstance(value, str) and (not allow_files or "://" in value):
        hint = f", not {redact_url(value)!r}" if "://" in value else "; give a file under 'path'"
        refuse(path, f"must be an http, https or data URL{hint}")
    elif isinstance(value, (str, os.PathLike)):
        value = _read_file(value, path)
    elif hasattr(value, "save"):  # This is a PIL image.
        buffer = io.BytesIO()
        try:
            (value if value.mode in ("RGB", "RGBA", "L", "1", "P") else value.convert("RGB")).save(buffer, "PNG")
        except Exception as error:  # `save` reads the file of the image. A broken file raises many types of exceptions.
            refuse(path, f"the {type(value).__name__} can't be written as PNG: {error}")
        value = buffer.getvalue()
    if not isinstance(value, (bytes, bytearray)):
        refuse(path, f"must be a PIL image, bytes, a path or a URL, not {type(value).__name__}")
    media_type = sniff_image(bytes(value[:16]))
    if media_type is None:
        refuse(path, "is not a PNG, JPEG, GIF, WebP or BMP image")
    return Image(bytes(value), media_type, detail=detail)


def _read_file(file_path: str | os.PathLike[Any], path: str) -> bytes:
    quoted = repr(str(file_path)[:200])
    try:
        file_path = os.path.expanduser(file_path)
        # This check comes before `open`, because opening a named pipe would block until another process writes to it.
        if not stat.S_ISREG(os.stat(file_path).st_mode):
            refuse(path, f"the image file {quoted} is not a regular file")
        with open(file_path, "rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:
        refuse(path, f"the image file {quoted} can't be read: {getattr(error, 'strerror', None) or error}")
    if len(data) > MAX_IMAGE_BYTES:
        refuse(path, f"the image file {quoted} is larger than {MAX_IMAGE_BYTES // 2**20} MiB")
    return data


def _read_audio(part: Mapping[str, Any], path: str) -> Part:
    inner = part.get("input_audio")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("data"), str):
        refuse(path, "write {'type': 'input_audio', 'input_audio': {'data': <base64>, 'format': 'wav'}}")
    _check_keys(inner, {"data", "format"}, f"{path}['input_audio']")
    if not isinstance(audio_format := inner.get("format", "wav"), str):
        refuse(path, f"'format' must be a string such as 'wav', not {type(audio_format).__name__}")
    _, data = _decode_data_url(f"data:audio/{audio_format};base64,{inner['data']}", path)
    return Attachment("audio", data, audio_format)


def _read_document(part: Mapping[str, Any], path: str) -> Part:
    inner = part.get("file")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("file_data"), str):
        refuse(path, "write {'type': 'file', 'file': {'filename': …, 'file_data': 'data:application/pdf;base64,…'}}")
    _check_keys(inner, {"file_data", "filename"}, f"{path}['file']")
    if not isinstance(name := inner.get("filename"), str | None):
        refuse(path, f"'filename' must be a string, not {type(name).__name__}")
    media_type, data = _decode_data_url(inner["file_data"], path)
    return Attachment("file", data, media_type, name)


def _decode_data_url(url: str, path: str) -> tuple[str, bytes]:
    try:
        return split_data_url(url)
    except ValueError as error:
        refuse(path, str(error))


#: Matches the scheme of a URL that an image can have: an http(s) URL with a host, or a `data:` URL.
_URL = re.compile(r"(https?(?=://[^/?#])|data(?=:))", re.I)
_PART_READERS: dict[str, Callable[[Mapping[str, Any], str], Part]] = {
    "text": _read_text, "image": _read_image, "image_url": _read_image, "input_audio": _read_audio,
    "file": _read_document,
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
_CACHE_TTLS = (None, "5m", "1h")


def refuse(path: str, problem: str) -> Never:
    """Refuse the value at a path of the caller's messages.

    Raises:
        InvalidRequest: Always.
    """
    raise InvalidRequest(f"{path}: {problem}")
