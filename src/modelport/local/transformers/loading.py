"""Loads a model of the transformers library, with its tokenizer or processor and its settings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from modelport.errors import ConnectionFailed, InvalidRequest, MissingDependency, ModelError, NotFoundError, ServerError
from modelport.inputs.vendor_parameters import parameters_of
from modelport.local.chat_template import ChatTemplate
from modelport.local.special_tokens import SpecialTokens
from modelport.local.template_renderer import renderer_for


@dataclass
class LoadedModel:
    """A loaded model, and what the engine needs to know about it.

    Args:
        model: A causal language model, which may also accept images.
        tokenizer: The model's fast tokenizer.
        processor: Prepares images; `None` if only text is accepted.
        template: The model's chat template.
        context_length: The most tokens of prompt and output in one request.
        eos: The token ids that end an output.
        defaults: The generation settings that the model's authors recommend, by name.
    """

    model: Any
    tokenizer: Any
    processor: Any
    template: ChatTemplate
    context_length: int
    eos: list[int]
    defaults: Mapping[str, Any]

    @property
    def device(self) -> Any:
        """The device of the model's inputs and logits."""
        return self.model.device

    @property
    def vocab_size(self) -> int:
        """How many logits the model computes for a token."""
        return int(self.model.config.get_text_config().vocab_size)


