"""`VLLMModel`: a model that runs on vLLM, and the translation of its requests into vLLM's parameters."""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, ModelError, ServerError
from modelport.inputs.settings import name_or_path
from modelport.inputs.vendor_parameters import parameters_of
from modelport.local.chat_template import ChatTemplate
from modelport.local.detokenizer import logprobs_entry
from modelport.local.engine import check_integers
from modelport.local.grammar_matching import check_grammar
from modelport.local.token_engine import EngineRequest, Prompt, TokenBatch
from modelport.local.token_engine_model import TokenEngineModel
from modelport.local.vllm.loading import engine_args, import_vllm, load_tokenizer, loading_indicator, start_engine
from modelport.local.vllm.shared_engine import SharedEngine, acquire_shared_engine, release_shared_engine
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image

#: Fields of vLLM's `SamplingParams` that callers can't set: modelport sets them itself, or a message has no field for
#: their result.
RESERVED_PARAMETERS = frozenset(
    """
    n stop max_tokens logprobs prompt_logprobs prompt_logprob_token_ids prompt_logprob_start logprob_token_ids
    flat_logprobs detokenize skip_special_tokens spaces_between_special_tokens include_stop_str_in_output output_kind
    skip_clone output_text_buffer_length structured_outputs guided_decoding routed_experts_prompt_start
    """.split()  # noqa: SIM905
)
#: Decoding is greedy unless the call, the constructor or the model's generation_config.json sets one of these.
_SAMPLING_PARAMETERS = frozenset({"temperature", "top_p", "top_k", "min_p", "seed"})
#: Fields of vLLM's `AsyncEngineArgs` that neither run or import code, nor listen, nor name a path or an address.
_SAVED_ENGINE_FIELDS = frozenset(
    """
    async_scheduling block_size calculate_kv_scales cpu_offload_gb data_parallel_size disable_cascade_attn
    disable_custom_all_reduce disable_sliding_window dtype enable_chunked_prefill enable_expert_parallel
    enable_prefix_caching enforce_eager gpu_memory_utilization kv_cache_dtype kv_cache_memory_bytes
    limit_mm_per_prompt long_prefill_token_threshold max_logprobs max_long_partial_prefills max_model_len
    max_num_batched_tokens max_num_partial_prefills max_num_seqs mm_processor_cache_gb num_gpu_blocks_override
    pipeline_parallel_size prefix_caching_hash_algo quantization revision scheduling_policy seed
    skip_mm_profiling swap_space tensor_parallel_size tokenizer_revision trust_remote_code
    """.split()  # noqa: SIM905
)
#: vLLM's finish reasons of outputs that did not fail, and modelport's names for them.
_FINISH_REASONS = {"stop": "stop", "length": "length", "repetition": "stop"}


