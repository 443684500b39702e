"""llama.cpp in this process: the default local model, and any GGUF file.

A request becomes the body of a chat-completions request, which the engine runs in a thread. For each token, the engine
calls a function of modelport with an event. `EventReader` turns events into deltas in that thread, and the event loop
receives the deltas.

The engine always streams internally, even for a non-streaming response. So a cancelled call ends within one token of
its output or 512 tokens of its prompt, and token usage is known when modelport ends the output at a stop sequence. Stop
sequences are not sent to the engine, because it does not report which one it found. Also, if one token completes two of
them, the engine stops at the one that begins first, but modelport stops at the one that ends first on every backend.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, MissingDependency, RateLimited, ServerError
from modelport.inputs.settings import name_or_path
from modelport.inputs.vendor_parameters import parameters_of
from modelport.layers.adapt.prompted_tools import read_calls
from modelport.local.bounds import check_bounds, check_prompt_size, text_size
from modelport.local.chat_template import template_message
from modelport.local.engine import EngineModel, check_integers, model_closed, never_destroy, tokens_per_notification
from modelport.local.image_sizes import check_media
from modelport.local.llamacpp.engine_fields import SAVED_ENGINE_FIELDS, set_engine_params
from modelport.local.llamacpp.events import EventHandler, EventReader
from modelport.local.llamacpp.gguf_header import check_header
from modelport.local.llamacpp.grammars import (
    compile_grammar,
    give_tools_to_template,
    grammar_after_reasoning,
    required_call,
    supports_reasoning,
)
from modelport.local.llamacpp.weights import resolve_weights
from modelport.local.special_tokens import SPACE_ADDED
from modelport.local.template_renderer import check_template, probe_template
from modelport.protocols.chat_completions.dialects import llama_grammar
from modelport.protocols.chat_completions.request import body_from
from modelport.runtime.lifecycle import CLOSE_TIMEOUT
from modelport.runtime.threads import Emit, in_thread, iterate_in_thread
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

DEFAULT_CONTEXT_LENGTH = 8192
_DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
#: How many calls that have ended may still occupy the engine. Further calls are refused.
MAX_ABANDONED_JOBS = 64


class LlamaCppModel(EngineModel["_LlamaCppEngine"]):
    """A GGUF model in this process, on llama.cpp.

    Requests share the engine: up to `parallel` requests run in one batch. The engine caches the prompts of earlier
    requests, so an agent's next turn computes only its new tokens. `cached_input_tokens` counts the cached tokens.

    Args:
        model_id: A `.gguf` file, a folder with one such file, `owner/repo:file.gguf` on the Hugging Face Hub, or `None`
            for the default local model, SmolLM2-135M-Instruct (93 MB, downloaded once).
        context_length: The most tokens of prompt and output in one request; by default 8192, or the model's own limit
            if that is less. llama.cpp rounds it up to a multiple of 256.
        parallel: How many requests run at once, by default 4. Further requests wait.
        threads: CPU threads; by default the engine's choice.
        gpu_layers: How many layers to put on the GPU; by default as many as fit, where there is a GPU.
        chat_template: A Jinja template instead of the model's own.
        mmproj: The GGUF file of the model's vision (or audio) projector.
        engine_params: Further fields of llama.cpp's `CommonParams`, as `{"flash_attn_type": …}`.
        progress: Whether to show a progress bar for a download; by default where standard error is a terminal.
        **settings: See `Model`; also parameters of llama.cpp's sampler: `repeat_penalty`, `mirostat`, `logit_bias`, …

    Raises:
        MissingDependency: A package is missing; the message gives the command that installs it.
        NotFoundError: There is no such file or folder.
        ModelError: The weights can't be downloaded or loaded; the subclass says why.

    Examples:
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
        extra_parameters=parameters_of("llamacpp"),
        forwards_unknown=False,  # The engine would silently ignore other names.
    )

    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {"engine_params": SAVED_ENGINE_FIELDS}
    saved_parameters: ClassVar[frozenset[str] | None] = parameters_of("llamacpp")

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
        super().__init__(_DEFAULT_MODEL if model_id is None else name_or_path(model_id), **settings)
        check_integers(minimum=1, context_length=context_length, parallel=parallel, threads=threads)
        check_bounds({"gpu_layers": gpu_layers})
        check_bounds(engine_params or {}, "engine_params")
        self.context_length = context_length
        self.parallel = parallel
        self.threads = threads
        self.gpu_layers = gpu_layers
        self.chat_template = chat_template
        self.mmproj = None if mmproj is None else os.fspath(mmproj)
        self.engine_params = engine_params
        self.progress = progress
        self._engine()

    def _load_engine(self) -> _LlamaCppEngine:
        return _LlamaCppEngine(self)

    def _declare(self) -> Capabilities:
        properties = self._engine().properties
        template_source, features = properties.get("chat_template", ""), properties.get("chat_template_caps", {})
        reasoning = supports_reasoning(template_source)
        efforts = {"none"} if "enable_thinking" in template_source else set()
        efforts |= {"low", "medium", "high"} if features.get("supports_reasoning_effort") else set()
        media = {name for name, key in (("image", "vision"), ("audio", "audio")) if properties["modalities"].get(key)}
        return self.declared_capabilities.replace(
            tools=bool(features.get("supports_tools")),
            system_role=bool(features.get("supports_system_role", True)),
            inputs={"text"} | media,
            reasoning=reasoning,
            reasoning_budget=reasoning,
            reasoning_efforts=efforts,
        )

    def count_tokens(self, text: str) -> int:
        """Return how many tokens the model's tokenizer makes of a text.

        Args:
            text: The text to encode, without a chat template around it.
        """
        return len(self._engine().query("/tokenize", {"content": text, "parse_special": True})["tokens"])

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Run a request; see `Model.deltas`."""
        # The engine does not enforce `tool_choice="required"`. So the call is the whole output, as JSON.
        call = required_call(request)
        deltas = self._engine_deltas(request, call or request.grammar, is_call=call is not None)
        async with aclosing(deltas if call is None else read_calls(deltas, forced=True)) as read:
            async for delta in read:
                yield delta

    async def _engine_deltas(
        self, request: Request, grammar: Grammar | None, *, is_call: bool
    ) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        check_bounds(request.parameters)
        engine = self._engine()
        check_media(request.messages)
        check_prompt_size(text_size(request.messages), engine.context_length, engine.header.longest_token)
        body = body_from(request.replace(stream=True, stop_sequences=()), model_id=None, dialect="llama.cpp")
        warnings = await in_thread(lambda: engine.check_body(request, body))
        if is_call:
            give_tools_to_template(body)
        reader = EventReader()
        if grammar is not None:
            lark, matcher = await in_thread(partial(compile_grammar, grammar))
            body["grammar"] = llama_grammar(lark)
            if request.capabilities.reasoning:
                # The engine applies the grammar to the reasoning too. So the grammar allows any reasoning first, and
                # line breaks between it and the output. The engine returns these as content.
                body["grammar"] = llama_grammar(await in_thread(lambda: engine.allow_reasoning(lark, body)))
                reader.drop_leading_line_breaks = True
            else:
                # The content of a model that reasons is not checked: the engine may send the reasoning as content, for
                # instance with `reasoning_format="none"`.
                reader.detect_ignored_grammar(matcher, is_json="%json" in lark)
        if isinstance(bias := body.get("logit_bias"), Mapping):  # xllamacpp accepts token ids only as strings.
            body["logit_bias"] = {str(token): value for token, value in bias.items()}
        # The engine reports token counts with every token, so that usage is known when modelport ends the output at a
        # stop sequence. It also reports progress after each 512 tokens of the prompt, at which a call can be cancelled.
        body |= {"timings_per_token": True, "return_progress": True}
        with engine.running(self.model_id) as job:
            run = engine.chat(body, reader, job, tokens_per_delta=tokens_per_notification(request))
            # If the caller closes the stream, `aclosing` ends the request, and waits until the thread that runs it has
            # ended, but at most `CLOSE_TIMEOUT` seconds. If the call is cancelled, it waits a moment only.
            async with aclosing(iterate_in_thread(run, patience=CLOSE_TIMEOUT)) as deltas:
                async for delta in deltas:
                    yield delta
        last_delta = reader.finish()
        last_delta.model_id, last_delta.warnings = self.model_id, warnings
        yield last_delta


class _Job:
    """A request that runs in the engine. Its thread can outlast its call, as the engine ends a request only at a token.

    `abandoned` says whether the call has ended, so that nobody waits for the thread any more.
    """

    abandoned = False


class _LlamaCppEngine:
    """The engine of one `LlamaCppModel` in one process: llama.cpp's server object (`xllamacpp.Server`)."""

    def __init__(self, model: LlamaCppModel) -> None:
        try:
            import xllamacpp
        except ImportError:
            raise MissingDependency("xllamacpp", "llamacpp") from None
        self.pid = os.getpid()
        self.model_id = model.model_id
        # The engine always listens on a loopback port. Other users of the machine can't use it without this API key.
        self._api_key = secrets.token_hex(16)
        params = xllamacpp.CommonParams()
        params.model.path = str(resolve_weights(model.model_id, progress=model.progress))
        self.header = check_header(params.model.path)
        params.n_parallel = model.parallel
        # A cancelled call ends after at most this many further tokens of its prompt. Larger batches were no faster.
        params.n_batch = 512
        params.verbosity = 0
        params.api_keys = [self._api_key]
        params.n_ctx = (model.context_length or DEFAULT_CONTEXT_LENGTH) * model.parallel
        if model.gpu_layers is not None:
            params.n_gpu_layers = model.gpu_layers
        if model.chat_template is not None:
            params.chat_template = model.chat_template
        if model.mmproj is not None:
            params.mmproj.path = str(resolve_weights(model.mmproj, progress=model.progress))
            check_header(params.mmproj.path)
        if model.threads is not None:
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = model.threads
        elif (cores := os.cpu_count() or 1) <= 4:
            # One core is left to other processes, because the engine's threads wait for each other by spinning. On two
            # cores with another busy process, decoding 8 tokens took 13 s with two threads and 0.07 s with one. Without
            # the other process, one thread is as fast as two.
            params.cpuparams.n_threads = max(1, cores - 1)
        set_engine_params(params, model.engine_params or {})
        #: The templates of which llama.cpp chooses one.
        self._templates = (params.chat_template,) if params.chat_template else self.header.chat_templates
        probe_template(self._templates, "chat_template" if params.chat_template else params.model.path)
        self._server: Any = None
        #: The requests whose threads have not ended.
        self._jobs: set[_Job] = set()
        #: What the engine reports about the model: its chat template, the template's features, and its modalities.
        self.properties: dict[str, Any] = {}
        self._load_in_thread(lambda: xllamacpp.Server(params), params.model.path)
        #: The most tokens of prompt and output in one request.
        self.context_length: int = self.properties["default_generation_settings"]["n_ctx"]

    def _load_in_thread(self, load: Callable[[], Any], path: str) -> None:
        """Load the engine in a thread, where Ctrl-C can't interrupt the code before the engine's own loop runs.

        An engine that is destroyed before its loop runs does not end: its destructor waits for the loop for ever, and
        blocks all Python threads, because it does not release the interpreter's lock.
        """
        failure: list[Exception] = []

        def work() -> None:
            try:
                self._server = load()
                self.query("/slots")  # The engine's loop responds to this, so the loop has started.
                self.properties = self.query("/props")
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=work, name="modelport-load", daemon=True)
        thread.start()
        thread.join()
        if failure:
            raise ServerError(
                f"llama.cpp could not load {path!r}: {str(failure[0]).rstrip('.')}. Are the weights complete? Is there "
                "memory for this context_length? Does the chat template render a conversation?",
                retryable=False,
            ) from None

    @contextmanager
    def running(self, model_id: str | None) -> Iterator[_Job]:
        """Yield a job for a new call.

        Raises:
            RateLimited: The threads of too many earlier calls, which have ended, are still busy.
        """
        if sum(job.abandoned for job in list(self._jobs)) >= MAX_ABANDONED_JOBS:
            raise RateLimited(
                f"{MAX_ABANDONED_JOBS} calls that were cancelled or ran out of time still occupy llama.cpp, which ends "
                "a request only between two tokens. Try again later, or give calls more time",
                model_id=model_id,
            )
        job = _Job()
        try:
            yield job
        finally:
            job.abandoned = True

    def chat(
        self, body: dict[str, Any], reader: EventReader, job: _Job, tokens_per_delta: int
    ) -> Callable[[Emit[ChatMessageStreamDelta]], None]:
        """Return a blocking function that runs one request and emits its deltas.

        Args:
            body: The body of a chat-completions request.
            reader: Turns events into deltas.
            job: Counts as running until the function has returned.
            tokens_per_delta: How many tokens to collect in one delta.
        """
        server = self._server
        if server is None:
            raise model_closed(self.model_id)

        def run(emit: Emit[ChatMessageStreamDelta]) -> None:
            handler = EventHandler(reader, emit, tokens_per_delta)
            self._jobs.add(job)
            try:
                server.handle_chat_completions(body, handler.on_event)
            except RuntimeError as error:  # Raised before the first token, for instance by the chat template.
                raise InvalidRequest(f"llama.cpp refused the request: {error}") from None
            except (TypeError, ValueError, OverflowError) as error:  # A value can't be converted to the engine's type.
                raise InvalidRequest(f"llama.cpp can't read the request: {error}") from error
            finally:
                self._jobs.discard(job)
            handler.finish()

        return run

    def check_body(self, request: Request, body: dict[str, Any]) -> list[CallWarning] | None:
        """Put a space into the spellings of special tokens, and check that llama.cpp's rendering will end.

        Args:
            request: The request.
            body: Its body, which is changed.

        Returns:
            The warnings for the message, if there are any.

        Raises:
            InvalidRequest: The chat template computes or produces too much.
        """
        special_tokens, texts = self.header.special_tokens, {name: body.get(name) for name in ("messages", "tools")}
        is_broken = special_tokens.occur_in(texts)
        if is_broken:
            body |= {name: special_tokens.break_in(value, " ") for name, value in texts.items() if value is not None}
        given = {name: body[name] for name in ("tools", "enable_thinking", "reasoning_effort") if name in body}
        variables = {**self.header.template_variables, **given, **(body.get("chat_template_kwargs") or {})}
        check_template(self._templates, [template_message(message) for message in request.messages], variables)
        return [SPACE_ADDED] if is_broken else None

    def query(self, path: str, body: Any = None) -> Any:
        """Send a request to the engine's own HTTP port, for functions that xllamacpp does not offer in Python."""
        host = self._server.listening_address.partition("//")[2]
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self._api_key}", "Content-Type": "application/json"}
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
            return json.load(connection.getresponse())
        finally:
            connection.close()

    def allow_reasoning(self, lark: str, body: Mapping[str, Any]) -> str:
        """Return a grammar that allows reasoning before output of the given grammar.

        Args:
            lark: The grammar of the output.
            body: The body of a chat-completions request. The engine renders its prompt.
        """
        relevant = {key: body[key] for key in ("messages", "chat_template_kwargs", "tools") if key in body}
        prompt: str = self.query("/apply-template", relevant).get("prompt", "")
        template: str = self.properties.get("chat_template", "")
        return grammar_after_reasoning(lark, template, prompt, self.header.special_tokens, self.query)

    def detach_after_fork(self) -> None:
        """Ensure that this process, a forked child, never destroys the engine of its parent process."""
        never_destroy(self._server)

    def close(self) -> None:
        """Release the engine; it is destroyed when the last request in progress has ended."""
        if self.pid != os.getpid():
            self.detach_after_fork()
        self._server = None
