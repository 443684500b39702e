"""The parts a message can be made of: text, images, audio and files."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from modelport.secrets import Url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    CacheControl = Mapping[str, Any]

#: Bytes of one image that is read from a file or fetched.
MAX_IMAGE_BYTES = 20 * 2**20

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def sniff_image(data: bytes) -> str | None:
    """The media type of an image's bytes, or `None` where they are no image that models take."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in _MAGIC if data.startswith(magic)), None)


def split_data_url(url: str) -> tuple[str, bytes]:
    """The media type and the bytes of a base64 `data:` URL.

    Raises:
        ValueError: It is no such URL.
    """
    head, comma, payload = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise ValueError("a data URL looks like 'data:image/png;base64,…'")
    try:
        return head[len("data:") : -len(";base64")], base64.b64decode(payload, validate=True)
    except ValueError as error:  # binascii.Error is one; another is for what is not ASCII
        raise ValueError(f"the data URL's payload is not base64: {error}") from None


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text.

    Args:
        text: The text.
        cache_control: A wish to cache the prompt up to here, `{"type": "ephemeral"}` with perhaps a `ttl` of `5m` or
            `1h`, for services that want to be asked. See
            https://docs.claude.com/en/docs/build-with-claude/prompt-caching
    """

    text: str
    cache_control: CacheControl | None = None

    kind = "text"

    def to_dict(self) -> dict[str, Any]:
        """The part in OpenAI's form."""
        return _with_cache({"type": "text", "text": self.text}, self.cache_control)


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """An image, as bytes or as the URL where the service finds it.

    Args:
        data: The file's bytes (PNG, JPEG, GIF, WebP or BMP).
        media_type: Such as `image/png`.
        url: An http(s) URL; `None` where `data` is given.
        detail: OpenAI's `low`, `high` or `auto`.
        cache_control: See `Text`.
    """

    data: bytes | None = None
    media_type: str | None = None
    url: str | None = None
    detail: str | None = None
    cache_control: CacheControl | None = None

    kind = "image"

    def __post_init__(self) -> None:
        if isinstance(self.url, str):  # which the bodies that are made of it, and the locals around them, then hide
            object.__setattr__(self, "url", Url(self.url))

    def as_url(self) -> str:
        """The URL, or the bytes as a `data:` URL."""
        if self.data is None:
            return self.url or ""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"

    def to_dict(self) -> dict[str, Any]:
        """The part in OpenAI's form."""
        image_url = {"url": self.as_url()}
        if self.detail:
            image_url["detail"] = self.detail
        return _with_cache({"type": "image_url", "image_url": image_url}, self.cache_control)

    def __repr__(self) -> str:
        # Neither a megabyte of bytes nor a signed URL belongs in a log.
        return f"Image({self.media_type or 'by URL'}{f', {len(self.data)} bytes' if self.data else ''})"


@dataclass(frozen=True, slots=True, repr=False)
class Attachment:
    """Audio or a document, as bytes.

    Args:
        kind: `audio` or `file`.
        data: The bytes.
        format: For audio `wav` or `mp3`; for a file its media type, such as `application/pdf`.
        name: The file's name, if it has one.
        cache_control: See `Text`.
    """

    kind: Literal["audio", "file"]
    data: bytes
    format: str
    name: str | None = None
    cache_control: CacheControl | None = None

    def to_dict(self) -> dict[str, Any]:
        """The part in OpenAI's form."""
        encoded = base64.b64encode(self.data).decode()
        if self.kind == "audio":
            audio = {"type": "input_audio", "input_audio": {"data": encoded, "format": self.format}}
            return _with_cache(audio, self.cache_control)
        file = {"filename": self.name or "file", "file_data": f"data:{self.format};base64,{encoded}"}
        return _with_cache({"type": "file", "file": file}, self.cache_control)

    def __repr__(self) -> str:
        return f"Attachment({self.kind}, {self.format}, {len(self.data)} bytes)"


Part = Text | Image | Attachment


def _with_cache(part: dict[str, Any], control: CacheControl | None) -> dict[str, Any]:
    return part if control is None else {**part, "cache_control": dict(control)}


def text_of(content: str | Sequence[Any] | None) -> str:
    """The text of a message's content, other parts left out; parts may be `Part`s or dicts."""
    if isinstance(content, str):
        return content
    texts = (p.get("text") if isinstance(p, dict) else getattr(p, "text", None) for p in content or ())
    return "\n".join(t for t in texts if isinstance(t, str))


def repr_without_urls(message: Any) -> str:
    """The `repr` of a message, whose parts show no more of their URLs than the host: they may be signed."""
    shown = {item.name: getattr(message, item.name) for item in fields(message) if item.repr}
    if not isinstance(shown["content"], str):
        shown["content"] = _without_urls(shown["content"], 3)  # a list of parts, which are dicts, which hold a dict
    return f"{type(message).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def _without_urls(content: Any, depth: int) -> Any:
    if isinstance(content, str):
        return Url(content) if "://" in content or content[:5].lower() == "data:" else content
    if isinstance(content, dict) and depth:
        return {key: value if key == "text" else _without_urls(value, depth - 1) for key, value in content.items()}
    if isinstance(content, (list, tuple)) and depth:
        shown = [_without_urls(part, depth - 1) for part in content]
        return tuple(shown) if isinstance(content, tuple) else shown
    return content