class VLLMModel(TokenEngineModel["_VLLMEngine"]):
    """A model on vLLM.

    Requests share the engine and its prefix cache: an agent's next turn computes only its new tokens; the other tokens
    of the prompt are reported as `cached_input_tokens`. `VLLMModel` objects with equal `model_id`, `model_kwargs`,
    `context_length` and `trust_remote_code` in one process share one engine, which is freed when the last of them is
    closed.

    Decoding is greedy, unless the call, the constructor or the model's generation_config.json sets a temperature or
    another sampling parameter.

    vLLM's own log is limited to errors, on standard error; set `VLLM_LOGGING_LEVEL` to see more.

    Args:
        model_id: A folder, or `owner/repo` on the Hugging Face Hub.
        model_kwargs: Further fields of vLLM's `AsyncEngineArgs`, such as `{"tensor_parallel_size": 2, "dtype":
            "bfloat16", "distributed_executor_backend": "ray"}`.
            See https://docs.vllm.ai/en/latest/configuration/engine_args.html
        apply_chat_template_kwargs: Variables for the chat template, such as `{"enable_thinking": False}`. The variables
            of a call take precedence.
        context_length: The most tokens of prompt and output in one request (vLLM's `max_model_len`); by default the
            model's own limit.
        chat_template: A Jinja template instead of the model's own.
        trust_remote_code: Whether Python code from the model's repository may run.
        progress: Whether to show on standard error that the model is being loaded; by default if standard
            error is a terminal.
        **settings: See `Model`; also fields of vLLM's `SamplingParams`, such as `min_tokens`, `logit_bias`,
            `bad_words`.
            See https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html

    Raises:
        InvalidRequest: A setting is wrong.
        NotFoundError: There is no such model, or it contains no weights.
        ServerError: vLLM could not load the model; there may not be enough memory.

    Examples:
        >>> model = VLLMModel("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> print(model("What is the capital of France? Answer in one sentence.", temperature=0))
        The capital of France is Paris.
    """

    declared_capabilities: ClassVar[Capabilities] = TokenEngineModel.declared_capabilities.replace(
        extra_parameters=parameters_of("vllm-engine"),
        forwards_unknown=True,  # Until vLLM is imported, which then names all its parameters: see `_declare`.
    )
    extra: ClassVar[str] = "vllm"
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {"model_kwargs": _SAVED_ENGINE_FIELDS}
    saved_parameters: ClassVar[frozenset[str] | None] = parameters_of("vllm-engine")
    #: Further settings that `from_dict` refuses, because they make vLLM import a class by its name or call a function.
    #: `backend` is a field of vLLM's `CompilationConfig`.
    code_settings: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "*logits_processors": bool,
        "hf_overrides": lambda value: value is not None and not isinstance(value, Mapping),
        "distributed_executor_backend": lambda value: "." in str(value),
        "backend": lambda value: "." in str(value),
    }

    def __init__(
        self,
        model_id: str | os.PathLike[str],
        model_kwargs: Mapping[str, Any] | None = None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        context_length: int | None = None,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(name_or_path(model_id), **settings)
        check_integers(minimum=1, context_length=context_length)
        for name, value in (("model_kwargs", model_kwargs), ("apply_chat_template_kwargs", apply_chat_template_kwargs)):
            if value is not None and not isinstance(value, Mapping):
                raise InvalidRequest(f"{name} must be a dict, not {type(value).__name__}")
        self.model_kwargs = model_kwargs
        self.apply_chat_template_kwargs = apply_chat_template_kwargs
        self.context_length = context_length
        self.chat_template = chat_template
        self.trust_remote_code = trust_remote_code
        self.progress = progress
        self._engine()

    def _load_engine(self) -> _VLLMEngine:
        return _VLLMEngine(self)

    def _declare(self) -> Capabilities:
        names = self._engine().parameters
        extra = self.declared_capabilities.extra_parameters or frozenset()
        return super()._declare().replace(extra_parameters=extra | names, forwards_unknown=False)


class _VLLMEngine:
    """The engine of one `VLLMModel`: tokenizer, chat template, and a `SharedEngine` that other models may also use."""

    def __init__(self, model: VLLMModel) -> None:
        # `_inheriting` is True while a process that multiprocessing has spawned imports its parent's script.
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ModelError(
                "this script is being imported by a process that it has started: if model_kwargs contains classes of "
                'the script, the code that loads the model must be under `if __name__ == "__main__":`'
            )
        import_vllm()
        from vllm import SamplingParams

        self.pid = os.getpid()
        given = engine_args(model)
        with loading_indicator(model):
            self.shared = acquire_shared_engine(repr(sorted(given.items())), lambda: start_engine(model, given))
        self._finalizer = weakref.finalize(self, _release_in_thread, self.shared)
        self._finalizer.atexit = False  # At exit, `runtime.lifecycle` calls `close`.
        try:
            self._read_config(model)
        except BaseException:
            self.close()
            raise
        names = SamplingParams.__struct_fields__
        #: The names of vLLM's sampling parameters that callers may pass.
        self.parameters = frozenset(name for name in names if name[0] != "_") - RESERVED_PARAMETERS

    def _read_config(self, model: VLLMModel) -> None:
        config = self.shared.config.model_config
        self.tokenizer, source = load_tokenizer(config, model.chat_template)
        self.context_length: int = config.max_model_len
        variables = {**(model.apply_chat_template_kwargs or {})}
        if model.chat_template is not None:
            variables["chat_template"] = model.chat_template
        self.template = ChatTemplate(self.tokenizer.apply_chat_template, source, variables)
        generation = config.try_get_generation_config()
        eos = generation.get("eos_token_id") or []
        eos = [eos] if isinstance(eos, int) else list(eos)
        self.eos: list[int] = list({*eos, *filter(None, [self.tokenizer.eos_token_id])})
        self._defaults: dict[str, Any] = config.get_diff_sampling_param()

    def encode_prompt(self, text: str, images: list[Image]) -> Prompt:
        """Encode a rendered conversation. `images` is always empty: this backend declares only text input."""
        return Prompt(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def compile_grammar(self, lark: str) -> str:
        """Check the grammar, and return it: vLLM compiles it in its own process. See `TokenEngine.compile_grammar`."""
        check_grammar(lark, extra=VLLMModel.extra)
        return lark

    async def run(self, request: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Generate an output. Closing the generator stops the request."""
        params = self._sampling_params(request)
        top = request.parameters.get("top_logprobs") or 0
        is_first = True
        async with aclosing(self.shared.outputs({"prompt_token_ids": request.prompt.tokens}, params)) as outputs:
            async for output in outputs:
                completion = output.outputs[0]
                if completion.finish_reason not in (None, *_FINISH_REASONS):
                    raise ServerError(f"vLLM ended the output with {completion.finish_reason!r}")
                yield TokenBatch(
                    list(completion.token_ids),
                    self._logprobs(completion, top) if completion.logprobs else None,
                    output.num_cached_tokens if is_first else None,
                    _FINISH_REASONS.get(completion.finish_reason or ""),
                )
                is_first = False

    def _sampling_params(self, request: EngineRequest) -> Any:
        import msgspec
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        given = {**self._defaults, **request.parameters, "max_tokens": request.max_tokens, "detokenize": False}
        if not _SAMPLING_PARAMETERS & given.keys():
            given["temperature"] = 0  # The default of other local models; vLLM's own default is 1.
        logprobs, top = given.pop("logprobs", False), given.pop("top_logprobs", 0)
        if logprobs:
            given["logprobs"] = top or 0
        if "seed" in given:
            given["seed"] &= 2**63 - 1  # This makes the seed non-negative: vLLM takes -1 as "no seed".
        try:
            params = msgspec.convert(given, SamplingParams, str_keys=True)
        except Exception as error:  # msgspec's error for a wrong type, or one of vLLM's errors for a wrong value.
            raise InvalidRequest(f"vLLM's SamplingParams: {error}") from None
        params.output_kind = RequestOutputKind.DELTA
        if request.grammar is not None:
            params.structured_outputs = StructuredOutputsParams(grammar=request.grammar)
        return params

    def _logprobs(self, completion: Any, top: int) -> list[dict[str, Any]]:
        entries = []
        for chosen, candidates in zip(completion.token_ids, completion.logprobs, strict=True):
            # A token that the grammar forbids has -inf, which JSON can't represent; remote services write -9999.
            values = {token: max(item.logprob, -9999.0) for token, item in candidates.items()}
            best = sorted(candidates, key=lambda token: (candidates[token].rank, token))[:top]
            best_values = [(token, values[token]) for token in best]
            entries.append(logprobs_entry(self.tokenizer, chosen, values[chosen], best_values))
        return entries

    def detach_after_fork(self) -> None:
        """Ensure that this process, a forked child, never destroys the engine of its parent process."""
        self._finalizer.detach()
        self.shared.detach_after_fork()

    def close(self) -> None:
        """Release the shared engine; if no other model uses it, requests in progress end with an error."""
        if self._finalizer.detach() is not None and self.pid == os.getpid():
            release_shared_engine(self.shared)


def _release_in_thread(engine: SharedEngine) -> None:
    # A finalizer may run in any thread, even in the engine's own, which can't wait for the engine to end.
    threading.Thread(target=release_shared_engine, args=(engine,), name="modelport-close", daemon=True).start()
