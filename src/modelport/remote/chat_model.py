"""A model behind any service that speaks chat completions, whatever its client."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, ModelError
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.inputs.settings import check_kind
from modelport.model import Model
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.free_reasoning import PATH, grammar_after_thought
from modelport.remote.http.redaction import hidden
from modelport.remote.http.transport import ServiceCall, Transport
from modelport.remote.profiles import PROFILES
from modelport.remote.schema_subsets import OPENAI
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex
from modelport.types.request import Request

_ALL_GRAMMARS = frozenset({JSONSchema, Regex, Choice, Lark})
#: Most models' templates can only switch thinking off; an effort goes as a budget.
_ON_OR_OFF = frozenset({"none"})

#: What servers do beyond OpenAI's own API, by the `dialect` that a user names.
DIALECTS: dict[str, dict[str, Any]] = {
    "llama.cpp": {
        "grammars": _ALL_GRAMMARS, "grammar_with_tools": False, "max_stop_sequences": None,
        "tool_choices": frozenset({"auto", "none", "required"}), "image_urls": False, "schema_rules": None,
        "reasoning_efforts": _ON_OR_OFF, "reasoning_budget": True,
        "renamed": {"reasoning_budget": "thinking_budget_tokens"},
    },
    "vllm": {
        "grammars": _ALL_GRAMMARS, "schema_rules": None, "reasoning_efforts": _ON_OR_OFF, "reasoning_budget": True,
        "renamed": {"reasoning_budget": "thinking_token_budget"},
    },
    "tgi": {
        "grammars": _ALL_GRAMMARS - {Lark}, "grammar_with_tools": False, "schema_rules": None,
        "reasoning_efforts": frozenset(),
    },
}  # fmt: skip


class ChatCompletionsModel(Model):
    """What all such services share; a backend writes `_make_transport`, and sets what that needs before `__init__`.

    Args:
        model_id: The service's name for the model.
        dialect: One of `DIALECTS`, for what a server takes beyond OpenAI's API; by default that API alone.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none); by default it counts as cut short.
        **settings: See `Model`.
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        max_stop_sequences=4,
        tools=True,
        grammars=frozenset({JSONSchema}),
        schema_rules=OPENAI,
        grammar_with_tools=True,
        inputs=frozenset({"text", "image", "audio", "file"}),
        image_urls=True,
        logprobs=True,
        seed=True,
        reasoning=True,
        reasoning_efforts=frozenset(REASONING_EFFORTS),
        usage=True,
        cached_tokens=True,
    )
    #: Whose dialects a user may name.
    dialects: ClassVar[frozenset[str]] = frozenset({"llama.cpp", "vllm"})
    client: Any = None
    _observed: Capabilities | None = None
    _dropped: frozenset[str] = frozenset()

    def __init__(
        self,
        model_id: str | None = None,
        *,
        dialect: str | None = None,
        accept_missing_finish: bool = False,
        **settings: Any,
    ) -> None:
        if dialect is not None and not (isinstance(dialect, str) and dialect in self.dialects):
            raise InvalidRequest(
                f"dialect={dialect!r} is unknown; there are {', '.join(sorted(self.dialects))}, or None"
            )
        check_kind(bool, accept_missing_finish=accept_missing_finish)
        super().__init__(model_id, **settings)
        self.dialect = dialect
        self.accept_missing_finish = accept_missing_finish
        self._transport = self._make_transport()

    def _make_transport(self) -> Transport:
        raise NotImplementedError

    @property
    def _name_on_the_wire(self) -> str | None:
        return self.model_id

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(f"{self!r} holds a client of yours, which can't be pickled")
        return {key: value for key, value in super().__getstate__().items() if key != "_transport"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._transport = self._make_transport()

    def _declare(self) -> Capabilities:
        declared = self.declared_capabilities.replace(**DIALECTS.get(self.dialect or "", {}))
        return declared.with_profiles(self.model_id, PROFILES)

    @property
    def capabilities(self) -> Capabilities:
        """See `Model.capabilities`; what the service's refusals have taught included."""
        return self._observed or super().capabilities

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        if self.dialect == "llama.cpp":
            # Its server works on for a caller of a whole answer who has left; one who streams frees the slot at once.
            request = request.replace(stream=True)
        known = (self.capabilities, self._dropped)
        call = await self._with_free_thought(self._call(request), request)
        reader = ChatResponseReader(self.accept_missing_finish)
        try:
            if not request.stream:
                delta = reader.whole(await self._transport.call(call))
                delta.warnings = self._warnings(request)
                yield delta
                return
            async with aclosing(self._transport.stream(call)) as events:
                async for event in events:
                    if (piece := reader.chunk(event)) is not None:
                        yield piece
            closing = reader.end()
            closing.warnings = self._warnings(request)
            yield closing
        except InvalidRequest as error:
            # It, or a refusal of another call meanwhile, has taught something that may help this request.
            error.profile_updated = known != (self.capabilities, self._dropped) or self._observe_rejection(
                error, request
            )
            raise

    def _call(self, request: Request) -> ServiceCall:
        parameters = {k: v for k, v in request.parameters.items() if k not in self._dropped}
        headers, query, extra = [parameters.pop(name, {}) for name in ("extra_headers", "extra_query", "extra_body")]
        if parameters != request.parameters:
            request = request.replace(parameters=parameters)
        if "tool_choice" in self._dropped:
            request = request.replace(tool_choice="auto")
        body = body_from(request, self._name_on_the_wire, self.capabilities, self.dialect)
        shown = [{name: hidden(value) for name, value in layer.items()} for layer in (headers, query)]
        return ServiceCall("chat/completions", {**body, **extra}, *shown)

    async def _with_free_thought(self, call: ServiceCall, request: Request) -> ServiceCall:
        if self.dialect != "llama.cpp":
            return call
        grammar = await grammar_after_thought(
            call.body, request, lambda body: self._transport.call(replace(call, path=PATH, body=body))
        )
        return replace(call, body={**call.body, "grammar": grammar}) if grammar else call

    def _warnings(self, request: Request) -> list[str] | None:
        left_out = sorted(self._dropped & {*request.parameters, "tool_choice" if request.tools else ""})
        return [f"{name} was left out: {self.model_id} does not take it" for name in left_out] or None

    def _observe_rejection(self, error: ModelError, request: Request) -> bool:
        """Takes a refusal of a parameter as this model's profile, for its lifetime; whether there was one to take."""
        name, taught = (error.parameter or "").partition(".")[0], True
        known = self.capabilities
        if name == "stop" and known.stop:
            self._observed = known.replace(stop=False)
        elif name == "max_tokens" and "max_tokens" not in known.renamed:
            self._observed = known.replace(renamed={**known.renamed, "max_tokens": "max_completion_tokens"})
        elif name == "stream_options" and name not in known.refused:
            self._observed = known.replace(refused=known.refused | {name})
        elif name == "response_format" and JSONSchema in known.grammars:
            self._observed = known.replace(grammars=known.grammars - {JSONSchema})
            taught = False  # nothing that would help this request: the port puts it in another way
        elif (name in request.parameters or (name == "tool_choice" and request.tools)) and name not in self._dropped:
            self._dropped |= {name}
        else:
            return False
        warnings.warn(f"{self.model_id} refuses {name!r}; from now on it is sent without", stacklevel=2)
        return taught

    def close(self) -> None:
        """Closes the connections of synchronous calls."""
        from modelport.runtime.portal import run

        run(self._transport.aclose())

    async def aclose(self) -> None:
        """Closes the connections of the running loop, and those of synchronous calls."""
        await self._transport.aclose()
        await super().aclose()
