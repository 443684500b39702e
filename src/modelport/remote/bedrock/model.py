"""The model class for Amazon Bedrock, and the capabilities of the families of models on Bedrock."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import cached_property
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, MalformedResponse, ModelError, UnsupportedFeature
from modelport.inputs.settings import check_kind
from modelport.inputs.vendor_parameters import parameters_of
from modelport.layers.base import Deltas, Layer, Next
from modelport.layers.retry import RetryPolicy
from modelport.protocols.converse.request import converse_call_from
from modelport.protocols.converse.response import SERVICE, ConverseResponseReader
from modelport.protocols.error_phrases import means_no_stream
from modelport.remote.bedrock.client import check_client, make_client, max_attempts_of
from modelport.remote.bedrock.inference_profiles import (
    advice,
    has_own_address,
    is_application_profile,
    model_behind,
)
from modelport.remote.bedrock.transport import BotoTransport
from modelport.remote.http.redaction import redact
from modelport.remote.rejections import ObservingModel
from modelport.remote.schema_subsets import BEDROCK as BEDROCK_SCHEMAS
from modelport.remote.services import refuse_settings_of_other_classes
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.listed_models import ListedModel
from modelport.types.output_types import JSONSchema
from modelport.types.provider_data import ProviderData
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

#: The secret arguments of boto3's clients, and the environment variables from which boto3 reads these secrets.
_SECRET_VARIABLES = {"aws_secret_access_key": "AWS_SECRET_ACCESS_KEY", "aws_session_token": "AWS_SESSION_TOKEN"}

#: Parameters that the Converse API lacks.
_REFUSED = frozenset({"top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"})
# Changes of `Capabilities`, from which `PROFILES` are composed:
_ENFORCED_SCHEMAS = {"grammars": frozenset({JSONSchema})}
_ALL_TOOL_CHOICES = {"tool_choices": frozenset({"auto", "none", "required", "named"})}
_TOP_K_SUPPORTED = {"refused": _REFUSED - {"top_k"}}
_TEXT_ONLY, _TEXT_AND_FILES = {"inputs": frozenset({"text"})}, {"inputs": frozenset({"text", "file"})}
_NO_TOOLS_OR_SYSTEM = {"tools": False, "system_role": False}
#: The reasoning effort "none" is supported too: without a budget in the request, these models do not reason.
_REASONING_BUDGET = {"reasoning_budget": True, "reasoning_efforts": frozenset({"none"})}
_EFFORTS = frozenset({"low", "medium", "high"})

_MODEL_FIELDS = "additionalModelRequestFields."
#: The paths of modelport's parameters in the arguments of a Converse request, for Claude and for Nova.
_CLAUDE_FIELDS = {"top_k": f"{_MODEL_FIELDS}top_k", "reasoning_budget": f"{_MODEL_FIELDS}thinking.budget_tokens",
                  "reasoning_effort": f"{_MODEL_FIELDS}output_config.effort"}  # fmt: skip
_NOVA_FIELDS = {"top_k": f"{_MODEL_FIELDS}inferenceConfig.topK",
                "reasoning_effort": f"{_MODEL_FIELDS}reasoningConfig.maxReasoningEffort"}  # fmt: skip

#: How families of models differ from `declared_capabilities`, by patterns of the model's id. If several patterns match,
#: later values override earlier ones.
#: See https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-supported-models-features.html,
#: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html,
#: https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html,
#: https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-extended-thinking.html and
#: https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html
PROFILES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("*anthropic.*", {**_ALL_TOOL_CHOICES, **_TOP_K_SUPPORTED, "renamed": _CLAUDE_FIELDS}),
    ("*anthropic.claude-3-7*", _REASONING_BUDGET),
    ("*anthropic.claude-sonnet-4*", _REASONING_BUDGET),
    ("*anthropic.claude-haiku-4*", _REASONING_BUDGET),
    ("*anthropic.claude-opus-4*", _REASONING_BUDGET),
    ("*anthropic.claude-opus-4-[7-9]*", {"reasoning_budget": False, "reasoning_efforts": _EFFORTS | {"none"}}),
    ("*anthropic.claude-sonnet-4-5*", _ENFORCED_SCHEMAS),
    ("*anthropic.claude-haiku-4-5*", _ENFORCED_SCHEMAS),
    ("*anthropic.claude-opus-4-[56]*", _ENFORCED_SCHEMAS),
    ("*amazon.nova*", {**_ALL_TOOL_CHOICES, **_TOP_K_SUPPORTED, "renamed": _NOVA_FIELDS, "max_stop_sequences": 4}),
    ("*amazon.nova-2*", {"reasoning_efforts": _EFFORTS | {"none"}}),
    ("*amazon.nova-micro*", _TEXT_ONLY),
    ("*amazon.titan*", {**_NO_TOOLS_OR_SYSTEM, **_TEXT_AND_FILES}),
    ("*mistral.*", {"tool_choices": frozenset({"auto", "none", "required"})}),
    ("*mistral.mistral-7b*", {**_NO_TOOLS_OR_SYSTEM, **_TEXT_AND_FILES}),
    ("*mistral.mixtral*", {**_NO_TOOLS_OR_SYSTEM, **_TEXT_AND_FILES}),
    ("*cohere.*", _TEXT_AND_FILES),
    ("*ai21.*", _TEXT_AND_FILES),
    ("*deepseek.*", _TEXT_ONLY),
    ("*deepseek.r1*", {"tools": False, **_TEXT_AND_FILES}),
    ("*deepseek.v3*", _ENFORCED_SCHEMAS),
    ("*openai.gpt-oss*", {**_ENFORCED_SCHEMAS, **_TEXT_ONLY, "reasoning_efforts": _EFFORTS,
                          "renamed": {"reasoning_effort": f"{_MODEL_FIELDS}reasoning_effort"}}),
    ("*qwen.qwen3*", _ENFORCED_SCHEMAS),
)  # fmt: skip


_NO_STREAM_WARNING = CallWarning(
    "substituted", "stream", "The response came in one piece, because Bedrock does not stream this request's responses."
)


class AmazonBedrockServerModel(ObservingModel):
    """A model on Amazon Bedrock.

    boto3 finds credentials, region and proxies, unless they are passed here. Calls run in threads. If the caller stops
    waiting for a response, the connection of the call is closed.

    Args:
        model_id: The id of a model or of an inference profile (`us.amazon.nova-pro-v1:0`), or an ARN.
        base_model: The id of the model behind an ARN that does not name it. For an application inference profile, the
            first call looks it up, if `bedrock:GetInferenceProfile` is allowed and neither `client` nor `api_base` is
            given. Otherwise nothing is known about such a model's capabilities without this setting.
        client: A client of your own, from `boto3.client("bedrock-runtime")`, whose settings are not changed. If the
            client retries, this model does not, unless `retry` is passed. If the caller stops waiting for a
            non-streaming response of your own client, the connection stays open until the service has responded.
        client_kwargs: Arguments for `boto3.Session.client`, as `{"verify": "ca.pem", "config": Config(…)}`. boto3's own
            retries are switched off; the number of attempts in `config` becomes this model's `retry`.
        region_name: The AWS region; by default that of `AWS_DEFAULT_REGION`, of the profile, or of `AWS_REGION`.
        profile_name: A profile of your AWS configuration; by default `AWS_PROFILE`.
        api_base: The service's URL; by default `AWS_ENDPOINT_URL_BEDROCK_RUNTIME`, else the region's.
        api_key: A Bedrock API key; by default `AWS_BEARER_TOKEN_BEDROCK`, else the credentials that boto3 finds.
        **settings: See `Model`. Every other setting is a field of the Converse API, in its own spelling or in snake
            case: `inference_config`, `guardrail_config`, `additional_model_request_fields`, `performance_config`,
            `request_metadata`, `service_tier`, … modelport's `temperature`, `max_tokens` and `top_p` take precedence
            over `inference_config`. Three more settings are `guardrail_identifier`, `guardrail_version` and
            `cache_points`. `cache_points` lists the sections of the prompt (`tools`, `system`, `messages`) after
            which a cache point is set, so that the prompt is cached up to there; or it is a dict with the time-to-live
            (`5m` or `1h`) for each section.

    Raises:
        MissingDependency: boto3 is not installed.
        InvalidRequest: A setting is wrong, or there is no region.
        AuthenticationError: There are no credentials.

    Examples:
        >>> model = AmazonBedrockServerModel("us.amazon.nova-pro-v1:0", region_name="us-east-1")
    """

    declared_capabilities: ClassVar[Capabilities] = Capabilities(
        max_stop_sequences=2500,
        tools=True,
        tool_choices=frozenset({"auto", "none"}),
        grammar_with_tools=True,
        schema_rules=BEDROCK_SCHEMAS,
        inputs=frozenset({"text", "image", "file"}),
        reasoning=True,
        usage=True,
        cached_tokens=True,
        refused=_REFUSED,
        extra_parameters=parameters_of("bedrock"),
    )
    has_two_names_for_max_tokens: ClassVar[bool] = False
    #: Whether the service has refused to stream: requests with tools, or all requests.
    _never_streams_tools = False
    _never_streams = False
    #: Whether the model behind the inference profile has been looked up, and its id.
    _has_looked_up = False
    _looked_up_model: str | None = None
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})
    #: Without `verify` and `use_ssl`, which could switch off TLS.
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {
        "client_kwargs": frozenset({
            "api_version", "aws_access_key_id", "aws_account_id", "aws_secret_access_key", "aws_session_token",
            "endpoint_url", "region_name",
        })
    }  # fmt: skip

    def __init__(
        self,
        model_id: str | None = None,
        client: Any = None,
        client_kwargs: Mapping[str, Any] | None = None,
        custom_role_conversions: Mapping[str, str] | None = None,
        *,
        base_model: str | None = None,
        region_name: str | None = None,
        profile_name: str | None = None,
        api_base: str | None = None,
        api_key: Secret | str | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(model_id, str) or not model_id or not model_id.isprintable() or " " in model_id:
            raise InvalidRequest(
                f"model_id={model_id!r}: name the model, as AmazonBedrockServerModel('us.amazon.nova-pro-v1:0'); "
                "`aws bedrock list-inference-profiles` lists those of your account",
                hint="The option -m names backend and model, for example -m bedrock/us.amazon.nova-pro-v1:0.",
            )
        refuse_settings_of_other_classes(type(self).__name__, settings, "api_base")
        check_kind(Mapping, client_kwargs=client_kwargs)
        check_kind(str, base_model=base_model, region_name=region_name, profile_name=profile_name, api_base=api_base)
        client_settings = {"client_kwargs": client_kwargs, "region_name": region_name, "profile_name": profile_name,
                           "api_base": api_base, "api_key": api_key}  # fmt: skip
        if client is not None:
            if conflicting := [name for name, value in client_settings.items() if value]:
                raise InvalidRequest(f"client and {conflicting[0]}: give one; a client has its own settings")
            check_client(client)
            if max_attempts_of(client) > 1:
                settings.setdefault("retry", False)
        elif (attempts := _configured_attempts(client_kwargs)) is not None:
            settings.setdefault("retry", RetryPolicy(attempts=attempts))
        self.base_model = base_model  # The constructor of `Model` may read the capabilities.
        self.client = client
        super().__init__(model_id, custom_role_conversions=custom_role_conversions, **settings)
        self.client_kwargs = _with_secrets(client_kwargs)
        self.region_name = region_name
        self.profile_name = profile_name
        self.api_base = api_base
        self.api_key = None if api_key is None else Secret.from_value(api_key, "AWS_BEARER_TOKEN_BEDROCK")
        self._transport = self._make_transport()

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(f"{self!r} has a client that was passed in, which can't be pickled")
        return {key: value for key, value in super().__getstate__().items() if key != "_transport"}

    @cached_property
    def _transport(self) -> BotoTransport:
        """The transport. The constructor sets it; an unpickled model makes it at its first call, as others do."""
        return self._make_transport()

    def _make_transport(self) -> BotoTransport:
        if self.client is not None:
            return BotoTransport(self.client)
        # The lambda must not refer to `self`. Otherwise a running call would prevent this model's garbage collection.
        arguments = (self.region_name, self.profile_name, self.api_base, self.api_key, self.client_kwargs or {})
        return BotoTransport(make_client=lambda: make_client(*arguments))

    async def list_models(self) -> list[ListedModel]:
        """Return the foundation models of the region. Inference profiles are not among them.

        See https://docs.aws.amazon.com/bedrock/latest/APIReference/API_ListFoundationModels.html
        """
        if self.client is not None:
            raise UnsupportedFeature("a client of 'bedrock-runtime' has no list of models: pass no client")
        arguments = (self.region_name, self.profile_name, self.api_base, self.api_key, self.client_kwargs or {})
        transport = BotoTransport(make_client=lambda: make_client(*arguments, service="bedrock"))
        try:
            response = await transport.call("list_foundation_models", {})
        finally:
            transport.close()
        models = response.get("modelSummaries")
        if not isinstance(models, list) or not all(isinstance(model.get("modelId"), str) for model in models):
            raise MalformedResponse("The response is no list of models.")
        return [ListedModel(model["modelId"], model.get("providerName")) for model in models]

    def _declare(self) -> Capabilities:
        # boto3 refuses every name that its description of the API does not have. `fields_from` explains three refusals.
        fields = self._transport.fields_of("Converse") | {"messages", "system", "modelId"}
        extra = (self.declared_capabilities.extra_parameters or frozenset()) | fields
        declared = self.declared_capabilities.replace(extra_parameters=extra, forwards_unknown=False)
        return declared.with_profiles(self.base_model or self._looked_up_model or self.model_id, PROFILES)

    def _layers(self) -> list[Layer]:
        return [self._look_up_model, *super()._layers()]

    def _look_up_model(self, request: Request, next: Next) -> Deltas:
        """The layer that looks up the model behind an application inference profile, before the first request."""
        if self._has_looked_up or self.base_model or self.client or not is_application_profile(self.model_id):
            return next(request)
        return self._send_with_model(request, next)

    async def _send_with_model(self, request: Request, next: Next) -> Deltas:
        settings = self.client_kwargs or {}
        if not has_own_address(self.api_base, settings):
            arguments = (self.region_name, self.profile_name, self.api_key, settings, request.timeouts)
            try:
                found = await model_behind(self.model_id or "", *arguments)
                if found and not self._has_looked_up:
                    self._declare_again(lambda: setattr(self, "_looked_up_model", found))
            except TimeoutError as error:
                warnings.warn(f"{self.model_id}: {advice(error)}", stacklevel=2)
            except ModelError as error:
                warnings.warn(f"{self.model_id}: {advice(self._redact(error))}", stacklevel=2)
        self._has_looked_up = True
        async with aclosing(next(request.replace(capabilities=self.capabilities))) as deltas:
            async for delta in deltas:
                yield delta

    def accepts_provider_data(self, data: ProviderData) -> bool:
        """Return whether Bedrock returned this data; see `Model.accepts_provider_data`."""
        return data.fits("converse", SERVICE)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Run one request; see `Model.deltas`."""
        does_not_stream = request.stream and (self._never_streams or (self._never_streams_tools and request.tools))
        if does_not_stream:
            request = request.replace(stream=False)
        left_out = self._left_out_of(request)
        call = converse_call_from(self._without(request, left_out), self.model_id)
        reader = ConverseResponseReader(call)
        try:
            if not request.stream:
                last = reader.read_response(await self._transport.call("converse", call.arguments))
                self._add_warnings(last, request, left_out)
                if does_not_stream:
                    last.warnings = [*(last.warnings or ()), _NO_STREAM_WARNING]
                yield last
                return
            try:
                async with aclosing(
                    self._transport.stream("converse_stream", call.arguments, last_event="metadata")
                ) as events:
                    async for event in events:
                        if (delta := reader.read_event(event)) is not None:
                            yield delta
            except ModelError:
                # After the stop reason the message is complete, and an error loses nothing but the token usage.
                if not reader.has_stop_reason:
                    raise
            last = reader.finish()
            self._add_warnings(last, request, left_out)
            yield last
        except ModelError as error:
            if isinstance(error, InvalidRequest):
                error.profile_updated = self._observe_rejection(error, request, left_out) or (
                    request.stream and self._observe_missing_stream(error)
                )
            raise self._redact(error) from None

    def _observe_missing_stream(self, error: InvalidRequest) -> bool:
        """Record that the model does not stream. Later streams are sent as non-streaming requests.

        Returns:
            Whether the error says so.
        """
        if means_no_stream(error.message, with_tools=True):
            self._never_streams_tools = True
        elif means_no_stream(error.message, with_tools=False):
            self._never_streams = True
        else:
            return False
        return True

    def _redact(self, error: ModelError) -> ModelError:
        """Redact secrets in the error's message, because some services quote the key that they received."""
        secrets = [self.api_key, *(value for value in (self.client_kwargs or {}).values() if isinstance(value, Secret))]
        secrets += [Secret(env=name) for name in (*_SECRET_VARIABLES.values(), "AWS_BEARER_TOKEN_BEDROCK")]
        text = redact(error.message, [secret.reveal() for secret in secrets if secret])
        error.args = (text, *error.args[1:])
        return error

    def release(self) -> None:
        """Close the connections. A client that was passed in stays open.

        `close` calls this method: users call `close`, authors override this.
        """
        if "_transport" in self.__dict__:
            self._transport.close()


def _configured_attempts(client_kwargs: Mapping[str, Any] | None) -> int | None:
    """The maximum number of attempts according to the `config` in these arguments; `None` if it sets none."""
    # botocore has two settings for this number. `max_attempts` does not count the first attempt.
    retries = getattr((client_kwargs or {}).get("config"), "retries", None) or {}
    if "max_attempts" in retries:
        return int(retries["max_attempts"]) + 1
    return int(retries["total_max_attempts"]) if "total_max_attempts" in retries else None


def _with_secrets(client_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The arguments with a `Secret` in place of each secret, or in place of the `{"env": NAME}` of a saved model."""
    if client_kwargs is None:
        return None
    result = dict(client_kwargs)
    for name, variable in _SECRET_VARIABLES.items():
        value = result.get(name)
        if isinstance(value, Mapping):
            result[name] = Secret(env=value.get("env"))
        elif value is not None:
            result[name] = Secret.from_value(value, variable)
    return result


#: A shorter name of the same class.
AmazonBedrockModel = AmazonBedrockServerModel
