"""The way from a request to tokens and back, shared by the engines that take tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Protocol, TypeVar

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import after_thinking, opens_thought
from modelport.errors import ContextWindowExceeded
from modelport.layers.adapt.prompted_tools import call_schema, read_calls
from modelport.layers.base import Deltas
from modelport.local.chat_template import CallFormat, Template
from modelport.local.engine import Engine, EngineModel
from modelport.local.grammar_matching import check_grammar
from modelport.local.text import Decoder, ThinkingSplitter
from modelport.protocols.chat_completions.output_format import effort_variables
from modelport.runtime.threads import in_thread
from modelport.types.capabilities import Capabilities
from modelport.types.content import Image
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice
from modelport.types.usage import TokenUsage


@dataclass(frozen=True)
class Prompt:
    """What the model reads.

    Args:
        tokens: Their ids.
        inputs: What a processor adds for images, such as `pixel_values`; empty for text alone.
        thinking: Whether the prompt ends within a thought.
    """

    tokens: list[int]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    thinking: bool = False


@dataclass(frozen=True)
class EngineRequest:
    """One answer to compute.

    Args:
        prompt: What the model reads.
        max_tokens: At most so many tokens; what the context holds at most.
        parameters: The request's parameters, without `max_tokens`.
        lark: The grammar that holds the answer, in llguidance's Lark; `None` for free text.
        whole: Whether nobody looks at the answer before its end, so that its steps may be told several at once.
    """

    prompt: Prompt
    max_tokens: int
    parameters: Mapping[str, Any]
    lark: str | None = None
    whole: bool = False


@dataclass(slots=True)
class TokenBatch:
    """Some tokens of an answer.

    Args:
        tokens: Their ids, the one that ends the answer included.
        logprobs: A dict for each token, as `ChatMessage.logprobs` holds them, where asked for.
        cached: How many of the prompt's tokens were not computed; once, on the first step.
        finish: On the last step `stop` or `length`.
    """

    tokens: list[int]
    logprobs: list[dict[str, Any]] | None = None
    cached: int | None = None
    finish: str | None = None


class TokenEngine(Engine, Protocol):
    """An engine that takes tokens and gives tokens."""

    #: A fast tokenizer of transformers.
    tokenizer: Any
    template: Template
    #: Tokens of prompt and answer that one request may hold.
    context_length: int
    #: The tokens that end an answer.
    eos: list[int]

    def prompt(self, text: str, images: list[Image]) -> Prompt:
        """The prompt for a rendered conversation."""
        ...

    def run(self, job: EngineRequest) -> AsyncGenerator[TokenBatch, None]:
        """Computes an answer; closing the generator stops it within a token."""
        ...


E = TypeVar("E", bound=TokenEngine)


class LocalModel(EngineModel[E]):
    """A model whose engine takes tokens: chat template, grammar, tool calls and thinking are done here."""

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        grammars=frozenset({JSONSchema, Regex, Choice, Lark}),
        logprobs=True,
        seed=True,
        usage=True,
        cached_tokens=True,
        extra_parameters=frozenset({"apply_chat_template_kwargs"}),
    )
    #: The extra that installs this backend.
    extra: ClassVar[str]

    def _declare(self) -> Capabilities:
        return self.declared_capabilities.replace(**self._engine().template.capabilities())

    def count_tokens(self, text: str) -> int:
        """How many tokens the model's tokenizer makes of a text.

        Args:
            text: Taken as it is; no chat template is put around it.
        """
        return len(self._engine().prompt(text, []).tokens)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        engine = self._engine()
        forced = bool(request.tools) and request.tool_choice not in ("auto", "none")
        # Rendering and tokenizing a long conversation takes milliseconds that other calls on this loop need not wait.
        job = await in_thread(lambda: self._job(engine, request, forced))
        answer = self._decoded(engine, job, one_by_one=bool(request.stop_sequences))
        if request.tools and request.tool_choice != "none":
            calls = engine.template.calls or CallFormat("", "")
            read = calls.read and partial(_read, calls.read, [tool.to_dict() for tool in request.tools])
            answer = read_calls(answer, forced, (calls.begin, calls.end), read)
        async with aclosing(answer):
            async for delta in answer:
                yield delta

    def _job(self, engine: E, request: Request, forced: bool) -> EngineRequest:
        parameters = dict(request.parameters)
        many = bool(parameters.pop("parallel_tool_calls", False))
        tools = request.tools if request.tool_choice != "none" else ()
        grammar: Grammar | None = request.grammar
        if forced:
            if isinstance(choice := request.tool_choice, NamedToolChoice):
                tools = tuple(tool for tool in tools if tool.name == choice.name)
            grammar = JSONSchema(call_schema(tools, many))
        variables = parameters.pop("apply_chat_template_kwargs", {})
        if (effort := parameters.pop("reasoning_effort", None)) is not None:
            variables = effort_variables(effort, variables)
        text = engine.template.render(request.messages, tools, **variables)
        thinking = engine.template.thinks and opens_thought(text)
        images = [p for m in request.messages if isinstance(m.content, tuple) for p in m.content if p.kind == "image"]
        prompt = engine.prompt(text, images)
        room = engine.context_length - len(prompt.tokens)
        if room < 1:
            raise ContextWindowExceeded(
                f"the prompt has {len(prompt.tokens)} tokens, and the model's context holds {engine.context_length}, "
                "the answer included: shorten the conversation, or load the model with a larger context_length",
                hint="The option --set context_length=… makes the context larger.",
            )
        lark = None
        if grammar is not None:
            lark = after_thinking(as_lark(grammar), thinking) if engine.template.thinks else as_lark(grammar)
            check_grammar(lark, self.extra)
        prompt = Prompt(prompt.tokens, prompt.inputs, thinking)
        # A stop sequence, the end of a thought or of a call, and a limit of time want to know each token as it comes.
        watched = request.stop_sequences or tools or engine.template.thinks
        timed = request.timeouts.first_token_timeout is not None or request.timeouts.idle_timeout is not None
        whole = not (request.stream or watched or timed)
        return EngineRequest(prompt, min(parameters.pop("max_tokens", room), room), parameters, lark, whole)

    async def _decoded(self, engine: E, job: EngineRequest, one_by_one: bool) -> Deltas:
        calls = engine.template.calls
        # A mark may be a special token, or be made of several.
        special = calls is not None and any(token in calls.begin for token in engine.tokenizer.all_special_tokens)
        decoder = Decoder(engine.tokenizer, engine.eos, special)
        splitter = ThinkingSplitter(job.prompt.thinking) if engine.template.thinks else None
        usage = TokenUsage(len(job.prompt.tokens), 0, 0)
        usage.reasoning_tokens = 0 if splitter else None
        async with aclosing(engine.run(job)) as found:
            # So that tokens behind a stop sequence are not counted.
            steps = _single(found) if one_by_one else found
            async for step in steps:
                text = decoder.feed(step.tokens)
                thought, said = splitter.feed(text) if splitter else ("", text)
                if splitter and step.finish:
                    thought, said = (a + b for a, b in zip((thought, said), splitter.end(), strict=True))
                usage = _added(usage, step, reasoned=bool(splitter and splitter.inside))
                yield ChatMessageStreamDelta(
                    content=said or None,
                    reasoning=thought or None,
                    logprobs=step.logprobs,
                    token_usage=usage,
                    finish_reason=step.finish,
                    model_id=self.model_id if step.finish else None,
                )


async def _single(steps: AsyncGenerator[TokenBatch, None]) -> AsyncGenerator[TokenBatch, None]:
    """A step for each token."""
    async for step in steps:
        last = len(step.tokens) - 1
        for i, token in enumerate(step.tokens):
            logprobs = step.logprobs and [step.logprobs[i]]
            yield TokenBatch([token], logprobs, None if i else step.cached, step.finish if i == last else None)
        if last < 0:
            yield step


def _added(usage: TokenUsage, step: TokenBatch, reasoned: bool) -> TokenUsage:
    """The usage with a step's tokens added."""
    thought = usage.reasoning_tokens
    return TokenUsage(
        usage.input_tokens,
        (usage.output_tokens or 0) + len(step.tokens),
        usage.cached_input_tokens if step.cached is None else step.cached,
        thought if thought is None else thought + len(step.tokens) * reasoned,
    )


def _read(read: Callable[[str, list[dict[str, Any]]], Any], tools: list[dict[str, Any]], text: str) -> Any:
    """A library's reading of a call; what it can't read is `None`."""
    try:
        return read(text, tools)
    except Exception:  # parsers raise what they like
        return None
