"""The base class of the backends for OpenAI, Azure, Hugging Face and all servers with OpenAI's chat-completions API.

Its method `deltas` turns a request into a JSON body (`protocols.chat_completions.request`), sends it through the
backend's transport, and turns the response into deltas (`protocols.chat_completions.response`).

If the service rejects a parameter, the model object records that for its lifetime (`rejections`). The error is raised
with `profile_updated = True`, so that `Model` runs the call once more from the start, with the changed capabilities.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

from modelport.errors import (
    AuthenticationError,
    DeadlineExceeded,
    InvalidRequest,
    MalformedResponse,
    ModelError,
    NotFoundError,
)
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.inputs.settings import check_kind
from modelport.inputs.vendor_parameters import parameters_of
from modelport.protocols.chat_completions.call_ids import CallIdRule, call_id_rule, with_accepted_ids
from modelport.protocols.chat_completions.dialects import DIALECTS, OPENAI_API, Dialect
from modelport.protocols.chat_completions.history_rules import HistoryRules
from modelport.protocols.chat_completions.models_list import listed_models_from
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.history import observe_history_refusal, with_accepted_history
from modelport.remote.http.redaction import with_hidden_repr
from modelport.remote.http.transport import ServiceCall, Transport
from modelport.remote.probing_model import ProbingModel
from modelport.remote.profiles import PROFILES
from modelport.remote.response_reader import ResponseReader
from modelport.remote.schema_enforcement import claimed_capabilities
from modelport.remote.schema_subsets import OPENAI
from modelport.remote.services import MAX_STOP_SEQUENCES, MODELS_PATHS, refuse_settings_of_other_classes
from modelport.remote.split_reasoning import (
    SplitReasoning,
    check_split_reasoning,
    splitting_of,
    with_reasoning_in_text,
)
from modelport.remote.unconstrained_reasoning import RENDER_PATH, grammar_after_reasoning
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.listed_models import ListedModel
from modelport.types.output_types import JSONSchema
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

#: The most seconds that a service may take to list its models.
LIST_TIMEOUT = 30.0


class ChatCompletionsModel(ProbingModel):
    """The base class of backends that send requests in the format of OpenAI's chat-completions API.

    A backend implements `_make_transport`, which the constructor of this class calls. So a backend's own constructor
    first sets the attributes that `_make_transport` reads, and then calls `super().__init__`.

    Args:
        model_id: The service's name for the model.
        dialect: The kind of the server, one of the class's `dialects`. Requests then use what such servers accept
            beyond OpenAI's API; with `openai`, they use OpenAI's API alone. By default, a server at an address that
            modelport does not know is asked once, by the first call with tools or an output type, whether it is
            llama.cpp's or vLLM's.
        accept_missing_finish: Whether a stream without a finish reason is complete (some servers, such as Ollama, send
            none). By default such a stream counts as truncated.
        split_reasoning: Whether text between `<think>` and `</think>` at the beginning of the output is reasoning,
            which some servers do not separate from it. By default it is. With `opened`, the output begins inside the
            reasoning, because the model's chat template writes `<think>` into the prompt; `</think>` ends it.
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
    _may_ignore_output_types: ClassVar[bool] = True
    #: The name of the setting for the address.
    address_setting: ClassVar[str] = "api_base"
    #: What the service requires and refuses in earlier messages; `None` before its first refusal.
    _history_rules: HistoryRules | None = None

    def __init__(
        self,
        model_id: str | None = None,
        *,
        dialect: str | None = None,
        accept_missing_finish: bool = False,
        split_reasoning: SplitReasoning = True,
        **settings: Any,
    ) -> None:
        if dialect is not None and not (isinstance(dialect, str) and dialect in self.dialects):
            raise InvalidRequest(
                f"dialect={dialect!r} is unknown; known dialects are {', '.join(sorted(self.dialects))}, or None"
            )
        check_kind(bool, accept_missing_finish=accept_missing_finish)
        check_split_reasoning(split_reasoning)
        refuse_settings_of_other_classes(type(self).__name__, settings, self.address_setting)
        super().__init__(model_id, **settings)
        self.dialect = dialect
        self.accept_missing_finish = accept_missing_finish
        self.split_reasoning = split_reasoning
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

    def _not_found_advice(self, error: ModelError) -> str:
        """Return what the caller can do if the service does not know the model; empty to add nothing to the error."""
        return ""

    def _key_origin(self) -> str:
        """Return how the caller gave the key, as `Secret.origin` does; empty if that is not known."""
        return ""

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(f"{self!r} uses a client that you passed, which can't be pickled")
        return {key: value for key, value in super().__getstate__().items() if key != "_transport"}

    @property
    def _dialect(self) -> Dialect:
        return OPENAI_API if self._dialect_name is None else DIALECTS[self._dialect_name]

    @property
    def _provider(self) -> str | None:
        """Who returns provider data, for `ProviderData.service`."""
        return self._service

    def accepts_provider_data(self, data: ProviderData) -> bool:
        """Return whether this service returned the data; see `Model.accepts_provider_data`."""
        return data.fits("chat_completions", self._provider)

    @cached_property
    def _call_id_rule(self) -> CallIdRule | None:
        """Which IDs of tool calls the service accepts; `None` for any."""
        return call_id_rule(self._service, self.model_id)

    def _declare(self) -> Capabilities:
        declared = self.declared_capabilities.replace(**self._dialect.capabilities)
        service = self._service
        declared = claimed_capabilities(declared, service, self._host)
        if service in MAX_STOP_SEQUENCES:
            declared = declared.replace(max_stop_sequences=MAX_STOP_SEQUENCES[service])
        declared = with_reasoning_in_text(declared, self.split_reasoning, self._dialect.constrains_reasoning)
        extra = (declared.extra_parameters or frozenset()) | parameters_of(service) | declared.renamed.keys()
        return declared.replace(extra_parameters=extra).with_profiles(self.model_id, PROFILES)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Send a request and yield the deltas of its response; see `Model.deltas`."""
        dialect = self._dialect
        if dialect.streams_always:
            request = request.replace(stream=True)
        left_out = self._left_out_of(request)
        call, reader, notes = self._exchange(request, left_out)
        if dialect.drops_tools and not self._has_probed_tools and request.tools:
            await self._probe_tools(call, request)
        if dialect.constrains_reasoning and request.grammar is not None:
            call = await self._with_unconstrained_reasoning(call, request, left_out)
        try:
            if request.stream:
                async with aclosing(self._transport.stream(call, reader.read_chunk)) as deltas:
                    async for delta in deltas:
                        if delta is not None:
                            yield delta
                last = reader.finish()
            else:
                last = await self._transport.call(call, reader.read_response)
            if reader.think_tags is not None and reader.think_tags.has_tag:
                self._keep_stop_sequences_out_of_reasoning(request, last, reader.think_tags.is_open)
            self._add_warnings(last, request, left_out)
            if notes:
                last.warnings = [*(last.warnings or ()), *notes]
            yield last
        except InvalidRequest as error:
            error.parameter = self._parameter_name(error.parameter, call)
            error.profile_updated = (
                ("messages" in call.body and observe_history_refusal(self, error, call.body))
                or self._observe_rejection(error, request, left_out)
                or self._observe_missing_path(error, request, call)
            )
            raise
        except NotFoundError as error:
            error.profile_updated = self._observe_missing_path(error, request, call)
            if advice := self._not_found_advice(error):
                error.args = (f"{error.message} {advice}",)
            raise
        except AuthenticationError as error:
            if error.status is not None and (origin := self._key_origin()):
                error.args = (f"{error.message} The key was {origin}.",)
            raise

    def _exchange(
        self, request: Request, left_out: frozenset[str]
    ) -> tuple[ServiceCall, ResponseReader, Sequence[CallWarning]]:
        """Return the request as the transport takes it, the reader of the response, and warnings for the message.

        Args:
            request: The request.
            left_out: The parameters that are not sent.
        """
        call = self._service_call("chat/completions", request, left_out, self._chat_body)
        body, history_warnings = with_accepted_history(self, request, call.body)
        splitting = self.split_reasoning
        if splitting == "opened":
            splitting = splitting_of(splitting, request)
        reader = ChatResponseReader(self.accept_missing_finish, splitting, service=self._provider)
        return replace(call, body=body), reader, history_warnings

    def _chat_body(self, request: Request) -> dict[str, Any]:
        # Mistral accepts images in tool results, and refuses a user message behind them.
        moves_media = self._service != "mistral"
        messages = with_accepted_ids(request.messages, self._call_id_rule)
        if messages is not request.messages:
            request = request.replace(messages=messages)
        return body_from(request, self._remote_model_id, self._dialect_name, moves_media=moves_media)

    def _service_call(
        self, path: str, request: Request, left_out: frozenset[str], body_from: Callable[[Request], dict[str, Any]]
    ) -> ServiceCall:
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
        return ServiceCall(path, {**body_from(request), **extra_body}, headers, query)

    async def _with_unconstrained_reasoning(
        self, call: ServiceCall, request: Request, left_out: frozenset[str]
    ) -> ServiceCall:
        """Return the call, with a grammar that does not constrain the reasoning if the model may reason."""
        body = self._service_call(RENDER_PATH, request, left_out, self._chat_body).body
        grammar = await grammar_after_reasoning(body, request, lambda body: self._render(call, body, request))
        return replace(call, body={**call.body, "grammar": grammar}) if grammar else call

    def _keep_stop_sequences_out_of_reasoning(
        self, request: Request, last: ChatMessageStreamDelta, in_reasoning: bool
    ) -> None:
        """Let later requests send no stop sequences, because the server writes reasoning into the text.

        The server would end the output at a stop sequence in the reasoning. modelport applies them to the text alone.

        Args:
            request: The request.
            last: The last delta of its response.
            in_reasoning: Whether the response ended inside the reasoning.

        Raises:
            MalformedResponse: A stop sequence has probably ended the reasoning of this response. If the caller has
                received nothing of it, the request is sent again.
        """
        if not (request.stop_sequences and request.capabilities.stop):
            return
        self._set_observed(self.capabilities.replace(stop=False))
        if in_reasoning and last.finish_reason == "stop":
            error = MalformedResponse(
                "A stop sequence ended the model's reasoning before its output, because the server does not separate "
                "them. Later requests do not send stop sequences; modelport applies them to the output."
            )
            error.profile_updated = True
            raise error

    @property
    def _models_path(self) -> str:
        """The path of the list of models."""
        return MODELS_PATHS.get(self._service or "", "models")

    async def list_models(self) -> list[ListedModel]:
        """Return the models that the service offers. It is asked once, and not longer than 30 seconds.

        Raises:
            ModelError: The service has no such list, or the request failed.
        """
        import asyncio

        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                return await self._transport.call(ServiceCall(self._models_path, {}, method="GET"), listed_models_from)
        except TimeoutError:
            raise DeadlineExceeded(f"The service did not list its models within {LIST_TIMEOUT:.0f} s.") from None
        except NotFoundError as error:
            raise NotFoundError(
                f"The service has no list of models at {self._models_path} (HTTP {error.status}).",
                hint="Check the address, which often ends in /v1; the option --api-base sets it.",
                status=error.status,
            ) from None

    def _parameter_name(self, field: str | None, call: ServiceCall) -> str | None:
        """Return modelport's name of the parameter that an error names by a field of the body."""
        return field

    def _observe_missing_path(self, error: ModelError, request: Request, call: ServiceCall) -> bool:
        """Record that the path of the call does not exist, and return whether another run uses another path."""
        return False

    def release(self) -> None:
        """Close the connections of all event loops. A client that was passed in stays open.

        `close` calls this method: users call `close`, authors override this.
        """
        if "_transport" in self.__dict__:
            self._transport.close()
