"""`TransformersModel`: any chat model of the transformers library, in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modelport.errors import InvalidRequest, MissingDependency
from modelport.inputs.parameters import PARAMETERS
from modelport.inputs.settings import name_or_path
from modelport.local.token_model import LocalModel
from modelport.types.capabilities import Capabilities

if TYPE_CHECKING:
    from modelport.local.transformers.engine import TransformersEngine

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
DEFAULT_PREFIX_CACHE = 2 * 2**30
DEFAULT_MAX_TOKENS = 4096

#: What callers may give beside the parameters that every backend knows; see `sampling.py`, which honours them.
#: https://huggingface.co/docs/transformers/main_classes/text_generation
GENERATION = frozenset(
    """
    do_sample min_new_tokens min_length no_repeat_ngram_size typical_p epsilon_cutoff eta_cutoff bad_words_ids
    sequence_bias suppress_tokens begin_suppress_tokens exponential_decay_length_penalty remove_invalid_values
    renormalize_logits logit_bias logits_processor eos_token_id ignore_eos num_beams num_return_sequences use_cache
    """.split()  # noqa: SIM905
)


class TransformersModel(LocalModel["TransformersEngine"]):
    """A model of the transformers library in this process: from the Hub, a folder, a GGUF file, or loaded already.

    Requests share the engine. Up to `parallel` of them run as one changing batch, each with its own sampling, stop
    sequences, grammar and seed. What any of them has in common with an earlier prompt, from the beginning on, is not
    computed again (`cached_input_tokens` says how much); so an agent's next turn costs its new tokens.

    Models whose attention can't be packed into one pass (linear attention, score caps, attention sinks, those that take
    images) compute their requests in turns, a token each; `model.packed` tells.

    Args:
        model_id: On the Hugging Face Hub, a folder, or a `.gguf` file; by default
            `HuggingFaceTB/SmolLM2-1.7B-Instruct`.
        device_map: As in transformers (`auto`, `cuda`, `cpu`, …; needs accelerate); by default the first GPU if there
            is one, else the CPU.
        dtype: As `bfloat16`; by default the checkpoint's own, but `float32` on a CPU, which computes in 16 bits more
            slowly unless it has bf16 arithmetic (then a bf16 checkpoint stays as it is).
        torch_dtype: Another name of `dtype`.
        trust_remote_code: Whether code from the model's repository may run.
        model_kwargs: For the library's `from_pretrained`, as `{"quantization_config": …, "revision": …}`; with
            `attn_implementation` requests compute in turns, through that implementation.
        apply_chat_template_kwargs: Variables for the chat template, as `{"enable_thinking": False}`.
        model: A model that is loaded already, instead of `model_id`; needs `tokenizer`.
        tokenizer: Its tokenizer, or its processor.
        chat_template: A Jinja template instead of the model's own.
        context_length: Tokens of prompt and answer that one request may hold; by default the model's own.
        parallel: Requests that run at once, by default 16; more wait their turn.
        queue: How many may wait, by default 1024; one more is refused with `RateLimited`.
        prefix_cache_bytes: Memory for what was computed, running requests included, in bytes (2 GiB by default); 0
            keeps nothing.
        threads: CPU threads; by default torch's choice. Holds for the whole process.
        progress: Whether to show progress of downloads and loading; by default where standard error is a terminal.
        **settings: See `Model`, with `max_tokens` 4096 by default; and of transformers' generation `do_sample`,
            `min_new_tokens`, `no_repeat_ngram_size`, `typical_p`, `bad_words_ids`, `logits_processor`, …

    Raises:
        MissingDependency: A package is missing; the message holds the command.
        NotFoundError: There is no such model.

    Example:
        >>> model = TransformersModel("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> print(model("What is the capital of France? Answer in one sentence."))
        The capital of France is Paris.
    """

    declared_capabilities: ClassVar[Capabilities] = LocalModel.declared_capabilities.replace(
        extra_parameters=GENERATION | {"apply_chat_template_kwargs"}
    )
    extra: ClassVar[str] = "transformers"

    def __init__(
        self,
        model_id: str | os.PathLike[str] | None = None,
        device_map: Any = None,
        torch_dtype: Any = None,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        *,
        dtype: Any = None,
        model: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        context_length: int | None = None,
        parallel: int = 16,
        queue: int = 1024,
        prefix_cache_bytes: int | None = None,
        threads: int | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        if model is not None and tokenizer is None:
            raise InvalidRequest("model= is a loaded model: pass its tokenizer= (or processor) too")
        if dtype is not None and torch_dtype is not None and str(dtype) != str(torch_dtype):
            raise InvalidRequest(f"dtype={dtype} and torch_dtype={torch_dtype} are two names of one setting: give one")
        if "device" in settings:
            device_map = settings.pop("device") if device_map is None else device_map
        for name, value, least in (
            ("context_length", context_length, 1), ("parallel", parallel, 1), ("queue", queue, 1),
            ("prefix_cache_bytes", prefix_cache_bytes, 0), ("threads", threads, 1),
        ):  # fmt: skip
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InvalidRequest(f"{name}={value!r}: must be a whole number of at least {least}")
        if not set(PARAMETERS["max_tokens"].names) & set(settings):
            settings["max_tokens"] = DEFAULT_MAX_TOKENS
        named = name_or_path(model_id) if model_id else getattr(getattr(model, "config", None), "_name_or_path", None)
        super().__init__(named or DEFAULT_MODEL, **settings)
        self.device_map = device_map if isinstance(device_map, dict | None) else str(device_map)
        wanted = dtype if dtype is not None else torch_dtype
        self.dtype = None if wanted is None else str(wanted).removeprefix("torch.")
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.model = model
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.context_length = context_length
        self.parallel = parallel
        self.queue = queue
        self.prefix_cache_bytes = prefix_cache_bytes
        self.threads = threads
        self.progress = progress
        self._engine()

    def __getstate__(self) -> dict[str, Any]:
        if self.model is not None:
            raise TypeError(
                f"{self!r} holds a loaded model of yours, which is not pickled; load it there by its model_id"
            )
        return super().__getstate__()

    @property
    def packed(self) -> bool:
        """Whether requests are computed together, in one pass; else in turns."""
        return self._engine().forward.together

    def _load(self) -> TransformersEngine:
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingDependency(error.name or "torch", self.extra) from None
        from modelport.local.transformers.engine import TransformersEngine
        from modelport.local.transformers.linear import speed_up
        from modelport.local.transformers.loading import load
        from modelport.local.transformers.packing import Serial, forward_of

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = load(
            self.model_id or "",
            model=self.model,
            tokenizer=self.tokenizer,
            device_map=self.device_map,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            chat_template=self.chat_template,
            context_length=self.context_length,
            template_settings=self.kwargs.get("apply_chat_template_kwargs"),
            progress=sys.stderr.isatty() if self.progress is None else self.progress,
            model_kwargs=self.model_kwargs,
        )
        speed_up(loaded.model)
        own_attention = loaded.processor is not None or "attn_implementation" in (self.model_kwargs or {})
        with torch.inference_mode():
            forward = Serial(loaded.model) if own_attention else forward_of(loaded.model)
        limit = DEFAULT_PREFIX_CACHE if self.prefix_cache_bytes is None else self.prefix_cache_bytes
        return TransformersEngine(loaded, forward, parallel=self.parallel, queue=self.queue, prefix_cache_bytes=limit)

    def _declare(self) -> Capabilities:
        sees = self._engine().sees
        return super()._declare().replace(inputs={"text", "image"} if sees else {"text"})
