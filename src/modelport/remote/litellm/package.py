"""What both LiteLLM backends share: the package, what it knows of models, its answers, and keys."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from modelport.errors import InvalidRequest, MalformedResponse
from modelport.inputs.parameters import KNOWN_PARAMETERS
from modelport.inputs.settings import check_kind
from modelport.remote.http.packages import require
from modelport.remote.http.redaction import secrets_in
from modelport.remote.litellm.isolation import ClientIsolation, keep_apart
from modelport.remote.profiles import PROFILES
from modelport.secrets import Secret, names_secret
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema

# --- the package ------------------------------------------------------------------------------------------------------


def require_litellm() -> None:
    """Looks whether LiteLLM is installed, without its import, which takes seconds.

    Raises:
        MissingDependency: It is not.
    """
    require("litellm", "litellm")


@functools.cache
def litellm_package() -> Any:
    """LiteLLM, imported on first use: nothing is fetched, printed or reported, and its own log is silent.

    What the user has set stays: `LITELLM_LOCAL_MODEL_COST_MAP`, `LITELLM_LOG`, or the level of a logger of its.
    """
    require_litellm()
    # Or its import, and its first call of some services, would fetch tables that the package brings along.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    import litellm

    litellm.suppress_debug_info = True  # "Give Feedback / Get Help", printed at every error
    if hasattr(litellm, "telemetry"):  # of versions up to 1.9x
        litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Router"):
        if logging.getLogger(name).level == logging.NOTSET and "LITELLM_LOG" not in os.environ:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # every error is raised
    with suppress(AttributeError, ImportError):  # Models then share what LiteLLM keeps, as those of others do.
        keep_apart(litellm)
    return litellm


# --- what it knows of models ------------------------------------------------------------------------------------------


def known_capabilities(base: Capabilities, model_id: str, provider: str | None, api_base: str | None) -> Capabilities:
    """What LiteLLM's tables say that a model can do; nothing is asked of the service.

    A model that its tables do not know, such as one on a server of your own, is taken to do what its provider does.

    Raises:
        InvalidRequest: It knows no such provider.
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
    takes = set(litellm.get_supported_openai_params(model, custom_llm_provider=provider) or ())
    if not takes:
        return (
            base.replace(refused=frozenset(RETRIES)).with_profiles(model_id, PROFILES).replace(grammars=base.grammars)
        )
    rows = [row for name in (model_id, f"{provider}/{model}", model) if (row := litellm.model_cost.get(name))]
    told = next((row for row in rows if row.get("litellm_provider") == provider and _says_anything(row)), None)

    def can(feature: str) -> bool:
        return told is None or bool(told.get(f"supports_{feature}"))

    kinds = {"image": "vision", "audio": "audio_input", "file": "pdf_input"}
    changes: dict[str, Any] = {
        "stop": "stop" in takes,
        "tools": "tools" in takes,
        "tool_choices": base.tool_choices if "tool_choice" in takes else frozenset({"auto", "none"}),
        "grammars": frozenset({JSONSchema}) if "response_format" in takes and can("response_schema") else frozenset(),
        "inputs": frozenset({"text", *(kind for kind, feature in kinds.items() if can(feature))}),
        "logprobs": "logprobs" in takes,
        "seed": "seed" in takes,
        "reasoning": can("reasoning"),
        "reasoning_efforts": base.reasoning_efforts if "reasoning_effort" in takes else frozenset(),
        "reasoning_budget": "thinking" in takes,
        "system_role": told is None or told.get("supports_system_messages") is not False,
        # LiteLLM itself refuses others of OpenAI's that the provider does not take; `user` it would drop.
        "refused": ((KNOWN_PARAMETERS & set(litellm.OPENAI_CHAT_COMPLETION_PARAMS)) | {"user"}) - takes | {*RETRIES},
    }
    # What it does not hand on, such as custom tools for grammars, the model's profile can't add.
    result = base.replace(**changes).with_profiles(model_id, PROFILES).replace(grammars=changes["grammars"])
    return result if "max_completion_tokens" in takes else result.replace(renamed={})


def _says_anything(row: Mapping[str, Any]) -> bool:
    """The Router adds a row for each of its deployments, which says nothing of those that nobody knows."""
    return any(name.startswith("supports_") and value is not None for name, value in row.items())


#: By which LiteLLM retries; the port does.
RETRIES = ("num_retries", "max_retries")


