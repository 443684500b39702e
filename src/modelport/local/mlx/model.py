"""`MLXModel`: a model in this process, on mlx-lm. It runs on Apple silicon, and on the CPU of a Linux machine."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from modelport.errors import ModelError
from modelport.inputs.settings import check_kind, name_or_path
from modelport.inputs.vendor_parameters import parameters_of
from modelport.local.chat_template import ChatTemplate
from modelport.local.detokenizer import logprobs_entry
from modelport.local.engine import check_integers, model_closed, never_destroy
from modelport.local.grammar_matching import GrammarCompiler, GrammarMatcher
from modelport.local.mlx.batch import Batch
from modelport.local.mlx.loading import load
from modelport.local.mlx.rows import BatchRow, SampledToken
from modelport.local.mlx.sampling import logit_bias_from
from modelport.local.special_tokens import SpecialTokens
from modelport.local.token_engine import EngineRequest, Prompt, TokenBatch
from modelport.local.token_engine_model import TokenEngineModel
from modelport.runtime.lifecycle import CLOSE_TIMEOUT
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image

#: The value that `prefix_cache_bytes=None` stands for.
DEFAULT_PREFIX_CACHE_BYTES = 2 * 2**30


class MLXModel(TokenEngineModel["_MLXEngine"]):
    """A model in this process, on mlx-lm.

    Concurrent requests run in one batch (continuous batching): each may join or leave at any step, and has its own
    sampling parameters and output type.
    The keys and values of prompts and outputs are cached. So an agent's next turn, a conversation with the same system
    prompt, and another branch of a conversation compute only their new tokens; the other tokens of the prompt are
    reported as `cached_input_tokens`.

    Decoding is greedy, unless the model's `generation_config.json` or the call requests sampling.

    Args:
        model_id: A folder with `config.json`, `model*.safetensors` and a tokenizer, or `owner/repo` on the Hugging Face
            Hub, such as `mlx-community/Qwen3-4B-4bit`. Files in the Hub's cache are used without a request to the Hub.
        trust_remote_code: Whether code from the model's repository may run.
        load_kwargs: For `mlx_lm.load`: `tokenizer_config`, `model_config`, `adapter_path`, `lazy`, `revision`.
        apply_chat_template_kwargs: Variables for the chat template, such as `{"enable_thinking": False}`. The variables
            of a call take precedence.
        chat_template: A Jinja template instead of the model's own.
        context_length: The most tokens of prompt and output in one request; by default the model's own limit.
        parallel: The most requests that are computed at once, by default 16. Further requests wait, in order.
        queue: How many requests may wait, by default 1024. A further request is refused with `RateLimited`, which
            modelport retries within the call's time limit.
        prefill_step_size: How many tokens of prompts are computed between two tokens of the other requests' outputs.
            The smaller it is, the less a long prompt delays these outputs. By default 512 on a GPU, and 16 on a CPU,
            where MLX takes 0.1 s for each token with a model of 135 million parameters in f32.
        prefix_cache_bytes: The memory for cached keys and values and those of running requests together, in bytes (2
            GiB by default). If it is full, the least recently used are removed. 0 disables the prefix cache.
        progress: Whether to show progress bars; by default if standard error is a terminal.
        **settings: See `Model`; also `logit_bias`, by token id, and mlx-lm's `logits_processors`.

    Raises:
        MissingDependency: mlx-lm is not installed.
        NotFoundError: There is no such folder or repository, or it contains no weights.
        InvalidRequest: mlx-lm can't load the model; the message says why.

    Examples:
        >>> model = MLXModel("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> print(model("What is the capital of France? Answer in one sentence.", temperature=0))
        The capital of France is Paris.
    """

    extra: ClassVar[str] = "mlx-lm"
    #: Arguments of `mlx_lm.load` that neither run code nor name a path.
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {"load_kwargs": frozenset({"lazy", "revision"})}
    saved_parameters: ClassVar[frozenset[str] | None] = parameters_of("mlx")
    declared_capabilities: ClassVar[Capabilities] = TokenEngineModel.declared_capabilities.replace(
        extra_parameters=parameters_of("mlx")
    )

    def __init__(
        self,
        model_id: str | os.PathLike[str],
        trust_remote_code: bool = False,
        load_kwargs: Mapping[str, Any] | None = None,
        apply_chat_template_kwargs: Mapping[str, Any] | None = None,
        *,
        chat_template: str | None = None,
        context_length: int | None = None,
        parallel: int = 16,
        queue: int = 1024,
        prefill_step_size: int | None = None,
        prefix_cache_bytes: int | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        check_kind(Mapping, load_kwargs=load_kwargs, apply_chat_template_kwargs=apply_chat_template_kwargs)
        super().__init__(name_or_path(model_id), **settings)
        check_integers(minimum=1, context_length=context_length, parallel=parallel, prefill_step_size=prefill_step_size)
        check_integers(minimum=0, queue=queue, prefix_cache_bytes=prefix_cache_bytes)
        self.trust_remote_code = trust_remote_code
        self.load_kwargs = load_kwargs
        self.apply_chat_template_kwargs = apply_chat_template_kwargs
        self.chat_template = chat_template
        self.context_length = context_length
        self.parallel = parallel
        self.queue = queue
        self.prefill_step_size = prefill_step_size
        self.prefix_cache_bytes = prefix_cache_bytes
        self.progress = progress
        self._engine()  # The model is loaded now, so that errors appear when the model is created.

    def _load_engine(self) -> _MLXEngine:
        # `_loaded_engine` is `None`, except in a forked process: there it is the engine of the parent process.
        return _MLXEngine(self, parent=self._loaded_engine)


class _MLXEngine:
    """The engine of one `MLXModel` in one process: the loaded model, and the batch that runs its requests.

    Args:
        settings: The `MLXModel` that creates this engine; its settings apply.
        parent: In a forked process, the engine of the parent process, whose loaded model this engine uses too;
            otherwise `None`.
    """

    def __init__(self, settings: MLXModel, parent: _MLXEngine | None) -> None:
        self.pid = os.getpid()
        self.model_id = settings.model_id
        inherited = parent.batch.loaded if parent is not None else None
        self.batch: Batch = Batch(
            lambda: load(settings, inherited),
            settings.parallel,
            settings.queue,
            settings.prefill_step_size,
            DEFAULT_PREFIX_CACHE_BYTES if settings.prefix_cache_bytes is None else settings.prefix_cache_bytes,
        )
        # If the engine is garbage-collected without `close`, its batch stops. This works because the batch's thread
        # holds no reference to the engine. At exit, the finalizer does nothing: `runtime.lifecycle` closes all engines.
        weakref.finalize(self, self.batch.stop).atexit = False
        loaded = self.batch.loaded
        if loaded is None:
            raise model_closed()
        self.tokenizer, self.eos = loaded.tokenizer, sorted(loaded.eos)
        self.context_length = min(settings.context_length or loaded.context_length, loaded.context_length)
        self.template = ChatTemplate(
            loaded.apply_template,
            loaded.template,
            settings.apply_chat_template_kwargs,
            library_calls=loaded.library_calls,
            special_tokens=SpecialTokens.of_tokenizer(self.tokenizer),
        )
        self._vocab_size, self._defaults = loaded.vocab_size, loaded.defaults
        self._compiler = GrammarCompiler(self.tokenizer, self._vocab_size, self.eos, extra=settings.extra)

    @property
    def busy(self) -> int:
        """How many requests wait or are being computed."""
        return self.batch.busy

    def encode_prompt(self, text: str, images: list[Image]) -> Prompt:
        """Encode a rendered conversation. `images` is always empty: this backend declares only text input."""
        # `tokenizer.encode` is not used: it sets truncation and padding on `backend_tokenizer`, and fails if two
        # threads use that object at once.
        return Prompt(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    def compile_grammar(self, lark: str) -> GrammarMatcher:
        """See `TokenEngine.compile_grammar`."""
        return self._compiler.matcher(lark)

    async def run(self, request: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Generate an output. Closing the generator stops the request."""
        parameters = {**self._defaults, **request.parameters}
        bias = logit_bias_from(parameters, self._vocab_size)
        loop = asyncio.get_running_loop()
        received: asyncio.Queue[SampledToken | ModelError] = asyncio.Queue()

        def notify(item: SampledToken | ModelError) -> bool:
            try:
                loop.call_soon_threadsafe(received.put_nowait, item)
            except RuntimeError:  # The caller's event loop is closed, so the caller no longer listens.
                return False
            return True

        row = BatchRow(replace(request, parameters=parameters), bias, request.grammar, notify)
        self.batch.add(row)
        try:
            while True:
                item = await received.get()
                if isinstance(item, ModelError):
                    raise item
                yield self._token_batch(item)
                if item.finish_reason:
                    return
        finally:
            self.batch.cancel(row)

    def _token_batch(self, sampled: SampledToken) -> TokenBatch:
        logprobs = None
        if sampled.logprob is not None:
            logprobs = [logprobs_entry(self.tokenizer, sampled.token, sampled.logprob, sampled.best or ())]
        return TokenBatch([sampled.token], logprobs, sampled.cached_tokens, sampled.finish_reason)

    def detach_after_fork(self) -> None:
        """Ensure that this process, a forked child, never destroys the engine of its parent process."""
        never_destroy(self)

    def close(self) -> None:
        """End every request with an error, and free the model."""
        self.batch.close(CLOSE_TIMEOUT)