def load(
    model_id: str,
    *,
    model: Any = None,
    tokenizer: Any = None,
    device_map: Any = None,
    dtype: Any = None,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    context_length: int | None = None,
    template_variables: Mapping[str, Any] | None = None,
    progress: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model, or use one that is already loaded. The arguments are those of `TransformersModel`.

    Raises:
        NotFoundError: There is no such model.
        InvalidRequest: The model is not a chat model, or a setting is wrong.
        MissingDependency: A package is missing.
    """
    source, gguf = _source(model_id)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **gguf}
    for name in ("revision", "token", "cache_dir", "local_files_only", "subfolder"):
        if name in (model_kwargs or {}):
            options[name] = (model_kwargs or {})[name]
    with _library_output(progress), _translated_errors(model_id):
        if model is None:
            model = _load_model(source, options, device_map, dtype, dict(model_kwargs or {}))
        processor = _load_processor(source, options, model, tokenizer)
        if tokenizer is None:
            tokenizer = processor.tokenizer if processor is not None else _load_tokenizer(source, options)
        elif hasattr(tokenizer, "tokenizer"):  # It is a processor.
            tokenizer = tokenizer.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidRequest(
            f"{model_id}: its tokenizer is slow (written in Python); a fast one (tokenizer.json) is needed"
        )
    model.eval()
    renderer = processor if processor is not None and getattr(processor, "chat_template", None) else tokenizer
    if chat_template is not None:
        renderer.chat_template = chat_template
    template = renderer.chat_template
    if not template:
        raise InvalidRequest(
            f"{model_id} has no chat template, so it is not a chat model: pass chat_template=…, a Jinja template "
            "(see https://huggingface.co/docs/transformers/chat_templating)"
        )
    if isinstance(template, dict):  # The tokenizer has several templates, by name.
        template = template.get("default") or next(iter(template.values()))
    return LoadedModel(
        model, tokenizer, processor,
        ChatTemplate(
            renderer_for(renderer), template, template_variables, content_parts=processor is not None,
            special_tokens=SpecialTokens.of_tokenizer(tokenizer),
        ),
        _context_length(model, tokenizer, context_length),
        _eos(model, tokenizer),
        _defaults(model),
    )  # fmt: skip


def _source(model_id: str) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` loads: a name or a folder, and for a GGUF file the option that names the file."""
    if model_id.endswith(".gguf"):
        if not os.path.isfile(model_id):
            raise NotFoundError(f"there is no file {model_id!r}", retryable=False)
        if find_spec("gguf") is None:
            raise MissingDependency("gguf", "transformers")
        return os.path.dirname(os.path.abspath(model_id)), {"gguf_file": os.path.basename(model_id)}
    if os.path.isdir(model_id) and not os.path.isfile(os.path.join(model_id, "config.json")):
        raise NotFoundError(f"the folder {model_id!r} contains no model: it has no config.json")
    if os.path.isabs(model_id) and not os.path.exists(model_id):
        raise NotFoundError(f"there is no folder {model_id!r}")
    return model_id, {}


def _load_model(source: str, options: dict[str, Any], device_map: Any, dtype: Any, model_kwargs: dict[str, Any]) -> Any:
    import torch
    import transformers

    if device_map is not None and find_spec("accelerate") is None:
        raise MissingDependency("accelerate", "transformers")
    config = transformers.AutoConfig.from_pretrained(source, **options)
    accepts_images = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto_class = transformers.AutoModelForImageTextToText if accepts_images else transformers.AutoModelForCausalLM
    settings = {"dtype": _dtype(dtype, config, device_map), **options, **model_kwargs}
    if device_map is not None:
        settings["device_map"] = device_map
    model = auto_class.from_pretrained(source, **settings)
    if device_map is None and "quantization_config" not in settings and getattr(model, "hf_device_map", None) is None:
        if torch.cuda.is_available():
            model = model.to("cuda")
        elif torch.backends.mps.is_available():
            model = model.to("mps")
    return model


def _dtype(given: Any, config: Any, device_map: Any) -> Any:
    """Return the requested dtype; by default the checkpoint's, or f32 on a CPU, where 16 bits are mostly slower."""
    import torch

    if isinstance(given, str) and given != "auto":
        if not isinstance(dtype := getattr(torch, given.removeprefix("torch."), None), torch.dtype):
            raise InvalidRequest(
                f"dtype={given!r} is not a dtype of torch; use for example 'bfloat16', 'float32' or 'auto'"
            )
        return dtype
    if given is not None:
        return given
    on_cpu = device_map in (None, "cpu", "auto") and not torch.cuda.is_available()
    on_cpu = on_cpu and not torch.backends.mps.is_available()
    return "auto" if not on_cpu or _is_bf16_on_bf16_cpu(config) else torch.float32


def _is_bf16_on_bf16_cpu(config: Any) -> bool:
    """Return whether the checkpoint is bf16, and this CPU has bf16 arithmetic."""
    import torch

    try:
        capable = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        capable = False
    return capable and getattr(config, "dtype", None) in (torch.bfloat16, "bfloat16")


def _load_processor(source: str, options: dict[str, Any], model: Any, given_tokenizer: Any) -> Any:
    """Return the caller's processor, or that of a model that accepts images.

    Returns:
        `None` if the model accepts only text, or if the caller has passed a tokenizer that is not a processor.
    """
    if hasattr(given_tokenizer, "tokenizer"):  # The caller has passed a processor as the tokenizer.
        return given_tokenizer
    import transformers

    if given_tokenizer is not None or type(model.config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return None
    return transformers.AutoProcessor.from_pretrained(source, **options)


def _load_tokenizer(source: str, options: dict[str, Any]) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, TypeError) as error:  # The weights were found, so the network is not the cause.
        raise InvalidRequest(
            f"{source}: the model's tokenizer can't be loaded ({_first_line(error).rstrip('.:')}): put its "
            "tokenizer.json next to the weights, or pass tokenizer=…"
        ) from None


def _context_length(model: Any, tokenizer: Any, given: int | None) -> int:
    """Return the caller's or the model's context length, whichever is less; 10**9 if there is no limit."""
    own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # The `model_max_length` of a tokenizer without a limit is a number of thirty digits.
    limits = [limit for limit in (given, own or tokenizer.model_max_length) if limit is not None and limit < 10**9]
    return min(limits, default=10**9)


def _eos(model: Any, tokenizer: Any) -> list[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = [own] if isinstance(own, int) else list(own or ())
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids


def _defaults(model: Any) -> dict[str, Any]:
    """Return the model's own generation settings that modelport applies and that differ from the library's defaults."""
    own = model.generation_config.to_diff_dict() if model.generation_config is not None else {}
    applied = parameters_of("transformers") | {"temperature", "top_p"}
    return {name: value for name, value in own.items() if name in applied and value is not None}


@contextmanager
def _library_output(progress: bool) -> Any:
    """Show the library's progress bars only if requested, and none of its warnings."""
    from transformers.utils import logging

    bars_enabled, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    (logging.enable_progress_bar if progress else logging.disable_progress_bar)()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        (logging.enable_progress_bar if bars_enabled else logging.disable_progress_bar)()
        logging.set_verbosity(level)


@contextmanager
def _translated_errors(model_id: str) -> Any:
    """Raise modelport's errors for the library's exceptions, which have many types and long texts."""
    import torch

    try:
        yield
    except ModelError:
        raise
    except ImportError as error:
        raise InvalidRequest(f"{model_id} needs a package that is missing: {_first_line(error)}") from None
    except (OSError, KeyError) as error:
        if _is_connection_failure(error):
            raise ConnectionFailed(
                f"{model_id!r} could not be loaded: the Hugging Face hub can't be reached, and the model is not in its "
                "cache. Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or pass a folder",
                retryable=False,
            ) from None
        raise NotFoundError(
            f"{model_id!r} could not be loaded: {_first_line(error)} It must be a folder, a .gguf file, or a model on "
            "the Hugging Face Hub (for a gated one log in with `hf auth login`)",
        ) from None
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ServerError(f"there is not enough memory for {model_id}: {_first_line(error)}", retryable=False) from None
    except (ValueError, TypeError, RuntimeError) as error:
        if "trust_remote_code" in str(error):
            raise InvalidRequest(
                f"{model_id} contains its own code, which runs only with trust_remote_code=True: read the code first"
            ) from None
        raise InvalidRequest(f"{model_id} could not be loaded: {_first_line(error)}") from None


def _is_connection_failure(error: BaseException | None) -> bool:
    """Return whether the error, or one of its causes, says that the Hub could not be reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if text.endswith(".") else f"{text}."
