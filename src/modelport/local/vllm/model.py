"""`VLLMModel`: what it takes, and how a request becomes vLLM's."""

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
from modelport.local.chat_template import Template
from modelport.local.text import token_text
from modelport.local.token_model import EngineRequest, LocalModel, Prompt, TokenBatch
from modelport.local.vllm.core import Core, release_core, shared_core
from modelport.local.vllm.loading import engine_args, import_vllm, load_tokenizer, make_core, shown
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image

#: Fields of vLLM's SamplingParams that are the port's own business, or whose result a message has no place for.
NOT_FOR_CALLERS = frozenset(
    """
    n stop max_tokens logprobs prompt_logprobs prompt_logprob_token_ids prompt_logprob_start logprob_token_ids
    flat_logprobs detokenize skip_special_tokens spaces_between_special_tokens include_stop_str_in_output output_kind
    skip_clone output_text_buffer_length structured_outputs guided_decoding routed_experts_prompt_start
    """.split()  # noqa: SIM905
)
#: Who names one of these, the caller or the model's generation_config.json, wants more than the likeliest token.
_SAMPLES = frozenset({"temperature", "top_p", "top_k", "min_p", "seed"})
_FINISH = {"stop": "stop", "length": "length", "repetition": "stop"}


class VLLMModel(LocalModel["_Engine"]):
    """A model on vLLM.

    Requests share the engine and its prefix cache: an agent's next turn costs its new tokens, reported as
    `cached_input_tokens`. Models of equal `model_id`, `model_kwargs`, `context_length` and `trust_remote_code` in one
    process share one engine, which is freed when the last of them is closed.

    Where neither the call nor the constructor nor the model's generation_config.json names a temperature or another
    sampling parameter, the likeliest token is taken.

    vLLM's own log is off, but for errors, which go to standard error; set `VLLM_LOGGING_LEVEL` to have it.

    Args:
        model_id: A folder, or `owner/repo` on the Hugging Face Hub.
        model_kwargs: Further fields of vLLM's `AsyncEngineArgs`, as `{"tensor_parallel_size": 2, "dtype": "bfloat16",
            "distributed_executor_backend": "ray"}`.
            See https://docs.vllm.ai/en/latest/configuration/engine_args.html
        apply_chat_template_kwargs: Variables for the chat template, as `{"enable_thinking": False}`; a call's win.
        context_length: Tokens of prompt and answer that one request may hold (vLLM's `max_model_len`); by default the
            model's own.
        chat_template: A Jinja template instead of the model's own.
        trust_remote_code: Whether to run Python code that comes with the model.
        progress: Whether to show on standard error that the model is being loaded; by default where that is a terminal.
        **settings: See `Model`; and vLLM's `SamplingParams`, as `min_tokens`, `logit_bias`, `bad_words`.
            See https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html

    Raises:
        InvalidRequest: A setting is wrong.
        NotFoundError: There is no such model, or it holds no weights.
        ServerError: vLLM could not load it; the memory may not suffice.

    Example:
        >>> model = VLLMModel("HuggingFaceTB/SmolLM2-135M-Instruct")
        >>> print(model("What is the capital of France? Answer in one sentence.", temperature=0))
        The capital of France is Paris.
    """

    extra: ClassVar[str] = "vllm"
    #: Settings that name classes for vLLM to import. `backend` is a setting of its compilation.
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
        if context_length is not None and (not isinstance(context_length, int) or context_length < 1):
            raise InvalidRequest(f"context_length={context_length!r}: must be a whole number of at least 1")
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

    def _load(self) -> _Engine:
        return _Engine(self)

    def _check_parameters(self) -> None:
        """Not here: which parameters vLLM takes is known when it has been imported, and each call checks them."""

    def _declare(self) -> Capabilities:
        names = self._engine().parameters
        extra = self.declared_capabilities.extra_parameters or frozenset()
        return super()._declare().replace(extra_parameters=extra | names)


