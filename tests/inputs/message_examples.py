"""Messages and images that several tests use."""

from __future__ import annotations

import base64
import copy
import io
from types import SimpleNamespace
from typing import Any

from PIL import Image as PILImage

from modelport.inputs.messages import normalise_messages
from modelport.types.content import Image
from modelport.types.messages import ChatMessage


def png(colour: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (2, 2), colour).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
BASE64 = base64.b64encode(PNG).decode()
IMAGE = Image(PNG, "image/png")
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def normalise_one(message: Any, **options: Any) -> ChatMessage:
    """Return the normal form of a message, after checking that `message` is unchanged."""
    before = copy.deepcopy(message)
    (result,) = normalise_messages([message], **options)
    if not isinstance(message, SimpleNamespace):
        assert message == before
    return result
