"""Encodes prompts with images: runs the model's processor, and finds which tokens stand for images."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest, MissingDependency
from modelport.local.image_sizes import IMAGE_FORMATS, check_sizes, image_size
from modelport.local.token_engine import Prompt
from modelport.types.content import Image

if TYPE_CHECKING:
    from modelport.local.transformers.loading import LoadedModel

_lock = threading.Lock()  # Processors have mutable state, so threads must not use them at the same time.


def prompt_with_images(loaded: LoadedModel, text: str, images: list[Image]) -> Prompt:
    """Return the prompt of a conversation with images.

    The prompt's `inputs` contain the processor's outputs, and two values for the engine: `fingerprints` are the numbers
    that identify tokens in the prefix cache (see `_fingerprints`); `image_span` is the position of the first image
    token and the position after the last. If no token is known to be an image token, the span is the whole prompt.

    Raises:
        InvalidRequest: An image can't be read or is too large, or the processor refuses it.
    """
    check_sizes(size for image in images if (size := image_size(image.data or b"")) is not None)
    # Pillow may find another size, so that is checked too. `open` reads only headers, and `_decode` the pixels.
    opened = [_open_image(image) for image in images]
    check_sizes(picture.size for picture in opened)
    pictures = [_decode(picture) for picture in opened]
    with _lock:
        try:
            outputs = dict(
                loaded.processor(text=[text], images=pictures, return_tensors="pt", add_special_tokens=False)
            )
        except Exception as error:  # Processors raise exceptions of any kind.
            raise InvalidRequest(f"the model's processor refuses the images: {error}") from None
    tokens = outputs.pop("input_ids")[0].tolist()
    outputs.pop("attention_mask", None)
    image_tokens = _image_tokens(loaded)
    positions = [i for i, token in enumerate(tokens) if token in image_tokens]
    inputs: dict[str, Any] = {name: _on_device(value, loaded.device) for name, value in outputs.items()}
    inputs["fingerprints"] = _fingerprints(tokens, positions, images)
    inputs["image_span"] = (positions[0], positions[-1] + 1) if positions else (0, len(tokens))
    return Prompt(tokens, inputs)


def _on_device(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


def _open_image(image: Image) -> Any:
    try:
        from PIL import Image as pillow
    except ImportError:
        raise MissingDependency("pillow", "transformers") from None
    try:
        return pillow.open(io.BytesIO(image.data or b""), formats=IMAGE_FORMATS)
    except Exception as error:  # Pillow raises exceptions of many kinds.
        raise InvalidRequest(f"an image can't be read: {error}") from None


def _decode(picture: Any) -> Any:
    try:
        return picture.convert("RGB")
    except Exception as error:  # See above.
        raise InvalidRequest(f"an image can't be read: {error}") from None


def _image_tokens(loaded: LoadedModel) -> set[int]:
    """Return the ids of the tokens that stand for images in a prompt."""
    config = loaded.model.config
    names = ("image_token_id", "image_token_index", "boi_token_id", "vision_start_token_id")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}


def _fingerprints(tokens: list[int], positions: list[int], images: list[Image]) -> list[int]:
    """Return the token ids, with those of image tokens replaced by negative hashes of the images.

    So the prefix cache never uses the tokens of one image for another image. The hash covers an image and all images
    before it, so it does not change when the conversation continues with more images.

    Args:
        tokens: The prompt's token ids.
        positions: The positions of the image tokens.
        images: The prompt's images.
    """
    # A run is a sequence of adjacent image tokens, which usually stand for one image.
    run_starts = {i for n, i in enumerate(positions) if n == 0 or positions[n - 1] != i - 1}
    fingerprints = list(tokens)
    images_so_far = hashlib.sha256()
    hashes = []
    for image in images:
        images_so_far.update(hashlib.sha256(image.data or b"").digest())
        hashes.append(-1 - (int.from_bytes(images_so_far.digest()[:7], "big")))
    run = -1
    for position in positions:
        if position in run_starts:
            run += 1
        # If there are more or fewer runs than images, every image token gets the hash of all images.
        fingerprints[position] = hashes[run] if len(run_starts) == len(images) else hashes[-1]
    return fingerprints