class _Engine:
    """What one model needs: its template, its tokenizer and its share in an engine."""

    def __init__(self, model: VLLMModel) -> None:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ModelError(
                "this script is being imported by a process that it has started: with classes of the script's own in "
                'model_kwargs, what loads the model must stand under `if __name__ == "__main__":`'
            )
        import_vllm()
        from vllm import SamplingParams

        self.pid = os.getpid()
        given = engine_args(model)
        with shown(model):
            self.core = shared_core(repr(sorted(given.items())), lambda: make_core(model, given))
        self._give_back = weakref.finalize(self, _give_back_later, self.core)
        self._give_back.atexit = False  # `close` comes at exit
        try:
            self._read(model)
        except BaseException:
            self.close()
            raise
        names = SamplingParams.__struct_fields__
        self.parameters = frozenset(name for name in names if name[0] != "_") - NOT_FOR_CALLERS

    def _read(self, model: VLLMModel) -> None:
        config = self.core.config.model_config
        self.tokenizer, source = load_tokenizer(config, model.chat_template)
        self.context_length: int = config.max_model_len
        variables = {**(model.apply_chat_template_kwargs or {})}
        if model.chat_template is not None:
            variables["chat_template"] = model.chat_template
        self.template = Template(self.tokenizer.apply_chat_template, source, variables)
        generation = config.try_get_generation_config()
        ends = generation.get("eos_token_id") or []
        ends = [ends] if isinstance(ends, int) else list(ends)
        self.eos: list[int] = list({*ends, *filter(None, [self.tokenizer.eos_token_id])})
        self._defaults: dict[str, Any] = config.get_diff_sampling_param()

    def prompt(self, text: str, images: list[Image]) -> Prompt:
        """The prompt for a rendered conversation."""
        return Prompt(self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    async def run(self, job: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Computes an answer; closing the generator stops it within a token."""
        params = self._sampling(job)
        cached: int | None = 0
        async with aclosing(self.core.outputs({"prompt_token_ids": job.prompt.tokens}, params)) as outputs:
            async for output in outputs:
                answer = output.outputs[0]
                if answer.finish_reason not in (None, *_FINISH):
                    raise ServerError(f"vLLM ended the answer with {answer.finish_reason!r}")
                yield TokenBatch(
                    list(answer.token_ids),
                    self._logprobs(answer, job.parameters.get("top_logprobs") or 0) if answer.logprobs else None,
                    output.num_cached_tokens if cached is not None else None,
                    _FINISH.get(answer.finish_reason or ""),
                )
                cached = None

    def _sampling(self, job: EngineRequest) -> Any:
        import msgspec
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        given = {**self._defaults, **job.parameters, "max_tokens": job.max_tokens, "detokenize": False}
        if not _SAMPLES & given.keys():
            given["temperature"] = 0  # as transformers does where nobody asks for anything else; vLLM's default is 1
        asked, top = given.pop("logprobs", False), given.pop("top_logprobs", 0)
        if asked:
            given["logprobs"] = top or 0
        if "seed" in given:
            given["seed"] &= 2**63 - 1  # vLLM takes -1 for "none"
        try:
            params = msgspec.convert(given, SamplingParams, str_keys=True)
        except Exception as error:  # of msgspec where a type is wrong, of vLLM where a value is
            raise InvalidRequest(f"vLLM's SamplingParams: {error}") from None
        params.output_kind = RequestOutputKind.DELTA
        if job.lark is not None:
            params.structured_outputs = StructuredOutputsParams(grammar=job.lark)
        return params

    def _logprobs(self, answer: Any, top: int) -> list[dict[str, Any]]:
        def entry(token: int, logprob: float) -> dict[str, Any]:
            # What a mask has made impossible is -inf, which JSON can't hold; -9999 is what services say.
            return {**token_text(self.tokenizer, token), "logprob": max(logprob, -9999.0)}

        found = []
        for token, known in zip(answer.token_ids, answer.logprobs, strict=True):
            best = sorted((item.rank, other, item.logprob) for other, item in known.items())[:top]
            alternatives = [entry(other, logprob) for _, other, logprob in best]
            found.append({**entry(token, known[token].logprob), "top_logprobs": alternatives})
        return found

    def detach_after_fork(self) -> None:
        """Keeps the engine of the parent process from ever being destroyed in this one."""
        self._give_back.detach()
        self.core.detach_after_fork()

    def close(self) -> None:
        """Gives the engine back; requests under way end with an error where nobody else uses it."""
        if self._give_back.detach() is not None and self.pid == os.getpid():
            release_core(self.core)


def _give_back_later(core: Core) -> None:
    # The garbage collector may run anywhere, on the engine's own loop too.
    threading.Thread(target=release_core, args=(core,), name="modelport-close", daemon=True).start()
