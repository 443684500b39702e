"""A request's parameters as fields of the Converse API: where they go, guardrails, cache points. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.protocols.converse.content import cache_point
from modelport.types.request import Request

#: The places of the port's parameters; a profile's `renamed` adds those of one model family.
PLACES = {"max_tokens": "inferenceConfig.maxTokens", "temperature": "inferenceConfig.temperature",
          "top_p": "inferenceConfig.topP"}  # fmt: skip
#: The service's own fields, which may be written in snake case too.
FIELDS = frozenset({
    "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields", "promptVariables",
    "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "serviceTier", "outputConfig",
    "guardrailIdentifier", "guardrailVersion", "cachePoints",
})  # fmt: skip
#: What else is said where how much to think is said.
BESIDE = {
    "additionalModelRequestFields.thinking.budget_tokens": {"type": "enabled"},
    "additionalModelRequestFields.reasoningConfig.maxReasoningEffort": {"type": "enabled"},
}
ADAPTIVE = "additionalModelRequestFields.output_config.effort"
MIN_BUDGET = 1024
MAX_CACHE_POINTS = 4
CACHE_PLACES = ("tools", "system", "messages")


def fields_from(request: Request, places: Mapping[str, str]) -> dict[str, Any]:
    """The parameters as fields of the API; the port's own names go before the same thing in the API's."""
    fields: dict[str, Any] = {}
    own: list[tuple[str, Any]] = []
    for name, value in request.parameters.items():
        camel = re.sub("_([a-z])", lambda match: match[1].upper(), name)
        if name == "parallel_tool_calls":
            if not value:
                raise UnsupportedFeature("parallel_tool_calls=False: the Converse API can't ask for it; leave it out")
        elif name == "reasoning_effort" and value == "none":
            pass  # for models that think only where they are told to
        elif name in places:
            own.append((places[name], value))
        elif name in ("messages", "system", "modelId"):
            raise InvalidRequest(f"{name!r} is no parameter here: give messages, system messages and model_id instead")
        elif value is not False or name not in ("logprobs", "top_logprobs"):
            name = camel if camel in FIELDS else name
            # What is added to these must not change the caller's own.
            fields[name] = {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value
    for place, value in own:
        *path, last = place.split(".")
        inner = fields
        for key in path:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise InvalidRequest(f"{key} must be a dict, not {type(inner).__name__}")
        inner.update({last: value, **BESIDE.get(place, {})})
        if place == ADAPTIVE:
            fields["additionalModelRequestFields"].setdefault("thinking", {"type": "adaptive"})
    _check_budget(request)
    for key in ("inferenceConfig", "outputConfig", "toolConfig", "guardrailConfig"):
        if not isinstance(fields.get(key, {}), dict):
            raise InvalidRequest(f"{key}={fields[key]!r}: must be a dict")
    temperature = fields.get("inferenceConfig", {}).get("temperature")
    if isinstance(temperature, int | float) and temperature > 1:
        raise InvalidRequest(f"temperature={temperature!r}: Bedrock takes 0 to 1", parameter="temperature")
    return fields


def _check_budget(request: Request) -> None:
    budget, most = (request.parameters.get(name) for name in ("reasoning_budget", "max_tokens"))
    if budget is not None and budget < MIN_BUDGET:
        raise InvalidRequest(
            f"reasoning_budget={budget}: this model takes at least {MIN_BUDGET}", parameter="reasoning_budget"
        )
    if budget is not None and most is not None and most <= budget:
        raise InvalidRequest(
            f"max_tokens={most} counts the thinking too, for which {budget} tokens were given: raise it above them",
            parameter="max_tokens",
        )


def _copied(value: Any) -> Any:
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def guarded(fields: dict[str, Any], stream: bool) -> dict[str, Any]:
    """The fields with their guardrail under one name, and without what only streams take."""
    guardrail = fields.get("guardrailConfig", {})
    for name in ("guardrailIdentifier", "guardrailVersion"):
        if name in fields:
            guardrail[name] = str(fields.pop(name))
    if guardrail:
        if "guardrailIdentifier" in guardrail and "guardrailVersion" not in guardrail:
            raise InvalidRequest("guardrail_version is missing: give the guardrail's version, such as '1' or 'DRAFT'")
        if not stream:
            guardrail.pop("streamProcessingMode", None)
        fields["guardrailConfig"] = guardrail
    return fields


def place_cache_points(arguments: dict[str, Any], points: Any) -> None:
    """Puts a cache point at the end of each place that `points` names: a list, or a dict of time-to-live by place."""
    if isinstance(points, str) or not isinstance(points, Mapping | Sequence | frozenset | set):
        raise InvalidRequest(f"cache_points={points!r}: must be a list of {', '.join(CACHE_PLACES)}")
    for place in points:
        if place not in CACHE_PLACES:
            raise InvalidRequest(f"cache_points: {place!r} is no place; there are {', '.join(CACHE_PLACES)}")
        ttl = points[place] if isinstance(points, Mapping) else None
        if ttl not in (None, "5m", "1h"):
            raise InvalidRequest(f"cache_points[{place!r}]={ttl!r}: must be '5m', '1h' or None")
        point = cache_point(ttl)
        if place == "messages":
            turn = next(turn for turn in reversed(arguments["messages"]) if turn["role"] == "user")
            turn["content"].append(point)
        elif place == "system" and "system" in arguments:
            arguments["system"].append(point)
        elif place == "tools" and "toolConfig" in arguments:
            arguments["toolConfig"]["tools"].append(point)
    tools = arguments.get("toolConfig", {}).get("tools", ())
    count = sum(isinstance(b, Mapping) and "cachePoint" in b
                for blocks in (tools, arguments.get("system", ()), *(t["content"] for t in arguments["messages"]))
                for b in blocks)  # fmt: skip
    if count > MAX_CACHE_POINTS:
        raise InvalidRequest(f"there are {count} cache points; Bedrock takes at most {MAX_CACHE_POINTS}: drop some")
