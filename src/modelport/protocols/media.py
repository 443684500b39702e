"""Finds audio, images and other media in a response, for which messages and deltas have no field.

A response may consist of media alone. The message then has the transcript of the audio as its text, and a warning names
what it leaves out. It can be read from `message.raw`, or in a stream from the `raw` of the deltas. The functions are
used by all wire formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from modelport.types.warnings import CallWarning

#: The kind of a content part, or of a block of Converse -> how a warning names it.
#: See https://openrouter.ai/docs/features/multimodal/image-generation,
#: https://platform.openai.com/docs/guides/audio#audio-output and
#: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ContentBlock.html
_PART_KINDS = {
    "image_url": "images", "image": "images", "output_image": "images",
    "input_audio": "audio", "audio": "audio", "audio_url": "audio", "output_audio": "audio",
    "video": "video", "video_url": "video", "file": "files", "document": "files",
}  # fmt: skip
#: The type of an item of the Responses API -> the field with its medium, and how a warning names it.
#: See https://developers.openai.com/api/docs/guides/image-generation
_ITEM_FIELDS = {"image_generation_call": ("result", "images")}
#: The type of an event of the Responses API that has a piece of a medium -> how a warning names it.
#: See https://developers.openai.com/api/reference/resources/responses/streaming-events
MEDIA_EVENTS = {
    "response.image_generation_call.partial_image": "images",
    "response.audio.delta": "audio", "response.output_audio.delta": "audio",
}  # fmt: skip


def kind_of_part(name: str) -> str:
    """Return how a warning names content of this kind."""
    return _PART_KINDS.get(name, name)


def media_in_item(item: Mapping[str, Any]) -> list[str]:
    """Return the kinds of media that an output item of the Responses API has besides its text."""
    field, kind = _ITEM_FIELDS.get(str(item.get("type")), ("", ""))
    # `outputs` are those of the code interpreter; see
    # https://developers.openai.com/api/docs/guides/tools-code-interpreter
    parts = [part for name in ("content", "outputs") for part in item.get(name) or () if isinstance(part, Mapping)]
    kinds = [_PART_KINDS[part["type"]] for part in parts if part.get("type") in _PART_KINDS]
    return [kind, *kinds] if field and item.get(field) else kinds


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
            f"The message leaves out the response's {kind}. message.raw has what arrived; in a stream, the raw of its "
            "deltas has it.",
        )
        for kind in sorted(kinds)
    ]
