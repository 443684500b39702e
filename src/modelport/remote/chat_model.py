"""The base class of the backends for OpenAI, Azure, Hugging Face and all servers with OpenAI's chat-completions API.

Its method `deltas` turns a request into a JSON body (`protocols.chat_completions.request`), sends it through the
backend's transport, and turns the response into deltas (`protocols.chat_completions.response`).

If the service rejects a parameter, the model object records that for its lifetime (`rejections`). The error is raised
with `profile_updated = True`, so that `Model` runs the call once more from the start, with the changed capabilities.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, NotFoundError
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.inputs.settings import check_kind
from modelport.inputs.vendor_parameters import parameters_of
from modelport.protocols.chat_completions.dialects import DIALECTS, OPENAI_API, Dialect
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.http.redaction import with_hidden_repr
from modelport.remote.http.transport import ServiceCall, Transport
from modelport.remote.profiles import PROFILES
from modelport.remote.rejections import ObservingModel
from modelport.remote.schema_subsets import OPENAI
from modelport.remote.unconstrained_reasoning import RENDER_PATH, grammar_after_reasoning
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request


class ChatCompletionsModel(ObservingModel):
    """The base class of backends that send requests in the format of OpenAI's chat-completions API.

    A backend implements `_make_transport`, which the constructor of this class calls. So a backend's own constructor
    first sets the attributes that `_make_transport` reads, and then calls `super().__init__`.

    Args:
        model_id: The service's name for the model.
        dialect: The kind of the server, one of the class's `dialects`. Requests then use what such servers accept
            beyond OpenAI's API. By default they use OpenAI's API alone.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none). By default such a stream counts as truncated.
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
        extra_parameters=frozenset({"extra_body", "extra_headers", "extra_query"}),
    )
    #: The values that the parameter `dialect` accepts.
    dialects: ClassVar[frozenset[str]] = frozenset({"llama.cpp", "vllm"})
    #: The caller's own client, set by backends that accept one.
    client: Any = None

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
                f"dialect={dialect!r} is unknown; known dialects are {', '.join(sorted(self.dialects))}, or None"
            )
        check_kind(bool, accept_missing_finish=accept_missing_finish)
        super().__init__(model_id, **settings)
        self.dialect = dialect
        self.accept_missing_finish = accept_missing_finish
        self._transport = self._make_transport()

    @cached_property
    def _transport(self) -> Transport:
        """The transport. The constructor sets it; an unpickled model makes it at its first call.

        So a missing key does not raise while the model is unpickled, which would end the process of a worker.
        """
        return self._make_transport()

    def _make_transport(self) -> Transport:
        """Return the transport that sends the requests of this model."""
        raise NotImplementedError

    @property
    def _remote_model_id(self) -> str | None:
        """The model's name that is sent to the service; `None` to send no name."""
        return self.model_id

    def _not_found_advice(self) -> str:
        """Return what the caller can do if the service does not know the model; empty to add nothing to the error."""
        return ""

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(f"{self!r} uses a client that you passed, which can't be pickled")
        return {key: value for key, value in super().__getstate__().items() if key != "_transport"}

    @property
    def _dialect(self) -> Dialect:
        return OPENAI_API if self.dialect is None else DIALECTS[self.dialect]

    @property
    def _service(self) -> str | None:
        """The service's key in the table of vendor parameters; `None` if the service is not known."""
        return self.dialect

    def _declare(self) -> Capabilities:
        declared = self.declared_capabilities.replace(**self._dialect.capabilities)
        extra = (declared.extra_parameters or frozenset()) | parameters_of(self._service) | declared.renamed.keys()
        return declared.replace(extra_parameters=extra).with_profiles(self.model_id, PROFILES)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Send a request and yield the deltas of its response; see `Model.deltas`."""
        dialect = self._dialect
        if dialect.streams_always:
            request = request.replace(stream=True)
        left_out = self._left_out_of(request)
        call = self._service_call(request, left_out)
        if dialect.constrains_reasoning and request.grammar is not None:
            call = await self._with_unconstrained_reasoning(call, request)
        reader = ChatResponseReader(self.accept_missing_finish)
        try:
            if request.stream:
                async with aclosing(self._transport.stream(call, reader.read_chunk)) as deltas:
                    async for delta in deltas:
                        if delta is not None:
                            yield delta
                last = reader.finish()
            else:
                last = await self._transport.call(call, reader.read_response)
            self._add_warnings(last, request, left_out)
            yield last
        except InvalidRequest as error:
            error.profile_updated = self._observe_rejection(error, request, left_out)
            raise
        except NotFoundError as error:
            if advice := self._not_found_advice():
                error.args = (f"{error.message} {advice}",)
            raise

    def _service_call(self, request: Request, left_out: frozenset[str]) -> ServiceCall:
        """Return the request as the transport takes it, without the parameters in `left_out`."""
        request = self._without(request, left_out)
        parameters = dict(request.parameters)
        headers, query, extra_body = [
            parameters.pop(name, {}) for name in ("extra_headers", "extra_query", "extra_body")
        ]
        if parameters != request.parameters:
            request = request.replace(parameters=parameters)
        headers, query = [
            {name: with_hidden_repr(value) for name, value in values.items()} for values in (headers, query)
        ]
        # Mistral accepts images in tool results, and refuses a user message behind them.
        moves_media = self._service != "mistral"
        body = body_from(request, self._remote_model_id, self.dialect, moves_media=moves_media)
        return ServiceCall("chat/completions", {**body, **extra_body}, headers, query)

    async def _with_unconstrained_reasoning(self, call: ServiceCall, request: Request) -> ServiceCall:
        """Return the call, with a grammar that does not constrain the reasoning if the model may reason."""
        grammar = await grammar_after_reasoning(
            call.body,
            request,
            lambda body: self._transport.call(replace(call, path=RENDER_PATH, body=body), lambda rendered: rendered),
        )
        return replace(call, body={**call.body, "grammar": grammar}) if grammar else call

    def release(self) -> None:
        """Close the connections of all event loops. A client that was passed in stays open.

        `close` calls this method: users call `close`, authors override this.
        """
        if "_transport" in self.__dict__:
            self._transport.close()
