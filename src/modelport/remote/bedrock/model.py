"""Models on Amazon Bedrock, through its Converse API and boto3."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from modelport.errors import InvalidRequest, ModelError
from modelport.inputs.settings import check_kind
from modelport.layers.retry import RetryPolicy
from modelport.model import Model
from modelport.protocols.converse.request import call_from
from modelport.protocols.converse.response import ConverseResponseReader
from modelport.remote.bedrock.client import attempts_of, check_client, make_client
from modelport.remote.bedrock.transport import Boto
from modelport.remote.http.redaction import without_secrets
from modelport.remote.schema_subsets import BEDROCK as BEDROCK_SCHEMAS
from modelport.secrets import Secret
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request

#: Settings of boto3's clients that hold keys; they are kept as secrets, under the variables that boto3 reads.
_KEYS = {"aws_secret_access_key": "AWS_SECRET_ACCESS_KEY", "aws_session_token": "AWS_SESSION_TOKEN"}

_SAMPLING = frozenset({"top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"})
_NATIVE = {"grammars": frozenset({JSONSchema})}
_FORCED = {"tool_choices": frozenset({"auto", "none", "required", "named"}), "refused": _SAMPLING - {"top_k"}}
_TEXT, _FILES = {"inputs": frozenset({"text"})}, {"inputs": frozenset({"text", "file"})}
_PLAIN = {"tools": False, "system_role": False, **_FILES}

_THINKS = "additionalModelRequestFields."
#: Thinking is off unless it is asked for.
_BUDGET = {"reasoning_budget": True, "reasoning_efforts": frozenset({"none"})}
_EFFORTS = frozenset({"low", "medium", "high"})
_CLAUDE = {"top_k": "additionalModelRequestFields.top_k", "reasoning_budget": f"{_THINKS}thinking.budget_tokens",
           "reasoning_effort": f"{_THINKS}output_config.effort"}  # fmt: skip
_NOVA = {"top_k": "additionalModelRequestFields.inferenceConfig.topK",
         "reasoning_effort": f"{_THINKS}reasoningConfig.maxReasoningEffort"}  # fmt: skip

#: What families of models do otherwise than most, by their id.
#: See https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-supported-models-features.html,
#: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html,
#: https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html,
#: https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-extended-thinking.html and
#: https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html
PROFILES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("*anthropic.*", {**_FORCED, "renamed": _CLAUDE}),
    ("*anthropic.claude-3-7*", _BUDGET),
    ("*anthropic.claude-sonnet-4*", _BUDGET),
    ("*anthropic.claude-haiku-4*", _BUDGET),
    ("*anthropic.claude-opus-4*", _BUDGET),
    ("*anthropic.claude-opus-4-[7-9]*", {"reasoning_budget": False, "reasoning_efforts": _EFFORTS | {"none"}}),
    ("*anthropic.claude-sonnet-4-5*", _NATIVE),
    ("*anthropic.claude-haiku-4-5*", _NATIVE),
    ("*anthropic.claude-opus-4-[56]*", _NATIVE),
    ("*amazon.nova*", {**_FORCED, "renamed": _NOVA, "max_stop_sequences": 4}),
    ("*amazon.nova-2*", {"reasoning_efforts": _EFFORTS | {"none"}}),
    ("*amazon.nova-micro*", _TEXT),
    ("*amazon.titan*", _PLAIN),
    ("*mistral.*", {"tool_choices": frozenset({"auto", "none", "required"})}),
    ("*mistral.mistral-7b*", _PLAIN),
    ("*mistral.mixtral*", _PLAIN),
    ("*cohere.*", _FILES),
    ("*ai21.*", _FILES),
    ("*deepseek.*", _TEXT),
    ("*deepseek.r1*", {"tools": False, **_FILES}),
    ("*deepseek.v3*", _NATIVE),
    ("*openai.gpt-oss*", {**_NATIVE, **_TEXT, "reasoning_efforts": _EFFORTS,
                          "renamed": {"reasoning_effort": f"{_THINKS}reasoning_effort"}}),
    ("*qwen.qwen3*", _NATIVE),
)  # fmt: skip


class AmazonBedrockServerModel(Model):
    """A model on Amazon Bedrock.

    Credentials, region and proxies are those that boto3 finds, unless they are given here. Calls run in threads; a
    caller who leaves breaks the connection.

    Args:
        model_id: A model's id, an inference profile's (`us.amazon.nova-pro-v1:0`) or an ARN.
        client: A client of your own, of `boto3.client("bedrock-runtime")`. It is used as it is; where it sends requests
            again by itself, this model does not, unless `retry` says so. One who leaves a whole answer of it is let go
            at once, its connection only when the service has answered.
        client_kwargs: For `boto3.Session.client`, as `{"verify": "ca.pem", "config": Config(…)}`. Retries in its
            `config` become this model's `retry`, since boto3's own are switched off.
        region_name: By default that of `AWS_DEFAULT_REGION`, of the profile, or of `AWS_REGION`.
        profile_name: Of your AWS configuration; by default `AWS_PROFILE`.
        api_base: The service's URL; by default `AWS_ENDPOINT_URL_BEDROCK_RUNTIME`, else the region's.
        api_key: A Bedrock API key; by default `AWS_BEARER_TOKEN_BEDROCK`, else boto3's chain of credentials.
        **settings: See `Model`; everything that it does not know is a field of the API's, in its case or in snake case:
            `inference_config`, `guardrail_config`, `additional_model_request_fields`, `performance_config`,
            `request_metadata`, `service_tier`, … The port's `temperature`, `max_tokens` and `top_p` go before
            `inference_config`. Further: `guardrail_identifier` and `guardrail_version`; and `cache_points`, the places
            at whose end the prompt is cached: of `tools`, `system` and `messages`, as a list, or as a dict with how
            long each is kept (`5m` or `1h`).

    Example:
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
        refused=_SAMPLING,
    )
    secret_settings: ClassVar[frozenset[str]] = frozenset({"api_key"})

    def __init__(
        self,
        model_id: str | None = None,
        client: Any = None,
        client_kwargs: Mapping[str, Any] | None = None,
        *,
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
        check_kind(Mapping, client_kwargs=client_kwargs)
        check_kind(str, region_name=region_name, profile_name=profile_name, api_base=api_base)
        own = {"client_kwargs": client_kwargs, "region_name": region_name, "profile_name": profile_name,
               "api_base": api_base, "api_key": api_key}  # fmt: skip
        if client is not None:
            if given := [name for name, value in own.items() if value]:
                raise InvalidRequest(f"client and {given[0]}: give one; the settings of a client are its own")
            check_client(client)
            if attempts_of(client) > 1:
                settings.setdefault("retry", False)
        elif (attempts := _attempts(client_kwargs)) is not None:
            settings.setdefault("retry", RetryPolicy(attempts=attempts))
        super().__init__(model_id, **settings)
        self.client = client
        self.client_kwargs = _with_secrets(client_kwargs)
        self.region_name = region_name
        self.profile_name = profile_name
        self.api_base = api_base
        self.api_key = None if api_key is None else Secret.from_value(api_key, "AWS_BEARER_TOKEN_BEDROCK")
        self._boto = self._make_boto()

    def __getstate__(self) -> dict[str, Any]:
        if self.client is not None:
            raise TypeError(f"{self!r} holds a client of yours, which can't be pickled")
        return {key: value for key, value in super().__getstate__().items() if key != "_boto"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._boto = self._make_boto()

    def _make_boto(self) -> Boto:
        if self.client is not None:
            return Boto(self.client)
        # Not bound to this object, which could then never be forgotten while a call runs.
        given = (self.region_name, self.profile_name, self.api_base, self.api_key, self.client_kwargs or {})
        return Boto(make=lambda: make_client(*given))

    def _declare(self) -> Capabilities:
        return self.declared_capabilities.profiled(self.model_id, PROFILES)

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        """Answers a request; see `Model.deltas`."""
        call = call_from(request, self.model_id, self.capabilities)
        reader = ConverseResponseReader(call)
        try:
            if not request.stream:
                yield reader.whole(await self._boto.call("converse", call.arguments))
                return
            try:
                async with aclosing(self._boto.stream("converse_stream", call.arguments, "metadata")) as events:
                    async for event in events:
                        if (piece := reader.event(event)) is not None:
                            yield piece
            except ModelError:
                if not reader.finished:  # What breaks after the end of the answer costs its usage alone.
                    raise
            yield reader.end()
        except ModelError as error:
            raise self._without_secrets(error) from None

    def _without_secrets(self, error: ModelError) -> ModelError:
        """The error without the keys that were sent, which some services quote."""
        secrets = [self.api_key, *(v for v in (self.client_kwargs or {}).values() if isinstance(v, Secret))]
        secrets += [Secret(env=name) for name in (*_KEYS.values(), "AWS_BEARER_TOKEN_BEDROCK")]
        text = without_secrets(error.message, [secret.reveal() for secret in secrets if secret])
        error.args = (text, *error.args[1:])
        return error

    def close(self) -> None:
        """Closes the connections; a client of yours is left open."""
        self._boto.close()


def _attempts(client_kwargs: Mapping[str, Any] | None) -> int | None:
    """How often a request is to be sent at most, by the `config` for a client; `None` where it says nothing."""
    retries = getattr((client_kwargs or {}).get("config"), "retries", None) or {}
    if "max_attempts" in retries:
        return int(retries["max_attempts"]) + 1
    return int(retries["total_max_attempts"]) if "total_max_attempts" in retries else None


def _with_secrets(client_kwargs: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The settings with their keys hidden; a key that was stored is found in its environment variable again."""
    if client_kwargs is None:
        return None
    result = dict(client_kwargs)
    for name, env in _KEYS.items():
        value = result.get(name)
        if isinstance(value, Mapping):
            result[name] = Secret(env=value.get("env"))
        elif value is not None:
            result[name] = Secret.from_value(value, env)
    return result


#: The short name.
AmazonBedrockModel = AmazonBedrockServerModel
