"""Prompts with images: what a processor makes of them, and which tokens they are."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest, MissingDependency
from modelport.local.token_model import Prompt
from modelport.types.content import Image

if TYPE_CHECKING:
    from modelport.local.transformers.loading import LoadedModel

_lock = threading.Lock()  # processors keep state


def prompt_with_images(loaded: LoadedModel, text: str, images: list[Image]) -> Prompt:
    """The prompt of a conversation with images.

    Its `inputs` hold what the processor made, and for the engine `keys` (a number for each token, where an image's
    tokens are numbers of its pixels) and `span` (from where to where images lie).

    Raises:
        InvalidRequest: An image can't be read, or the processor refuses.
    """
    pictures = [_opened(image) for image in images]
    with _lock:
        try:
            made = dict(loaded.processor(text=[text], images=pictures, return_tensors="pt", add_special_tokens=False))
        except Exception as error:  # Processors raise what they like.
            raise InvalidRequest(f"the model's processor refuses the images: {error}") from None
    tokens = made.pop("input_ids")[0].tolist()
    made.pop("attention_mask", None)
    marks = _image_tokens(loaded)
    places = [i for i, token in enumerate(tokens) if token in marks]
    span = (places[0], places[-1] + 1) if places else (0, len(tokens))
    inputs: dict[str, Any] = {name: _on(value, loaded.device) for name, value in made.items()}
    inputs["keys"] = _keys(tokens, places, images)
    inputs["span"] = span
    return Prompt(tokens, inputs)


def _on(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


def _opened(image: Image) -> Any:
    try:
        from PIL import Image as pillow
    except ImportError:
        raise MissingDependency("pillow", "transformers") from None
    try:
        return pillow.open(io.BytesIO(image.data or b"")).convert("RGB")
    except Exception as error:  # Pillow raises many kinds.
        raise InvalidRequest(f"an image can't be read: {error}") from None


def _image_tokens(loaded: LoadedModel) -> set[int]:
    """The ids that stand for images in a prompt."""
    config = loaded.model.config
    names = ("image_token_id", "image_token_index", "boi_token_id", "vision_start_token_id")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}


def _keys(tokens: list[int], places: list[int], images: list[Image]) -> list[int]:
    """The tokens, with those of images as numbers that no id and no other set of images has.

    All images of a prompt count for each of its image tokens up to the last that has begun there: a conversation that
    goes on keeps its numbers, and one picture never answers for another.
    """
    runs = [i for n, i in enumerate(places) if n == 0 or places[n - 1] != i - 1]
    keys = list(tokens)
    whole = hashlib.sha256()
    hashes = []
    for image in images:
        whole.update(hashlib.sha256(image.data or b"").digest())
        hashes.append(-1 - (int.from_bytes(whole.digest()[:7], "big")))
    run = -1
    for place in places:
        if place in runs:
            run += 1
        # Where runs and images do not pair, the last image's number stands for all of them.
        keys[place] = hashes[run] if len(runs) == len(images) else hashes[-1]
    return keys
