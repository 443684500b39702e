"""llama.cpp in this process: the embedded default, and any GGUF file."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import allow_reasoning, ends_inside_reasoning
from modelport.errors import InvalidRequest, MissingDependency, ModelError, ServerError, UnsupportedFeature
from modelport.inputs.settings import name_or_path
from modelport.local.engine import EngineModel
from modelport.local.grammar_matching import Follower, check_grammar
from modelport.local.llamacpp.weights import resolve_weights
from modelport.protocols.chat_completions.dialects import llama_grammar
from modelport.protocols.chat_completions.errors import error_from
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.runtime.lifecycle import CLOSE_TIMEOUT
from modelport.runtime.threads import in_thread, iterate_in_thread
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Request
from modelport.types.usage import TokenUsage

#: What the engine's sampler takes beside the parameters that every backend knows; it passes over others in silence.
#: See https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
SAMPLING = frozenset(
    """
    typical_p dynatemp_range dynatemp_exponent top_n_sigma min_keep repeat_penalty repeat_last_n dry_multiplier dry_base
    dry_allowed_length dry_penalty_last_n dry_sequence_breakers xtc_probability xtc_threshold mirostat mirostat_tau
    mirostat_eta logit_bias ignore_eos samplers cache_prompt id_slot t_max_predict_ms n_keep lora chat_template_kwargs
    reasoning_format reasoning_effort thinking_budget_tokens enable_thinking
    """.split()  # noqa: SIM905
)
DEFAULT_CONTEXT = 8192


class LlamaCppModel(EngineModel["_Engine"]):
    """A GGUF model in this process, on llama.cpp.

    Requests share the engine: up to `parallel` at once in one batch, each with the prompt cache of its slot, so that an
    agent's next turn costs its new tokens. A prompt in the cache is reported as `cached_input_tokens`.

    Args:
        model_id: A `.gguf` file, a folder with one, `owner/repo:file.gguf` on the Hugging Face Hub, or `None` for the
            embedded default, SmolLM2-135M-Instruct (93 MB, downloaded once).
        context_length: Tokens of prompt and answer that one request may hold; by default the model's own, at most 8192.
        parallel: Requests that run at once, by default 4; more wait their turn.
        threads: CPU threads; by default the engine's choice.
        gpu_layers: Layers on the GPU; by default as many as fit, where there is one.
        chat_template: A Jinja template instead of the model's own.
        mmproj: The GGUF file of the model's vision (or audio) projector.
        engine_params: Further fields of llama.cpp's `CommonParams`, as `{"flash_attn_type": …}`.
        progress: Whether to show a progress bar for a download; by default where standard error is a terminal.
        **settings: See `Model`; and of llama.cpp's sampler `repeat_penalty`, `mirostat`, `logit_bias`, …

    Raises:
        MissingDependency: A package is missing; the message holds the command.
        NotFoundError: There is no such file or folder.
        ModelError: The weights can't be had or loaded; its subclass says why.

    Example:
        >>> model = LlamaCppModel()
        >>> print(model("What is the capital of France? Answer in one sentence.", temperature=0))
        The capital of France is Paris.
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        tools=False,
        tool_choices=frozenset({"auto", "none", "required"}),
        grammars=frozenset({JSONSchema, Regex, Choice, Lark}),
        logprobs=True,
        seed=True,
        usage=True,
        cached_tokens=True,
        consecutive_roles=False,
        renamed={"repetition_penalty": "repeat_penalty", "reasoning_budget": "thinking_budget_tokens"},
        extra_parameters=SAMPLING,
    )

    def __init__(
        self,
        model_id: str | os.PathLike[str] | None = None,
        *,
        context_length: int | None = None,
        parallel: int = 4,
        threads: int | None = None,
        gpu_layers: int | None = None,
        chat_template: str | None = None,
        mmproj: str | os.PathLike[str] | None = None,
        engine_params: Mapping[str, Any] | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(name_or_path(model_id) if model_id else "HuggingFaceTB/SmolLM2-135M-Instruct", **settings)
        for name, value in (("context_length", context_length), ("parallel", parallel), ("threads", threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InvalidRequest(f"{name}={value!r}: must be a whole number of at least 1")
        self.context_length = context_length
        self.parallel = parallel
        self.threads = threads
        self.gpu_layers = gpu_layers
        self.chat_template = chat_template
        self.mmproj = None if mmproj is None else os.fspath(mmproj)
        self.engine_params = engine_params
        self.progress = progress
        self._engine()

    def _load(self) -> _Engine:
        return _Engine(self)

    def _declare(self) -> Capabilities:
        props = self._engine().props
        template = props.get("chat_template_caps", {})
        thinks = "<think" in props.get("chat_template", "") or "reasoning" in props.get("chat_template", "")
        efforts = {"none"} if "enable_thinking" in props.get("chat_template", "") else set()
        efforts |= {"low", "medium", "high"} if template.get("supports_reasoning_effort") else set()
        seen = {name for name, key in (("image", "vision"), ("audio", "audio")) if props["modalities"].get(key)}
        return self.declared_capabilities.replace(
            tools=bool(template.get("supports_tools")),
            system_role=bool(template.get("supports_system_role", True)),
            inputs={"text"} | seen,
            reasoning=thinks,
            reasoning_budget=thinks,
            reasoning_efforts=efforts,
        )

    def count_tokens(self, text: str) -> int:
        """How many tokens the model's tokenizer makes of a text.

        Args:
            text: Taken as it is; no chat template is put around it.
        """
        return len(self._engine().ask("/tokenize", {"content": text, "parse_special": True})["tokens"])

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`. Always streamed inside, so that any call can be cancelled."""
        engine = self._engine()
        body = body_from(request.replace(stream=True, stop_sequences=()), None, self.capabilities, "llama.cpp")
        answering, follower, lark = False, None, ""
        if request.grammar is not None:
            check_grammar(lark := as_lark(request.grammar, old_llguidance=True), "llamacpp")
            if answering := self.capabilities.reasoning:  # The thought is free; the engine would mask it too.
                opened = await in_thread(lambda: engine.ends_inside_reasoning(body))
                body["grammar"] = llama_grammar(allow_reasoning(lark, opened))
            else:
                follower = Follower(lark)
        if isinstance(bias := body.get("logit_bias"), Mapping):  # by token id; the binding takes no numbers for keys
            body["logit_bias"] = {str(token): value for token, value in bias.items()}
        # Counts with every token, so that usage is known where the port cuts at a stop sequence; progress with every
        # batch of the prompt, so that a call can be cancelled before its first token.
        body |= {"timings_per_token": True, "return_progress": True}
        reader = ChatResponseReader()
        # Closed here, not left to the garbage collector: the engine's thread must have ended before the caller goes on.
        async with aclosing(iterate_in_thread(engine.chat(body), patience=CLOSE_TIMEOUT)) as events:
            async for event in events:
                if (delta := reader.read_chunk(event)) is not None:
                    if answering and delta.content:
                        # The lines between thought and answer, which the engine leaves to the answer.
                        delta.content = delta.content.lstrip("\n") or None
                        answering = delta.content is None
                    delta.token_usage = _usage(event.get("timings"))
                    if follower is not None and delta.content:
                        if not follower.follows(delta.content):
                            raise UnsupportedFeature(
                                "grammar: llama.cpp did not hold its answer to it. It has an older llguidance built in "
                                "and passes over a grammar that this can't read: say it in simpler terms",
                                parameter="grammar",
                            )
                        if "%json" in lark:  # of which the two allow other spellings; it is checked as JSON at its end
                            follower = None
                    yield delta
        closing = reader.finish()
        closing.model_id = self.model_id
        yield closing


def _usage(timings: Mapping[str, int] | None) -> TokenUsage | None:
    if not timings or "predicted_n" not in timings:
        return None
    cached = timings["cache_n"]
    return TokenUsage(cached + timings["prompt_n"], timings["predicted_n"], cached)


class _Engine:
    """One llama.cpp server object, in the process that made it."""

    def __init__(self, model: LlamaCppModel) -> None:
        try:
            import xllamacpp
        except ImportError:
            raise MissingDependency("xllamacpp", "llamacpp") from None
        self.pid = os.getpid()
        self.model_id = model.model_id
        # The engine opens a port on loopback whether one wants it or not; a key keeps other users of the machine out.
        self._key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(resolve_weights(model.model_id, progress=model.progress))
        params.n_parallel = model.parallel
        params.n_batch = 512  # a cancelled call ends within one batch of its prompt; larger ones were no faster
        params.verbosity = 0
        params.api_keys = [self._key]
        params.n_ctx = (model.context_length or DEFAULT_CONTEXT) * model.parallel
        if model.gpu_layers is not None:
            params.n_gpu_layers = model.gpu_layers
        if model.chat_template is not None:
            params.chat_template = model.chat_template
        if model.mmproj is not None:
            params.mmproj.path = str(resolve_weights(model.mmproj, progress=model.progress))
        if model.threads is not None:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = model.threads
        elif (cores := os.cpu_count() or 1) <= 4:
            # The engine's threads wait for each other by spinning: on two cores with one other busy process, decoding
            # 8 tokens took 13 s with two threads and 0.07 s with one, which alone is as fast as two.
            params.cpuparams.n_threads = max(1, cores - 1)
        for name, value in (model.engine_params or {}).items():
            if not hasattr(params, name):
                raise InvalidRequest(f"engine_params: {name!r} is no field of llama.cpp's CommonParams")
            setattr(params, name, value)
        self._server: Any = None
        self.props: dict[str, Any] = {}
        self._start(lambda: xllamacpp.Server(params), params.model.path)

    def _start(self, load: Callable[[], Any], path: str) -> None:
        """Loads the engine in a thread, where no Ctrl-C can come between its making and the beginning of its loop.

        Destroyed between the two, it would miss the word to end, and its destructor wait for ever with the
        interpreter's lock in its hand.
        """
        failure: list[Exception] = []

        def work() -> None:
            try:
                self._server = load()
                self.ask("/slots")  # is answered by the engine's own loop
                self.props = self.ask("/props")
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=work, name="modelport-load", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise ServerError(
                f"llama.cpp could not load {path!r}: {str(failure[0]).rstrip('.')}. Does it fit the memory?",
                retryable=False,
            ) from None

    def chat(self, body: dict[str, Any]) -> Callable[[Callable[[Any], bool]], None]:
        """A blocking function that runs one request and emits the engine's events."""
        server = self._server
        if server is None:
            raise ModelError("this model has been closed; make a new one", model_id=self.model_id)

        def run(emit: Callable[[Any], bool]) -> None:
            failure: list[ModelError] = []

            def on_event(event: dict[str, Any]) -> bool:
                if "error" in event:
                    failure.append(error_from(event["error"].get("code"), event, engine=True))
                    return True
                return emit(event)

            try:
                server.handle_chat_completions(body, on_event)
            except RuntimeError as error:  # thrown while the request is read, by the chat template for instance
                raise InvalidRequest(f"llama.cpp refused the request: {error}") from None
            if failure:
                raise failure[0]

        return run

    def ask(self, path: str, body: Any = None) -> Any:
        """A question to the engine's own HTTP port, for what has no call in process."""
        host = self._server.listening_address.partition("//")[2]
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def ends_inside_reasoning(self, body: Mapping[str, Any]) -> bool:
        """Whether the prompt for this request ends within a thought."""
        asked = {key: body[key] for key in ("messages", "chat_template_kwargs", "tools") if key in body}
        rendered: str = self.ask("/apply-template", asked).get("prompt", "")
        return ends_inside_reasoning(rendered)

    def detach_after_fork(self) -> None:
        """Keeps the engine of the parent process from ever being destroyed in this one."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._server))

    def close(self) -> None:
        """Lets go of the engine; it is destroyed when the last request under way has ended."""
        if self.pid != os.getpid():
            self.detach_after_fork()
        self._server = None
