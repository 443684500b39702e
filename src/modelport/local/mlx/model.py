"""MLX in this process, on mlx-lm: Apple silicon, and the CPU of a Linux machine."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, ModelError
from modelport.inputs.settings import name_or_path
from modelport.local.chat_template import CallFormat, Template
from modelport.local.grammar_matching import TokenMasks
from modelport.local.mlx.batch import CLOSED, Batch
from modelport.local.mlx.loading import load
from modelport.local.mlx.rows import BatchRow, SampledToken
from modelport.local.mlx.sampling import logit_bias_from
from modelport.local.text import token_text
from modelport.local.token_model import EngineRequest, LocalModel, Prompt, TokenBatch
from modelport.runtime.lifecycle import CLOSE_TIMEOUT
from modelport.runtime.threads import in_thread
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image

DEFAULT_PREFIX_CACHE = 2 * 2**30


class MLXModel(LocalModel["_Engine"]):
    """A model in this process, on mlx-lm.

    Concurrent requests run as one changing batch: each joins at any step, with its own sampling, grammar and end. What
    was computed of prompts and answers is kept, so that an agent's next turn, a conversation with the same system
    prompt, or another branch of it costs its new tokens; the rest is reported as `cached_input_tokens`.

    Sampling is greedy, unless the model's `generation_config.json` or the call says otherwise.

    Args:
        model_id: A folder with `config.json`, `model*.safetensors` and a tokenizer, or `owner/repo` on the Hugging Face
            Hub, as `mlx-community/Qwen3-4B-4bit`. What the Hub's cache holds is taken as it is.
        trust_remote_code: Whether code from the model's repository may run.
        load_kwargs: For `mlx_lm.load`: `tokenizer_config`, `model_config`, `adapter_path`, `lazy`, `revision`.
        apply_chat_template_kwargs: Variables for the chat template, as `{"enable_thinking": False}`; a call's are laid
            over them.
        chat_template: A Jinja template instead of the model's own.
        context_length: Tokens of prompt and answer that one request may hold; by default the model's own.
        parallel: Requests in the batch, by default 16; more wait their turn, in order.
        queue: How many may wait, by default 1024. One more is refused with `RateLimited`, which the port retries within
            the call's time limit.
        prefill_step_size: Tokens of prompts that are computed between two tokens of the answers under way: a long
            prompt holds them up for no longer than that. By default 512 on a GPU, and 16 on a CPU, where MLX takes
            0.1 s for each with a model of 135 million parameters in f32.
        prefix_cache_bytes: Memory for what was computed, running requests included, in bytes (2 GiB by default), the
            least recently used out first; 0 keeps nothing.
        progress: Whether to show progress bars; by default where standard error is a terminal.
        **settings: See `Model`; and `logit_bias`, by token id, and mlx-lm's `logits_processors`.

    Raises:
        MissingDependency: mlx-lm is not installed.
        NotFoundError: There is no such folder or repository, or it holds no weights.
        InvalidRequest: mlx-lm can't load the model; the message says why.

    Example:
        >>> model = MLXModel("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> print(model("What is the capital of France? Answer in one sentence.", temperature=0))
        The capital of France is Paris.
    """

    extra: ClassVar[str] = "mlx-lm"
    declared_capabilities: ClassVar[Capabilities] = LocalModel.declared_capabilities.replace(
        extra_parameters=frozenset({"apply_chat_template_kwargs", "logit_bias", "logits_processors"})
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
        super().__init__(name_or_path(model_id), **settings)
        for name, value, least in (
            ("context_length", context_length, 1),
            ("parallel", parallel, 1),
            ("queue", queue, 0),
            ("prefill_step_size", prefill_step_size, 1),
            ("prefix_cache_bytes", prefix_cache_bytes, 0),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InvalidRequest(f"{name}={value!r}: must be a whole number of at least {least}")
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
        self._engine()

    def _load(self) -> _Engine:
        return _Engine(self, self._loaded)


class _Engine:
    """A model in its batch, in the process that made it.

    Args:
        settings: The model's.
        parent: In a forked process, the engine that it has inherited.
    """

    def __init__(self, settings: MLXModel, parent: _Engine | None) -> None:
        self.pid = os.getpid()
        self.model_id = settings.model_id
        inherited = parent.batch.loaded if parent is not None else None
        self.batch: Batch = Batch(
            lambda: load(settings, inherited),
            settings.parallel,
            settings.queue,
            settings.prefill_step_size,
            DEFAULT_PREFIX_CACHE if settings.prefix_cache_bytes is None else settings.prefix_cache_bytes,
        )
        # A model that is forgotten frees its memory too: the thread holds the batch, and nothing there holds this.
        weakref.finalize(self, self.batch.stop).atexit = False
        loaded = self.batch.loaded
        if loaded is None:
            raise ModelError(CLOSED)
        self.tokenizer, self.eos = loaded.tokenizer, sorted(loaded.eos)
        self.context_length = min(settings.context_length or loaded.context_length, loaded.context_length)
        self.template = Template(
            loaded.apply_template,
            loaded.template,
            settings.apply_chat_template_kwargs,
            calls=loaded.calls and CallFormat(*loaded.calls),
        )
        self._vocab_size, self._defaults = loaded.vocab_size, loaded.defaults
        self._masks = TokenMasks(self.tokenizer, self._vocab_size, self.eos)

    @property
    def busy(self) -> int:
        """Requests that wait or run."""
        return self.batch.busy

    def prompt(self, text: str, images: list[Image]) -> Prompt:
        """The prompt for a rendered conversation; see `TokenEngine`."""
        # Not through the tokenizer object, which changes its settings on the way and refuses a second thread meanwhile.
        return Prompt(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    async def run(self, job: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Computes an answer in the batch; see `TokenEngine`."""
        parameters = {**self._defaults, **job.parameters}
        bias = logit_bias_from(parameters, self._vocab_size)
        lark = job.lark
        matcher = None if lark is None else await in_thread(lambda: self._masks.matcher(lark))
        loop = asyncio.get_running_loop()
        chosen: asyncio.Queue[SampledToken | ModelError] = asyncio.Queue()

        def tell(item: SampledToken | ModelError) -> bool:
            try:
                loop.call_soon_threadsafe(chosen.put_nowait, item)
            except RuntimeError:  # the loop has ended
                return False
            return True

        row = BatchRow(replace(job, parameters=parameters), bias, matcher, tell)
        self.batch.add(row)
        try:
            while True:
                item = await chosen.get()
                if isinstance(item, ModelError):
                    raise item
                yield self._step(item)
                if item.finish:
                    return
        finally:
            self.batch.cancel(row)

    def _step(self, chosen: SampledToken) -> TokenBatch:
        logprobs = None
        if chosen.logprob is not None:
            entry = {**token_text(self.tokenizer, chosen.token), "logprob": chosen.logprob}
            entry["top_logprobs"] = [
                {**token_text(self.tokenizer, token), "logprob": value} for token, value in chosen.best or ()
            ]
            logprobs = [entry]
        return TokenBatch([chosen.token], logprobs, chosen.cached, chosen.finish)

    def detach_after_fork(self) -> None:
        """Keeps the engine of the parent process from ever being destroyed in this one."""
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def close(self) -> None:
        """Ends every request with an error, and frees the model."""
        self.batch.close(CLOSE_TIMEOUT)
