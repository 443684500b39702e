"""The model class for every provider that LiteLLM supports."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, ClassVar

from modelport.errors import AuthenticationError, InvalidRequest, MalformedResponse, ModelError, UnsupportedFeature
from modelport.inputs.parameters import REASONING_EFFORTS
from modelport.inputs.settings import check_kind
from modelport.inputs.vendor_parameters import parameters_of
from modelport.layers.retry import RetryPolicy
from modelport.protocols.chat_completions.call_ids import CallIdRule, call_id_rule, with_accepted_ids
from modelport.protocols.chat_completions.history_rules import HistoryRules
from modelport.protocols.chat_completions.request import body_from
from modelport.protocols.chat_completions.response import ChatResponseReader
from modelport.remote.history import observe_history_refusal, with_accepted_history
from modelport.remote.http.connections import CONNECT_TIMEOUT
from modelport.remote.http.redaction import HiddenStr
from modelport.remote.http.requests import check_headers
from modelport.remote.litellm.capabilities import (
    RETRY_PARAMETERS,
    SAVED_PARAMETERS,
    common_capabilities,
    known_capabilities,
    service_of,
)
from modelport.remote.litellm.errors import model_error_from
from modelport.remote.litellm.isolation import ClientIsolation
from modelport.remote.litellm.package import litellm_package, require_litellm
from modelport.remote.litellm.responses import ResponseStream, response_dict
from modelport.remote.litellm.secrets import secret_from, secrets_in_parameters
from modelport.remote.rejections import ObservingModel
from modelport.remote.schema_subsets import OPENAI
from modelport.remote.services import refuse_api_setting
from modelport.remote.split_reasoning import (
    SplitReasoning,
    check_split_reasoning,
    splitting_of,
    with_reasoning_in_text,
)
from modelport.runtime.per_loop import PerLoop
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import JSONSchema
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request

#: The model if the caller names none: the default of the `smolagents` package.
DEFAULT_MODEL = "anthropic/claude-3-5-sonnet-20240620"
#: Providers whose API accepts the text of a message only as a string.
TEXT_ONLY_PROVIDERS = ("ollama", "groq", "cerebras")
#: Providers to which LiteLLM passes on images in tool results.
PROVIDERS_WITH_MEDIA_IN_RESULTS = ("anthropic/", "bedrock/", "gemini/", "mistral/", "vertex_ai/")
#: The time limit for LiteLLM, in seconds. It is longer than any call: modelport's layers enforce the caller's timeouts.
_LITELLM_TIMEOUT = 86400.0


class LiteLLMModel(ObservingModel):
    """A model of any provider that LiteLLM supports.

    LiteLLM is imported at the first call, or when `capabilities` is first read. The import takes seconds, and downloads
    nothing. LiteLLM's own retries are switched off; failed requests are sent again as `retry` says. Callbacks that you
    register with `litellm` are called.

    Some faults can't be detected through LiteLLM. If a stream contains an error event whose data has no field `error`,
    the stream counts as interrupted. LiteLLM calls some providers with its own HTTP client (`hosted_vllm/…`, but not
    `openai/…`). For these, LiteLLM ignores broken events of a stream, and treats the end marker `[DONE]` as a finish
    reason.

    Args:
        model_id: LiteLLM's name for the model, `provider/model`; by default `anthropic/claude-3-5-sonnet-20240620`.
            See https://docs.litellm.ai/docs/providers
        api_base: The base URL; by default the provider's own, or that of its environment variable.
        api_key: The API key; by default LiteLLM reads the provider's environment variable, such as `ANTHROPIC_API_KEY`.
        custom_role_conversions: See `Model`.
        flatten_messages_as_text: See `Model`; by default true for `ollama…`, `groq…` and `cerebras…`.
        accept_missing_finish: Whether a stream without a finish reason is complete; by default it counts as
            interrupted.
        split_reasoning: Whether text between `<think>` and `</think>` at the beginning of the output is reasoning,
            which some servers do not separate from it. By default it is. If a call does not stream, LiteLLM always
            separates it. With `opened`, the output begins inside the reasoning, because the model's chat template
            writes `<think>` into the prompt; `</think>` ends it.
        **settings: See `Model`. Every other setting is passed to `litellm.acompletion`. `num_retries` or `max_retries`
            becomes this model's `retry`.

    Raises:
        MissingDependency: LiteLLM is not installed.

    Examples:
        >>> model = LiteLLMModel("groq/llama-3.3-70b-versatile", temperature=0.2, requests_per_minute=60)
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        max_stop_sequences=4,
        tools=True,
        grammars=frozenset({JSONSchema}),
        schema_rules=OPENAI,  # LiteLLM accepts schemas in OpenAI's subset, and rewrites them for other services.
        grammar_with_tools=True,
        inputs=frozenset({"text", "image", "audio", "file"}),
        image_urls=True,
        logprobs=True,
        seed=True,
        reasoning=True,
        reasoning_efforts=frozenset(REASONING_EFFORTS),
        usage=True,
        cached_tokens=True,
        extra_parameters=parameters_of("litellm") | {"extra_body", "extra_headers", "headers"},
    )
    _may_ignore_output_types: ClassVar[bool] = True
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})
    saved_parameters: ClassVar[frozenset[str] | None] = SAVED_PARAMETERS
    #: LiteLLM also accepts dicts of parameters here, such as `ssl_verify`.
    saved_names: ClassVar[frozenset[str]] = frozenset({"fallbacks", "context_window_fallback_dict.*"})
    api_key: Secret | None = None
    #: What the service requires and refuses in earlier messages; `None` before its first refusal.
    _history_rules: HistoryRules | None = None

    def __init__(
        self,
        model_id: str | None = None,
        api_base: str | None = None,
        api_key: Secret | str | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        flatten_messages_as_text: bool | None = None,
        *,
        accept_missing_finish: bool = False,
        split_reasoning: SplitReasoning = True,
        **settings: Any,
    ) -> None:
        require_litellm()
        check_kind(str, model_id=model_id, api_base=api_base)
        check_kind(bool, accept_missing_finish=accept_missing_finish)
        check_split_reasoning(split_reasoning)
        refuse_api_setting(type(self).__name__, settings)
        model_id = DEFAULT_MODEL if model_id is None else model_id
        if api_base is not None and not api_base.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"api_base={api_base!r}: must be a URL such as 'http://localhost:8000/v1'",
                hint="The option --api-base sets the address.",
            )
        for name in RETRY_PARAMETERS:
            if (retries := settings.pop(name, None)) is not None:
                if not isinstance(retries, int):
                    raise InvalidRequest(f"{name}={retries!r}: must be a whole number")
                settings.setdefault("retry", RetryPolicy(attempts=retries + 1))
        if flatten_messages_as_text is None:
            flatten_messages_as_text = model_id.startswith(TEXT_ONLY_PROVIDERS)
        super().__init__(
            model_id,
            custom_role_conversions=custom_role_conversions,
            flatten_messages_as_text=flatten_messages_as_text,
            **settings,
        )
        self.api_base = api_base
        self.api_key = secret_from(api_key, model_id) if api_key is not None else None
        self.accept_missing_finish = accept_missing_finish
        self.split_reasoning = split_reasoning
        self._isolations: PerLoop[ClientIsolation] = PerLoop(ClientIsolation.aclose)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_isolations"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._isolations = PerLoop(ClientIsolation.aclose)

    @cached_property
    def _provider(self) -> str | None:
        """Who returns provider data, for `ProviderData.service`. LiteLLM rewrites the data of most providers."""
        services = {
            service_of(parameters["model"], parameters.get("custom_llm_provider"), parameters.get("api_base"))
            for parameters in self._deployments()
        }
        return "+".join(sorted(services))

    def accepts_provider_data(self, data: ProviderData) -> bool:
        """Return whether LiteLLM returned the data for this provider; see `Model.accepts_provider_data`."""
        return data.fits("chat_completions", self._provider)

    def _declare(self) -> Capabilities:
        declared = common_capabilities(
            known_capabilities(
                self.declared_capabilities,
                parameters["model"],
                parameters.get("custom_llm_provider"),
                parameters.get("api_base"),
            )
            for parameters in self._deployments()
        )
        return with_reasoning_in_text(declared, self.split_reasoning)

    @cached_property
    def _call_id_rule(self) -> CallIdRule | None:
        """Which IDs of tool calls every deployment accepts; `None` for any."""
        models = ((one.get("custom_llm_provider"), one["model"]) for one in self._deployments())
        rules = [call_id_rule(provider or model.partition("/")[0], model) for provider, model in models]
        return min(filter(None, rules), key=lambda rule: rule.length, default=None)

    def _deployments(self) -> Sequence[Mapping[str, Any]]:
        """The deployments that LiteLLM may call, each as LiteLLM's parameters. Only a Router may have several."""
        return [{**self.kwargs, "model": self.model_id, "api_base": self.api_base, "api_key": self.api_key}]

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Run one request; see `Model.deltas`."""
        litellm_package()  # On first use, this imports LiteLLM and prepares it for `isolation`.
        isolation = await self._isolations.get(ClientIsolation)
        splitting = self.split_reasoning
        if splitting == "opened":
            splitting = splitting_of(splitting, request)
        reader = ChatResponseReader(self.accept_missing_finish, splitting, service=self._provider)
        left_out = self._left_out_of(request)
        arguments = self._arguments(self._without(request, left_out))
        accepted, history_warnings = with_accepted_history(self, request, arguments)
        arguments = dict(accepted)
        stream: ResponseStream | None = None
        has_content = False
        # `failure` is raised after the `except` block, so that LiteLLM's exception does not become its `__context__`.
        # Otherwise a traceback with local variables would show the API keys that LiteLLM's exception quotes.
        failure: ModelError | None = None
        try:
            response = await isolation.run(self._complete(arguments), streams=request.stream)
            if not request.stream:
                last = reader.read_response(response_dict(response))
                self._add_warnings(last, request, left_out)
                last.warnings = [*(last.warnings or ()), *history_warnings] or None
                yield last
                return
            stream = ResponseStream(response, isolation)
            async for chunk in stream.chunks():
                if (delta := reader.read_chunk(chunk)) is not None:
                    has_content = has_content or delta.has_output
                    yield delta
            if not has_content and stream.has_only_ending():
                raise MalformedResponse("The service sent no stream, or a stream without any part of a response.")
            reader.read_chunk(stream.ending())
            last = reader.finish()
        except Exception as error:  # An error of `reader` may quote the response, and so the key.
            failure = self._model_error(_reported_error(stream, reader) or error, arguments)
            if isinstance(failure, InvalidRequest | UnsupportedFeature):
                failure.profile_updated = observe_history_refusal(self, failure, arguments) or self._observe_rejection(
                    failure, request, left_out
                )
        finally:
            if stream is not None:
                await stream.close()
        if failure is not None:
            raise failure
        self._add_warnings(last, request, left_out)
        last.warnings = [*(last.warnings or ()), *history_warnings] or None
        yield last

    def _arguments(self, request: Request) -> dict[str, Any]:
        """The arguments of `litellm.acompletion`."""
        import httpx

        arguments = self._body(request) | {
            **dict.fromkeys(RETRY_PARAMETERS, 0),
            "timeout": httpx.Timeout(_LITELLM_TIMEOUT, connect=CONNECT_TIMEOUT),
        }
        if self.api_base is not None:
            arguments.setdefault("api_base", self.api_base)
        if isinstance(key := arguments.get("api_key"), str):  # The key of this call.
            arguments["api_key"] = HiddenStr(key)
        elif self.api_key is not None:
            arguments["api_key"] = HiddenStr(self.api_key.reveal())
        return arguments

    def _body(self, request: Request) -> dict[str, Any]:
        """The arguments that depend only on the request, and not on address, key and time limits."""
        for name in ("extra_headers", "headers"):
            check_kind(Mapping, **{name: request.parameters.get(name)})
            check_headers(request.parameters.get(name) or {})
        messages = with_accepted_ids(request.messages, self._call_id_rule)
        if messages is not request.messages:
            request = request.replace(messages=messages)
        moves_media = not str(self.model_id).startswith(PROVIDERS_WITH_MEDIA_IN_RESULTS)
        body = body_from(request, self.model_id, moves_media=moves_media)
        if (budget := body.pop("reasoning_budget", None)) is not None:
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        if _validates_output() or "enable_json_schema_validation" in body:
            # modelport validates every output, within bounds. LiteLLM would validate it without any, on the event loop,
            # and fetch references of the schema.
            body["enable_json_schema_validation"] = False
        if "tools" in body:
            # Otherwise LiteLLM would search the tools for tools of its MCP gateway, although all of them are functions.
            # For the search, LiteLLM 1.106 imports a package that it does not install, and other versions their proxy.
            body["_skip_mcp_handler"] = True
        return body

    async def _complete(self, arguments: dict[str, Any]) -> Any:
        return await litellm_package().acompletion(**arguments)

    def _model_error(self, error: Exception, arguments: Mapping[str, Any]) -> ModelError:
        result = model_error_from(error, secrets_in_parameters(arguments))
        if isinstance(result, AuthenticationError) and not self.api_key:
            missing = litellm_package().validate_environment(self.model_id).get("missing_keys") or ()
            if missing:
                result.args = (f"No key was given. Pass api_key=…, or set {' and '.join(missing)}. {result.message}",)
        return result

    def release(self) -> None:
        """Close the connections of all event loops, after the callbacks of the calls have finished.

        `close` calls this method: users call `close`, authors override this.
        """
        self._isolations.close()


@cache
def _validates_output() -> bool:
    """Return whether this version of LiteLLM may validate outputs by itself: the process may have set that for all."""
    return "enable_json_schema_validation" in inspect.signature(litellm_package().acompletion).parameters


def _reported_error(stream: ResponseStream | None, reader: ChatResponseReader) -> ModelError | None:
    """Return the error that the service reported at the end of a stream, for which LiteLLM raised another exception."""
    try:
        if stream is not None:
            stream.raise_reported_error(reader)
    except ModelError as error:
        return error
    return None
