"""The base class of backends whose engine takes and returns token ids.

`TokenEngineModel.deltas` renders the conversation with the chat template, encodes it, and turns the output type into a
grammar. Then it runs the engine, and turns the tokens into deltas with text, reasoning, tool calls, and token usage.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

from modelport.constrained.lark import as_lark
from modelport.constrained.reasoning import allow_reasoning
from modelport.errors import ContextWindowExceeded
from modelport.layers.adapt.prompted_tools import call_schema, read_calls
from modelport.layers.base import Deltas
from modelport.local.bounds import LONG_PROMPT, check_bounds, check_prompt_size, text_size
from modelport.local.detokenizer import Detokenizer, special_token_ids
from modelport.local.engine import EngineModel, tokens_per_notification
from modelport.local.special_tokens import SPACE_ADDED
from modelport.local.token_engine import EngineRequest, Prompt, TokenBatch, TokenEngine
from modelport.protocols.chat_completions.dialects import template_variables_for
from modelport.protocols.output_text.call_formats import TAGGED_JSON
from modelport.protocols.output_text.calls import CallFormat, schemas_of
from modelport.protocols.output_text.reasoning import ReasoningReader
from modelport.runtime.threads import in_thread
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, Grammar, JSONSchema, Lark, Regex
from modelport.types.request import Request
from modelport.types.tools import NamedToolChoice
from modelport.types.usage import TokenUsage

E = TypeVar("E", bound=TokenEngine)


class TokenEngineModel(EngineModel[E]):
    """A model whose engine takes and returns token ids.

    This class handles the chat template, constrained decoding, tool calls, and reasoning.
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        grammars=frozenset({JSONSchema, Regex, Choice, Lark}),
        logprobs=True,
        seed=True,
        usage=True,
        cached_tokens=True,
        forwards_unknown=False,
    )
    #: The name of modelport's optional dependencies that install the engine, as in `modelport[vllm]`.
    extra: ClassVar[str]

    #: Settings with which the transformers library, which loads the model or the tokenizer of these engines, may run
    #: somebody else's code: code of a repository, kernels of the Hub, and pickled weights. `from_dict` refuses them.
    #: Each key is a pattern of a setting's name, in which `*` matches any text. The function returns True if the
    #: setting's value may make the library run code.
    code_settings: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "*custom_generate": bool,
        "*use_kernels": bool,
        "attn_implementation": lambda value: "/" in str(value),
        "weights_only": lambda value: value is False,
    }

    def _declare(self) -> Capabilities:
        return self.declared_capabilities.replace(**self._engine().template.capabilities())

    def count_tokens(self, text: str) -> int:
        """Return how many tokens the model's tokenizer makes of a text.

        Args:
            text: The text to encode, without a chat template around it.
        """
        return len(self._engine().encode_prompt(text, []).tokens)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Run a request; see `Model.deltas`."""
        check_bounds(request.parameters)
        engine = self._engine()
        must_call_tool = bool(request.tools) and request.tool_choice not in ("auto", "none")
        # Rendering and encoding a long conversation takes milliseconds, and compiling a grammar may take seconds, so it
        # must not block the event loop.
        engine_request = await in_thread(lambda: self._make_engine_request(engine, request, must_call_tool))
        call_format = None
        if request.tools and request.tool_choice != "none":
            call_format = engine.template.call_format or TAGGED_JSON
        deltas = self._generate_deltas(engine, engine_request, call_format, bool(request.stop_sequences))
        if call_format is not None:
            # If the model must call a tool, the grammar makes the call the whole output, as JSON without marks.
            deltas = read_calls(
                deltas, must_call_tool, call_format, schemas_of(request.tools), engine.template.reasoning_format,
                engine_request.prompt.tail,
            )  # fmt: skip
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    def _make_engine_request(self, engine: E, request: Request, must_call_tool: bool) -> EngineRequest:
        parameters = dict(request.parameters)
        parallel_calls = bool(parameters.pop("parallel_tool_calls", False))
        tools = request.tools if request.tool_choice != "none" else ()
        grammar: Grammar | None = request.grammar
        if must_call_tool:
            if isinstance(choice := request.tool_choice, NamedToolChoice):
                tools = tuple(tool for tool in tools if tool.name == choice.name)
            grammar = JSONSchema(call_schema(tools, parallel=parallel_calls))
        variables = parameters.pop("apply_chat_template_kwargs", {})
        if (effort := parameters.pop("reasoning_effort", None)) is not None:
            variables = template_variables_for(effort, variables)
        template = engine.template
        if (size := text_size(request.messages)) > LONG_PROMPT:
            check_prompt_size(size, engine.context_length, max(len(t.encode()) for t in engine.tokenizer.get_vocab()))
        images = [p for m in request.messages if isinstance(m.content, tuple) for p in m.content if p.kind == "image"]
        # The model's processor encodes text and images together.
        parts = template.render(request.messages, tools, joined=bool(images), **variables)
        reasoning = template.reasoning_format
        tail = reasoning.tail_of("".join(parts)) if reasoning is not None else ""
        prompt = engine.encode_prompt(parts[0], images)
        if len(parts) > 1:
            prompt = Prompt([token for part in parts for token in engine.encode_prompt(part, []).tokens])
        most_tokens = engine.context_length - len(prompt.tokens)
        if most_tokens < 1:
            raise ContextWindowExceeded(
                f"the prompt has {len(prompt.tokens)} tokens, and the model's context holds {engine.context_length} "
                "tokens of prompt and output: shorten the conversation, or load the model with a larger context_length",
                hint="The option --set context_length=… makes the context larger.",
            )
        compiled = None
        if grammar is not None:
            lark = as_lark(grammar)
            if reasoning is not None:
                starts_in_reasoning = ReasoningReader(reasoning, tail).in_reasoning
                marks = reasoning.grammar_marks(tail, special_token_ids(engine.tokenizer))
                lark = allow_reasoning(lark, starts_in_reasoning, marks=marks)
            compiled = engine.compile_grammar(lark)
        return EngineRequest(
            prompt=Prompt(prompt.tokens, prompt.inputs, tail),
            max_tokens=min(parameters.pop("max_tokens", most_tokens), most_tokens),
            parameters=parameters,
            grammar=compiled,
            # If the model reasons, the engine passes on each token at once. Reasoning tokens are counted per
            # `TokenBatch`, so a batch should not contain tokens from both before and after the end of the reasoning.
            # Calls with tools are treated in the same way.
            tokens_per_notification=1 if tools or template.supports_reasoning else tokens_per_notification(request),
            warnings=(SPACE_ADDED,) if images and template.has_special_tokens(request.messages, tools) else (),
        )

    async def _generate_deltas(
        self, engine: E, request: EngineRequest, call_format: CallFormat | None, one_token_per_delta: bool
    ) -> Deltas:
        template = engine.template
        detokenizer = Detokenizer(engine.tokenizer, template.hidden_tokens(engine.tokenizer, engine.eos))
        reader = None
        if template.reasoning_format is not None:
            call_marks = call_format.begins if call_format is not None else ()
            reader = ReasoningReader(template.reasoning_format, request.prompt.tail, call_marks)
        usage = TokenUsage(input_tokens=len(request.prompt.tokens), output_tokens=0, cached_input_tokens=0)
        usage.reasoning_tokens = 0 if template.supports_reasoning else None
        async with aclosing(engine.run(request)) as generated:
            # At a stop sequence, the layer `stop` closes this generator. With one token per delta, the token usage
            # counts no tokens after the stop sequence.
            batches = _split_into_tokens(generated) if one_token_per_delta else generated
            async for batch in batches:
                text = detokenizer.decode(batch.tokens)
                reasoning, content = reader.feed(text, final=bool(batch.finish_reason)) if reader else ("", text)
                usage = _add_usage(usage, batch, in_reasoning=bool(reader and reader.in_reasoning))
                yield ChatMessageStreamDelta(
                    content=content or None,
                    reasoning=reasoning or None,
                    logprobs=batch.logprobs,
                    token_usage=usage,
                    finish_reason=batch.finish_reason,
                    warnings=[*request.warnings] if batch.finish_reason and request.warnings else None,
                    model_id=self.model_id if batch.finish_reason else None,
                )


async def _split_into_tokens(batches: AsyncGenerator[TokenBatch, None]) -> AsyncGenerator[TokenBatch, None]:
    """Yield a `TokenBatch` for each token."""
    async for batch in batches:
        last = len(batch.tokens) - 1
        for i, token in enumerate(batch.tokens):
            logprobs = batch.logprobs and [batch.logprobs[i]]
            cached_tokens = None if i else batch.cached_tokens
            yield TokenBatch([token], logprobs, cached_tokens, batch.finish_reason if i == last else None)
        if last < 0:  # A batch without tokens may contain the finish reason.
            yield batch


def _add_usage(usage: TokenUsage, batch: TokenBatch, in_reasoning: bool) -> TokenUsage:
    """Return the usage with a batch's tokens added."""
    reasoning_tokens = usage.reasoning_tokens  # `None` if the model does not reason.
    return TokenUsage(
        input_tokens=usage.input_tokens,
        output_tokens=(usage.output_tokens or 0) + len(batch.tokens),
        cached_input_tokens=usage.cached_input_tokens if batch.cached_tokens is None else batch.cached_tokens,
        reasoning_tokens=None if reasoning_tokens is None else reasoning_tokens + len(batch.tokens) * in_reasoning,
    )
