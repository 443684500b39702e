"""Looks up in LiteLLM's own tables what a model can do. No request is sent to the service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from modelport.errors import InvalidRequest
from modelport.inputs.parameters import KNOWN_PARAMETERS
from modelport.inputs.vendor_parameters import parameters_of
from modelport.remote.litellm.package import litellm_package
from modelport.remote.profiles import PROFILES
from modelport.remote.services import provider_at, service_at
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema

#: The parameters that make LiteLLM retry. modelport's retry layer retries instead: `LiteLLMModel` converts these
#: parameters in its constructor to its setting `retry`, and a call with one of them is refused.
RETRY_PARAMETERS = ("num_retries", "max_retries")
#: LiteLLM writes these prices into its table of models, which all models of the process share.
_PRICES = frozenset(name for name in parameters_of("litellm") if "_cost_per_" in name)
#: The parameters of LiteLLM that saved data may set. The others of its page name a path, switch off TLS, call code,
#: change the prices of other models, or (`model_list`) consist of such parameters.
SAVED_PARAMETERS = (
    parameters_of("litellm")
    - _PRICES
    - {"cache", "caching", "logger_fn", "model_list", "shared_session", "ssl_verify", "verbose"}
) | {"aws_region_name", "extra_headers", "headers", "organization", "vertex_location", "vertex_project"}
#: LiteLLM's providers for servers with OpenAI's API, of which only the address says which service it is.
_COMPATIBLE = ("openai", "custom_openai", "openai_like")
_TIMEOUT_PARAMETERS = {"timeout", "first_token_timeout", "idle_timeout"}


def known_capabilities(base: Capabilities, model_id: str, provider: str | None, api_base: str | None) -> Capabilities:
    """What a model can do, according to LiteLLM's tables.

    A model that the tables do not have, such as one on the user's own server, gets the capabilities of its provider.
    modelport's `PROFILES`, by the model's name, then change the result, except for `grammars`, the output types
    that are enforced: a profile may add types that LiteLLM does not pass on, such as `Regex` in OpenAI's custom tools.

    Args:
        base: The capabilities that `LiteLLMModel` declares. LiteLLM's tables restrict them.
        model_id: LiteLLM's name of the model, usually `provider/model`.
        provider: LiteLLM's name of the provider; `None` if `model_id` begins with it.
        api_base: The base URL of the service; `None` for the provider's own.

    Raises:
        InvalidRequest: LiteLLM knows no such provider.
    """
    litellm = litellm_package()
    try:
        model, provider, *_ = litellm.get_llm_provider(model_id, custom_llm_provider=provider, api_base=api_base)
    except Exception:
        raise InvalidRequest(
            f"model_id={model_id!r}: LiteLLM knows no such provider or model. Write 'provider/model', as "
            "'anthropic/claude-sonnet-4-5'; 'openai/NAME' with api_base for a compatible server. See "
            "https://docs.litellm.ai/docs/providers"
        ) from None
    if provider in _COMPATIBLE and api_base is not None and service_at(api_base) is None:
        base = base.replace(enforces_grammars=False)  # LiteLLM calls any server in this way.
    accepted = set(litellm.get_supported_openai_params(model, custom_llm_provider=provider) or ())
    if not accepted:  # LiteLLM does not know what the provider accepts, so the declared capabilities apply.
        result = base.replace(refused=frozenset(RETRY_PARAMETERS)).with_profiles(model_id, PROFILES)
        return result.replace(grammars=base.grammars)
    rows = [row for name in (model_id, f"{provider}/{model}", model) if (row := litellm.model_cost.get(name))]
    # `None` means that LiteLLM's table says nothing about this model. Every feature then counts as supported.
    flags = next((row for row in rows if row.get("litellm_provider") == provider and _has_support_flags(row)), None)

    def supports(feature: str) -> bool:
        return flags is None or bool(flags.get(f"supports_{feature}"))

    input_features = {"image": "vision", "audio": "audio_input", "file": "pdf_input"}
    has_schemas = "response_format" in accepted and supports("response_schema")
    # Of the parameters that the provider does not accept, modelport refuses those in `KNOWN_PARAMETERS`. It also
    # refuses `user`, because LiteLLM would drop it silently. LiteLLM refuses the others.
    refused = ((KNOWN_PARAMETERS & set(litellm.OPENAI_CHAT_COMPLETION_PARAMS)) | {"user"}) - accepted
    changes: dict[str, Any] = {
        "stop": "stop" in accepted,
        "tools": "tools" in accepted,
        "tool_choices": base.tool_choices if "tool_choice" in accepted else frozenset({"auto", "none"}),
        "grammars": frozenset({JSONSchema}) if has_schemas else frozenset(),
        "inputs": frozenset({"text", *(kind for kind, feature in input_features.items() if supports(feature))}),
        "logprobs": "logprobs" in accepted,
        "seed": "seed" in accepted,
        "reasoning": supports("reasoning"),
        "reasoning_efforts": base.reasoning_efforts if "reasoning_effort" in accepted else frozenset(),
        "reasoning_budget": "thinking" in accepted,
        "system_role": flags is None or flags.get("supports_system_messages") is not False,
        # modelport applies the time limits itself, so they work with every provider.
        "refused": refused - _TIMEOUT_PARAMETERS | {*RETRY_PARAMETERS},
    }
    result = base.replace(**changes).with_profiles(model_id, PROFILES).replace(grammars=changes["grammars"])
    # A profile may rename `max_tokens` to `max_completion_tokens`, which not every provider accepts through LiteLLM.
    return result if "max_completion_tokens" in accepted else result.replace(renamed={})


def service_of(model_id: str, provider: str | None, api_base: str | None) -> str:
    """Who answers a model, for `ProviderData.service`.

    LiteLLM passes chat completions of the provider `openai` on as they are. So the data is that of the address.
    """
    try:
        _, provider, _, base = litellm_package().get_llm_provider(
            model_id, custom_llm_provider=provider, api_base=api_base
        )
    except Exception:
        base = api_base
    if provider == "openai":
        return provider_at(api_base or base) or "openai"
    return f"litellm/{provider}"


def _has_support_flags(row: Mapping[str, Any]) -> bool:
    """Whether a row of LiteLLM's table has a `supports_…` flag with a value, which says what the model can do.

    `litellm.Router` adds a row for each of its deployments. That row has no flags if LiteLLM does not know the model.
    """
    return any(name.startswith("supports_") and value is not None for name, value in row.items())


def common_capabilities(capabilities: Iterable[Capabilities]) -> Capabilities:
    """What all of several models can do.

    The function combines sets, booleans and `renamed`. Other capabilities, such as `schema_rules`, are those of the
    first model.
    """
    result, *others = capabilities
    for other in others:
        changes: dict[str, Any] = {}
        for field in fields(Capabilities):
            a, b = getattr(result, field.name), getattr(other, field.name)
            if field.name == "refused":
                changes[field.name] = a | b
            elif isinstance(a, bool):
                changes[field.name] = a and b
            elif isinstance(a, frozenset) and isinstance(b, frozenset):
                changes[field.name] = a & b
            elif field.name == "renamed":
                changes[field.name] = a if a == b else {}
        result = result.replace(**changes)
    return result