def in_common(all_of_them: Iterable[Capabilities]) -> Capabilities:
    """What each of several models can do."""
    first, *others = all_of_them
    for other in others:
        changes: dict[str, Any] = {}
        for field in fields(Capabilities):
            a, b = getattr(first, field.name), getattr(other, field.name)
            if field.name == "refused":
                changes[field.name] = a | b
            elif isinstance(a, bool):
                changes[field.name] = a and b
            elif isinstance(a, frozenset) and isinstance(b, frozenset):
                changes[field.name] = a & b
            elif field.name == "renamed":
                changes[field.name] = a if a == b else {}
        first = first.replace(**changes)
    return first


# --- answers ----------------------------------------------------------------------------------------------------------


class ResponseStream:
    """A stream of LiteLLM's, told apart from what LiteLLM adds: a finish reason and counts where the service sent none.

    Args:
        stream: A `CustomStreamWrapper`. Its `chunks` keep what the service sent.
        kept: The clients of those services that are asked with the first chunk, or where the Router falls back.
    """

    def __init__(self, stream: Any, kept: ClientIsolation) -> None:
        self._stream = self._source = stream
        self._kept = kept
        self._watch(stream)

    def _watch(self, stream: Any) -> None:
        """Follows the Router to another deployment, whose stream then is the one that tells the end."""
        adopt = getattr(stream, "adopt_fallback_response_headers", None)
        if adopt is None:
            return

        def noted(response: Any, *rest: Any) -> Any:
            self._source = response
            self._watch(response)
            return adopt(response, *rest)

        stream.adopt_fallback_response_headers = noted

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks, without how they end."""
        chunks = aiter(self._stream)
        while (chunk := await self._kept.during(anext(chunks, None))) is not None:
            data = as_dict(chunk)
            data.pop("usage", None)
            for choice in data.get("choices") or ():
                choice["finish_reason"] = None
            yield data

    def ending(self) -> dict[str, Any]:
        """A last chunk, with the finish reason and the counts that the service sent."""
        result: dict[str, Any] = {"choices": []}
        for chunk in self._source.chunks:
            data = as_dict(chunk)
            if usage := data.get("usage"):
                result["usage"] = usage
            if choices := [choice for choice in data.get("choices") or () if choice.get("finish_reason")]:
                result |= {**data, "choices": [{"finish_reason": choices[0]["finish_reason"], "delta": {}}]}
        return result

    def is_bare(self) -> bool:
        """Whether it is what LiteLLM makes of a body that is no stream: an ending, and nothing before it."""
        return len(self._source.chunks) < 2

    async def close(self) -> None:
        """Closes its connection."""
        try:
            await self._stream.aclose()
        except Exception:
            pass  # It is going anyway.


def as_dict(answer: Any) -> dict[str, Any]:
    """A response or a chunk as a dict; counts that LiteLLM made up of nothing are left out."""
    if not hasattr(answer, "model_dump"):
        raise MalformedResponse(f"LiteLLM gave {type(answer).__name__} for an answer.")
    data: dict[str, Any] = answer.model_dump()
    usage = data.get("usage") or {}
    if not usage.get("prompt_tokens") and not usage.get("completion_tokens"):
        data["usage"] = None
    return data


# --- keys -------------------------------------------------------------------------------------------------------------


def secrets_of(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """What LiteLLM's parameters hold that no error may show: keys, and a user's headers and query."""
    keys = {name: value for name, value in parameters.items() if names_secret(name)}
    sent = [parameters.get(name) for name in ("headers", "extra_headers", "extra_query")]
    return secrets_in(keys, *(layer for layer in sent if isinstance(layer, Mapping)))


def secret_of(key: Secret | str | Mapping[str, Any], owner: str) -> Secret:
    """A key, and where it is found again: the variable that holds it, or one that is named for its owner.

    Args:
        key: Also `os.environ/NAME`, or `{"env": NAME}`, for what stands in a variable.
        owner: A model's name, `provider/model`, or the setting's.
    """
    if isinstance(key, Secret):
        return key
    if isinstance(key, Mapping):
        return Secret(env=key.get("env"))
    check_kind(str, api_key=key)
    if key.startswith("os.environ/"):
        return Secret(env=key.removeprefix("os.environ/"))
    provider, slash, _ = owner.partition("/")
    name = f"{provider}_api_key" if slash else owner if owner.startswith("redis") else "litellm_api_key"
    return Secret(
        key, next((found for found, value in os.environ.items() if value == key), name.upper().replace("-", "_"))
    )
