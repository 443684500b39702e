"""Media in responses of every wire format: a warning names them, and `raw` has them, streamed and not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.protocols.converse.request import ConverseCall
from modelport.protocols.converse.response import ConverseResponseReader
from modelport.protocols.responses.response import ResponsesReader
from modelport.types.deltas import ChatMessageStreamDelta, accumulate

#: The data of a medium, which must be found in `raw`.
DATA = "UklGRg=="


def chat(text: str, medium: dict[str, Any], streamed: bool) -> list[ChatMessageStreamDelta]:
    reader = ChatResponseReader(split_reasoning=True)
    if not streamed:
        message = {"content": text, **medium}
        return [reader.read_response({"choices": [{"message": message, "finish_reason": "stop"}]})]
    deltas: list[dict[str, Any]] = [{"content": text}, medium]
    chunks: list[Any] = [{"choices": [{"delta": delta}]} for delta in deltas]
    return events(reader, [*chunks, {"choices": [{"delta": {}, "finish_reason": "stop"}]}])


def responses(text: str, item: dict[str, Any], streamed: bool) -> list[ChatMessageStreamDelta]:
    reader = ResponsesReader(error_from)
    part = {"type": "message", "id": "m", "content": [{"type": "output_text", "text": text}]}
    output = [part, item] if "output_index" not in item else [part]
    if not streamed:
        return [reader.read_response({"status": "completed", "output": output})]
    done = [{"type": "response.output_item.done", "output_index": i, "item": one} for i, one in enumerate(output)]
    pieces = [item] if "output_index" in item else []
    return events(reader, [*done, *pieces, {"type": "response.completed", "response": {"status": "completed"}}])


def converse(text: str, block: dict[str, Any], streamed: bool) -> list[ChatMessageStreamDelta]:
    reader = ConverseResponseReader(ConverseCall({}, allows_tool_calls=True))
    if not streamed:
        content = [{"text": text}, block]
        return [reader.read_response({"output": {"message": {"content": content}}, "stopReason": "end_turn"})]
    parts = enumerate([{"text": text}, block])
    deltas = [{"contentBlockDelta": {"contentBlockIndex": i, "delta": part}} for i, part in parts]
    return events(reader, [*deltas, {"messageStop": {"stopReason": "end_turn"}}], read="read_event")


def events(reader: Any, chunks: Iterable[Any], read: str = "read_chunk") -> list[ChatMessageStreamDelta]:
    return [*filter(None, map(getattr(reader, read), chunks)), reader.finish()]


URL = {"url": f"data:image/png;base64,{DATA}"}
IMAGE = {"type": "image_url", "image_url": URL}
CASES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("audio", chat, {"audio": {"id": "a", "data": DATA}}, "audio"),
    ("images beside the content", chat, {"images": [IMAGE]}, "images"),
    ("content parts", chat, {"content": [{"type": "text", "text": ""}, IMAGE]}, "images"),
    ("generated image", responses, {"type": "image_generation_call", "id": "i", "result": DATA}, "images"),
    ("image of the interpreter", responses,
     {"type": "code_interpreter_call", "id": "i", "outputs": [{"type": "image", "url": DATA}]}, "images"),
    ("audio part", responses, {"type": "message", "id": "n", "content": [{"type": "output_audio", "data": DATA}]},
     "audio"),
    ("image block", converse, {"image": {"format": "png", "source": {"bytes": DATA}}}, "images"),
    ("document block", converse, {"document": {"name": "a", "source": {"bytes": DATA}}}, "files"),
    ("video block", converse, {"video": {"format": "mp4", "source": {"bytes": DATA}}}, "video"),
    ("audio block", converse, {"audio": {"format": "mp3", "source": {"bytes": DATA}}}, "audio"),
]  # fmt: skip


@pytest.mark.parametrize("text", ["", "See:"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("read", "medium", "kind"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_warning_names_media_and_raw_has_them(
    read: Any, medium: dict[str, Any], kind: str, text: str, streamed: bool
) -> None:
    deltas = read("" if medium.get("content") and read is chat else text, medium, streamed)
    message = accumulate(deltas)
    assert [(warning.type, warning.feature) for warning in message.warnings] == [("discarded", kind)]
    assert kind in message.warnings[0].text
    found = [delta.raw for delta in deltas] if streamed else [message.raw]
    assert DATA in str(found)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"type": "response.image_generation_call.partial_image", "partial_image_b64": DATA}, "images"),
        ({"type": "response.audio.delta", "delta": DATA}, "audio"),
        ({"type": "response.output_audio.delta", "delta": DATA}, "audio"),
    ],
)
def test_pieces_of_media_in_events_are_named_too(event: dict[str, Any], kind: str) -> None:
    deltas = responses("", {**event, "output_index": 1}, streamed=True)
    assert [warning.feature for warning in accumulate(deltas).warnings] == [kind]
    assert DATA in str([delta.raw for delta in deltas])


def test_generated_image_is_sent_back_as_provider_data() -> None:
    item = {"type": "image_generation_call", "id": "i", "result": DATA}
    message = accumulate(responses("", item, streamed=True))
    assert message.provider_data is not None and item in message.provider_data.items
