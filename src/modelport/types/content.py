"""The parts of a message's content: text, images, audio and files, and their dicts in the chat completions format."""

from __future__ import annotations

import base64
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from modelport.secrets import Url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    CacheControl = Mapping[str, Any]

#: The largest image, in bytes, that is read from a file or fetched.
MAX_IMAGE_BYTES = 20 * 2**20

_IMAGE_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


def sniff_image(data: bytes) -> str | None:
    """Return the media type of an image's bytes, or `None` if they are not an image in a supported format."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in _IMAGE_SIGNATURES if data.startswith(signature)), None)


def split_data_url(url: str) -> tuple[str, bytes]:
    """Return the media type and the bytes of a base64 `data:` URL.

    Raises:
        ValueError: `url` is not a base64 `data:` URL.
    """
    head, comma, payload = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise ValueError("a data URL looks like 'data:image/png;base64,…'")
    try:
        return head[len("data:") : -len(";base64")], base64.b64decode(payload, validate=True)
    except ValueError as error:  # `binascii.Error` is a `ValueError` too.
        raise ValueError(f"the data URL's payload is not base64: {error}") from None


@dataclass(frozen=True, slots=True)
class Text:
    """A text part.

    Args:
        text: The text.
        cache_control: `{"type": "ephemeral"}` asks the service to cache the prompt up to and including this part; a
            `ttl` of `5m` or `1h` may be added. Some services cache nothing without `cache_control`; others ignore it.
            See https://docs.claude.com/en/docs/build-with-claude/prompt-caching
    """

    text: str
    cache_control: CacheControl | None = None

    kind = "text"

    def to_dict(self) -> dict[str, Any]:
        """Return the part as a dict in the chat completions format."""
        return _with_cache_control({"type": "text", "text": self.text}, self.cache_control)


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """An image, as bytes or as a URL from which the service fetches it.

    Args:
        data: The file's bytes (PNG, JPEG, GIF, WebP or BMP).
        media_type: The media type of `data`, such as `image/png`.
        url: An http(s) URL; `None` if `data` is given.
        detail: The resolution at which the model sees the image: `low`, `high` or `auto`.
        cache_control: See `Text`.
    """

    data: bytes | None = None
    media_type: str | None = None
    url: str | None = None
    detail: str | None = None
    cache_control: CacheControl | None = None

    kind = "image"

    def __post_init__(self) -> None:
        # The query of a URL may be a signature that grants access. The `repr` of a `Url` does not show it, so it does
        # not appear in logs of request bodies, nor in tracebacks that show local variables.
        if isinstance(self.url, str):
            object.__setattr__(self, "url", Url(self.url))

    def as_url(self) -> str:
        """Return the URL, or the bytes as a `data:` URL."""
        if self.data is None:
            return self.url or ""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"

    def to_dict(self) -> dict[str, Any]:
        """Return the part as a dict in the chat completions format."""
        image_url = {"url": self.as_url()}
        if self.detail:
            image_url["detail"] = self.detail
        return _with_cache_control({"type": "image_url", "image_url": image_url}, self.cache_control)

    def __repr__(self) -> str:
        # The repr appears in logs: it shows neither the bytes nor the URL, which may be signed.
        return f"Image({self.media_type or 'by URL'}{f', {len(self.data)} bytes' if self.data else ''})"


@dataclass(frozen=True, slots=True, repr=False)
class Attachment:
    """Audio or a document, as bytes.

    Args:
        kind: `audio` or `file`.
        data: The bytes.
        format: For audio, `wav` or `mp3`; for a file, its media type, such as `application/pdf`.
        name: The name of a file, if known.
        cache_control: See `Text`.
    """

    kind: Literal["audio", "file"]
    data: bytes
    format: str
    name: str | None = None
    cache_control: CacheControl | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the part as a dict in the chat completions format."""
        encoded = base64.b64encode(self.data).decode()
        if self.kind == "audio":
            audio = {"type": "input_audio", "input_audio": {"data": encoded, "format": self.format}}
            return _with_cache_control(audio, self.cache_control)
        file = {"filename": self.name or "file", "file_data": f"data:{self.format};base64,{encoded}"}
        return _with_cache_control({"type": "file", "file": file}, self.cache_control)

    def __repr__(self) -> str:
        return f"Attachment({self.kind}, {self.format}, {len(self.data)} bytes)"


Part = Text | Image | Attachment


def _with_cache_control(part: dict[str, Any], cache_control: CacheControl | None) -> dict[str, Any]:
    return part if cache_control is None else {**part, "cache_control": dict(cache_control)}


def text_of(content: str | Sequence[Any] | None) -> str:
    """Return the text of a message's content: the text parts, joined by newlines. Parts may be `Part`s or dicts."""
    if isinstance(content, str):
        return content
    texts = (part.get("text") if isinstance(part, dict) else getattr(part, "text", None) for part in content or ())
    return "\n".join(text for text in texts if isinstance(text, str))


def repr_with_urls_hidden(message: Any) -> str:
    """Return the `repr` of a message with each URL in its content shortened to scheme and host.

    The rest of a URL may be a signature that grants access.
    """
    values = {item.name: getattr(message, item.name) for item in fields(message) if item.repr}
    if not isinstance(values["content"], str):
        # A URL is at most three levels deep: in a dict, which is in a part, which is in the list of parts.
        values["content"] = _with_short_urls(values["content"], 3)
    return f"{type(message).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"


def _with_short_urls(content: Any, depth: int) -> Any:
    """Return the content with each URL as a `Url`, whose `repr` shows only scheme and host.

    Args:
        content: A message's content, or a value in it.
        depth: How many levels of lists and dicts are searched.
    """
    if isinstance(content, str):
        return Url(content) if "://" in content or content[:5].lower() == "data:" else content
    if isinstance(content, dict) and depth:
        return {key: value if key == "text" else _with_short_urls(value, depth - 1) for key, value in content.items()}
    if isinstance(content, (list, tuple)) and depth:
        parts = [_with_short_urls(part, depth - 1) for part in content]
        return tuple(parts) if isinstance(content, tuple) else parts
    return content
