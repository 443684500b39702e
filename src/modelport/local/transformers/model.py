"""`TransformersModel`: a chat model of the transformers library, in this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from modelport.errors import InvalidRequest, MissingDependency
from modelport.inputs.settings import check_kind, name_or_path
from modelport.inputs.vendor_parameters import parameters_of
from modelport.local.engine import check_integers
from modelport.local.progress import shows_progress
from modelport.local.token_engine_model import TokenEngineModel
from modelport.types.capabilities import Capabilities

if TYPE_CHECKING:
    from modelport.local.transformers.engine import TransformersEngine

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
DEFAULT_PREFIX_CACHE_BYTES = 2 * 2**30
DEFAULT_MAX_TOKENS = 4096


class TransformersModel(TokenEngineModel["TransformersEngine"]):
    """A model of the transformers library in this process: from the Hub, a folder, a GGUF file, or already loaded.

    Requests share the engine. Up to `parallel` requests run in one batch, which they join and leave at any time, each
    with its own sampling, stop sequences, output type and seed. The beginning that a prompt shares with an earlier
    prompt is not computed again (`cached_input_tokens` is its length), so an agent's next turn computes only its new
    tokens.

    Some kinds of attention (linear attention, score caps, attention sinks) can't compute several requests in one
    forward pass. Models with such attention, and models that accept images, compute one token of each request in turn.
    `model.packed` is then false.

    Args:
        model_id: A model on the Hugging Face Hub, a folder, or a `.gguf` file; by default
            `HuggingFaceTB/SmolLM2-1.7B-Instruct`.
        device_map: As in transformers (`auto`, `cuda`, `cpu`, …; needs accelerate); by default the first GPU if there
            is one, else the CPU.
        dtype: For example `bfloat16`; by default the checkpoint's own on a GPU, and `float32` on a CPU, where 16 bits
            are slower. But a CPU with bf16 arithmetic computes a bf16 checkpoint in bf16 by default.
        torch_dtype: Another name of `dtype`.
        trust_remote_code: Whether code from the model's repository may run.
        model_kwargs: Arguments of the library's `from_pretrained`, as `{"quantization_config": …, "revision": …}`. With
            `attn_implementation`, that implementation computes one token of each request in turn.
        apply_chat_template_kwargs: Variables for the chat template, as `{"enable_thinking": False}`.
        model: A model that is already loaded, instead of `model_id`; needs `tokenizer`.
        tokenizer: The tokenizer or the processor of `model`.
        chat_template: A Jinja template instead of the model's own.
        context_length: The most tokens of prompt and output in one request; by default the model's own limit.
        parallel: How many requests run at once, by default 16. Further requests wait.
        queue: How many requests may wait, by default 1024. Further requests are refused with `RateLimited`.
        prefix_cache_bytes: The memory for cached keys and values and those of running requests together, in bytes (2
            GiB by default); 0 disables the prefix cache.
        threads: CPU threads; by default torch's choice. The setting applies to the whole process.
        progress: Whether to show the progress of downloads and loading; by default where standard error is a terminal.
        **settings: See `Model`, with `max_tokens` 4096 by default; also the generation parameters of transformers:
            `do_sample`, `min_new_tokens`, `no_repeat_ngram_size`, `typical_p`, `bad_words_ids`, `logits_processor`, …

    Raises:
        MissingDependency: A package is missing; the message gives the command that installs it.
        NotFoundError: There is no such model.

    Examples:
        >>> model = TransformersModel("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> print(model("What is the capital of France? Answer in one sentence."))
        The capital of France is Paris.
    """

    declared_capabilities: ClassVar[Capabilities] = TokenEngineModel.declared_capabilities.replace(
        extra_parameters=parameters_of("transformers")
    )
    extra: ClassVar[str] = "transformers"
    #: Arguments of `from_pretrained` that neither run code nor name a path or an address.
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {
        "model_kwargs": frozenset({
            "attn_implementation", "code_revision", "dtype", "force_download", "ignore_mismatched_sizes",
            "local_files_only", "low_cpu_mem_usage", "max_memory", "revision", "subfolder", "torch_dtype", "tp_plan",
            "tp_size", "trust_remote_code", "use_safetensors", "variant", "weights_only",
        }),
    }  # fmt: skip
    saved_parameters: ClassVar[frozenset[str] | None] = parameters_of("transformers") | {"device"}

    def __init__(
        self,
        model_id: str | os.PathLike[str] | None = None,
        device_map: Any = None,
        torch_dtype: Any = None,
        trust_remote_code: bool = False,
        model_kwargs: Mapping[str, Any] | None = None,
        max_new_tokens: int | None = None,
        max_tokens: int | None = None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
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
            # `device` is another name of `device_map`.
            device_map = settings.pop("device") if device_map is None else device_map
        parameters = {
            "max_new_tokens": max_new_tokens, "max_tokens": max_tokens,
            "apply_chat_template_kwargs": apply_chat_template_kwargs,
        }  # fmt: skip
        settings |= {name: value for name, value in parameters.items() if value is not None}
        check_kind(Mapping, model_kwargs=model_kwargs, apply_chat_template_kwargs=apply_chat_template_kwargs)
        check_integers(minimum=1, context_length=context_length, parallel=parallel, queue=queue, threads=threads)
        check_integers(minimum=0, prefix_cache_bytes=prefix_cache_bytes)
        if not {"max_tokens", "max_new_tokens", "max_completion_tokens"} & set(settings):
            settings["max_tokens"] = DEFAULT_MAX_TOKENS
        if model_id is None:
            model_id = getattr(getattr(model, "config", None), "_name_or_path", None) or DEFAULT_MODEL
        super().__init__(name_or_path(model_id), **settings)
        self.device_map = device_map if isinstance(device_map, dict | None) else str(device_map)
        given_dtype = dtype if dtype is not None else torch_dtype
        self.dtype = None if given_dtype is None else str(given_dtype).removeprefix("torch.")
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
                f"{self!r} was given a loaded model, which is not pickled; load the model by its model_id instead"
            )
        return super().__getstate__()

    @property
    def packed(self) -> bool:
        """Whether one forward pass computes all requests; if not, each request has passes of its own."""
        return self._engine().forward.is_packed

    def _load_engine(self) -> TransformersEngine:
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingDependency(error.name or "torch", self.extra) from None
        from modelport.local.transformers.engine import TransformersEngine
        from modelport.local.transformers.loading import load
        from modelport.local.transformers.onednn_linear import use_onednn
        from modelport.local.transformers.packing import SerialForward, choose_forward

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
            template_variables=self.kwargs.get("apply_chat_template_kwargs"),
            progress=shows_progress(self.progress),
            model_kwargs=self.model_kwargs,
        )
        use_onednn(loaded.model)
        needs_library_attention = loaded.processor is not None or "attn_implementation" in (self.model_kwargs or {})
        with torch.inference_mode():
            forward = SerialForward(loaded.model) if needs_library_attention else choose_forward(loaded.model)
        limit = DEFAULT_PREFIX_CACHE_BYTES if self.prefix_cache_bytes is None else self.prefix_cache_bytes
        return TransformersEngine(loaded, forward, parallel=self.parallel, queue=self.queue, prefix_cache_bytes=limit)

    def _declare(self) -> Capabilities:
        inputs = {"text", "image"} if self._engine().accepts_images else {"text"}
        return super()._declare().replace(inputs=inputs)
