"""Finds audio, images and other media in a message, for which deltas have no field.

A response may consist of media alone. The message then has the transcript of the audio as its text, and a warning names
what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelport.types.warnings import CallWarning

#: The kind of a content part -> how a warning names it.
#: See https://openrouter.ai/docs/features/multimodal/image-generation and
#: https://platform.openai.com/docs/guides/audio#audio-output
_PART_KINDS = {
    "image_url": "images", "image": "images", "output_image": "images",
    "input_audio": "audio", "audio": "audio", "audio_url": "audio", "output_audio": "audio",
    "video": "video", "video_url": "video", "file": "files",
}  # fmt: skip


def media_in(message: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kinds of media that a message, or a fragment of one, has besides its text."""
    for field in ("audio", "images"):
        if message.get(field):
            yield field
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind in _PART_KINDS:
            yield _PART_KINDS[kind]


def transcript_of(message: Mapping[str, Any]) -> str:
    """Return the transcript of a message's audio, or of a fragment of it."""
    audio = message.get("audio")
    transcript = audio.get("transcript") if isinstance(audio, Mapping) else None
    return transcript if isinstance(transcript, str) else ""


def media_warnings(kinds: Iterable[str]) -> list[CallWarning]:
    """Return a warning for each kind of media that the message leaves out."""
    return [
        CallWarning(
            "discarded",
            kind,
            f"The message leaves out the response's {kind}. message.raw has what arrived, unless the call streams.",
        )
        for kind in sorted(kinds)
    ]
