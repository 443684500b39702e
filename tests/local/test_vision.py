"""Images on `TransformersModel`, with a tiny model: its random weights make the output depend on the pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.servers.smollm2 import smollm2_folder

from modelport import InvalidRequest, TransformersModel, UnsupportedFeature

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("transformers"), pytest.mark.timeout(120)]
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LENGTH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Llava model with two layers and SmolLM2's tokenizer."""
    from transformers import (
        AutoTokenizer,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**small, image_size=28, patch_size=14),
            # With such large weights, the output depends on each earlier token.
            text_config=LlamaConfig(**small, num_key_value_heads=2, vocab_size=len(tokenizer), initializer_range=0.5),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
        )
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[TransformersModel]:
    with TransformersModel(folder, context_length=512, temperature=0, max_tokens=LENGTH, ignore_eos=True) as model:
        yield model


def picture(*colour: int) -> bytes:
    """A PNG of one colour."""
    made = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(made, "PNG")
    return made.getvalue()


RED, BLUE, GREEN = picture(255, 0, 0), picture(0, 0, 255), picture(0, 255, 0)


def about(*images: bytes, text: str = "What is this?") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [*({"type": "image", "image": i} for i in images), {"type": "text", "text": text}]}
    ]


def test_outputs_for_two_images_differ_and_equal_those_of_the_library(model: TransformersModel, folder: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    plain, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    outputs = []
    for image in (RED, BLUE):
        text = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
            add_generation_prompt=True,
        )
        inputs = processor(text=[text], images=[Image.open(io.BytesIO(image))], return_tensors="pt")
        ids = plain.generate(**inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False, pad_token_id=0)
        expected = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        outputs.append(model(about(image)).content)
        assert str(outputs[-1]).rstrip("�") == expected.rstrip("�")
    assert outputs[0] != outputs[1]


def test_cached_image_is_never_used_for_another_image(model: TransformersModel, folder: Path) -> None:
    """The keys of a cached prefix contain hashes of the images."""
    with TransformersModel(
        folder, prefix_cache_bytes=0, context_length=512, temperature=0, ignore_eos=True
    ) as uncached:
        model._engine().prefixes.clear()
        conversations = [about(image) for image in (RED, BLUE, GREEN)]
        conversations.append(about(RED, BLUE, text="Compare."))
        conversations.append(about(BLUE, RED, text="Compare."))
        outputs = [model(messages).content for messages in conversations]
        assert outputs == [uncached(messages, max_tokens=LENGTH).content for messages in conversations]
        assert len(set(outputs)) == len(outputs)
        again = model(about(RED))
        assert again.content == outputs[0]
        assert again.token_usage.cached_input_tokens == again.token_usage.input_tokens - 1
        other = model(about(picture(1, 2, 3)))
        assert other.token_usage.cached_input_tokens < 10  # The tokens before the image.


def test_next_turn_with_image_computes_only_new_tokens(model: TransformersModel) -> None:
    messages: list[Any] = about(RED)
    first = model(messages)
    second = model([*messages, first, {"role": "user", "content": "And now?"}])
    assert second.token_usage.cached_input_tokens >= first.token_usage.input_tokens


def test_concurrent_images_and_texts_give_same_outputs_as_serial(model: TransformersModel) -> None:
    conversations: list[Any] = [about(RED), "What is the capital of France?", about(BLUE), about(GREEN, text="Why?")]
    model._engine().prefixes.clear()
    serial = [model(messages).content for messages in conversations]
    model._engine().prefixes.clear()
    with ThreadPoolExecutor(4) as pool:
        assert [message.content for message in pool.map(model, conversations)] == serial


def test_loaded_model_with_processor_gives_same_output(model: TransformersModel) -> None:
    loaded = model._engine()._loaded
    with TransformersModel(
        model=loaded.model, tokenizer=loaded.processor, temperature=0, max_tokens=LENGTH, ignore_eos=True
    ) as same:
        assert same(about(BLUE)).content == model(about(BLUE)).content


def test_broken_image_raises_and_model_still_works(model: TransformersModel) -> None:
    with pytest.raises(InvalidRequest, match="can't be read"):
        model(about(RED[:40]))
    assert model(about(RED)).content


def test_text_model_refuses_image() -> None:
    with TransformersModel(smollm2_folder()) as text, pytest.raises(UnsupportedFeature, match="image"):
        text(about(RED))
