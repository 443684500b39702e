"""Fields of a Converse request other than messages and tools: parameters, guardrail, cache points.

`fields_from` writes each parameter of a request to its field. `set_guardrail_config` then changes these fields in
place, and `add_cache_points` the complete arguments of the call. They enforce these rules before anything is sent:

- `temperature` is at most 1.
- While Claude reasons, `temperature` is 1 and there is no `top_k`; `top_p` is at least `MIN_REASONING_TOP_P`. Nova
  takes none of them at its highest effort. `drop_sampling` leaves them out, with a warning.
- A reasoning budget has at least `MIN_REASONING_BUDGET` tokens, and fewer than `max_tokens`, which includes the
  reasoning.
- A guardrail with an identifier also has a version. Its setting `streamProcessingMode` is sent with streams only.
- A request has at most `MAX_CACHE_POINTS` cache points. A cache point needs content before it, so none is added to a
  section that is empty.
- `parallel_tool_calls=False` is refused, because the Converse API can't forbid parallel tool calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.protocols.converse.content import cache_point
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

#: modelport's parameter -> the path of its field in the arguments of `converse`: the keys of the nested dicts, joined
#: by dots. `Capabilities.renamed` has the paths of the parameters whose field depends on the model.
FIELD_PATHS = {"max_tokens": "inferenceConfig.maxTokens", "temperature": "inferenceConfig.temperature",
               "top_p": "inferenceConfig.topP"}  # fmt: skip
#: Parameters that are named as in the service's documentation. Callers may also write them in snake case. The arguments
#: of `converse` do not include `guardrailIdentifier`, `guardrailVersion` and `cachePoints`: `set_guardrail_config` and
#: `add_cache_points` turn these into other fields.
SERVICE_FIELDS = frozenset({
    "inferenceConfig", "toolConfig", "guardrailConfig", "additionalModelRequestFields", "promptVariables",
    "additionalModelResponseFieldPaths", "requestMetadata", "performanceConfig", "serviceTier", "outputConfig",
    "guardrailIdentifier", "guardrailVersion", "cachePoints",
})  # fmt: skip
#: Path of a reasoning parameter's field -> fields that the service requires in the same dict.
_COMPANION_FIELDS = {
    "additionalModelRequestFields.thinking.budget_tokens": {"type": "enabled"},
    "additionalModelRequestFields.reasoningConfig.maxReasoningEffort": {"type": "enabled"},
}
#: The path of the reasoning effort for models that decide by themselves how much to reason. The service also requires
#: the field `thinking` with the type "adaptive" for them.
_ADAPTIVE_EFFORT_PATH = "additionalModelRequestFields.output_config.effort"
MIN_REASONING_BUDGET = 1024
MIN_REASONING_TOP_P = 0.95
MAX_CACHE_POINTS = 4
#: The sections of a request that can end with a cache point.
CACHE_SECTIONS = ("tools", "system", "messages")


def fields_from(request: Request, field_paths: Mapping[str, str]) -> dict[str, Any]:
    """The parameters of a request as fields of the Converse API.

    modelport's own parameter names take precedence over the same setting under the service's name.

    Args:
        request: The parameters are read from this request.
        field_paths: Parameter -> the dotted path of its field. Parameters without a path are passed on under their own
            names.

    Raises:
        InvalidRequest: A parameter has a wrong value.
        UnsupportedFeature: A parameter asks for something that the Converse API can't do.
    """
    fields: dict[str, Any] = {}
    values_at_paths: list[tuple[str, Any]] = []
    for name, value in request.parameters.items():
        camel_case = re.sub("_([a-z])", lambda match: match[1].upper(), name)
        if name == "parallel_tool_calls":
            if not value:
                raise UnsupportedFeature(
                    "parallel_tool_calls=False: the Converse API has no such setting; leave it out"
                )
        elif name == "reasoning_effort" and value == "none":
            pass  # Models on Bedrock that accept "none" do not reason unless the request asks for reasoning.
        elif name in field_paths:
            values_at_paths.append((field_paths[name], value))
        elif name in ("messages", "system", "modelId"):
            raise InvalidRequest(
                f"{name!r} is not a parameter: pass messages, with system messages among them, and model_id instead"
            )
        elif value is not False or name not in ("logprobs", "top_logprobs"):
            # `logprobs=False` does not get here: it requests nothing, so no field is sent.
            name = camel_case if camel_case in SERVICE_FIELDS else name
            # `_set_at_path` adds keys to these dicts, so they are copies of the caller's.
            fields[name] = {k: _copy_mappings(v) for k, v in value.items()} if isinstance(value, Mapping) else value
    for path, value in values_at_paths:
        _set_at_path(fields, path, value)
    _check_reasoning_budget(request)
    for key in ("inferenceConfig", "outputConfig", "toolConfig", "guardrailConfig"):
        if not isinstance(fields.get(key, {}), dict):
            raise InvalidRequest(f"{key}={fields[key]!r}: must be a dict")
    temperature = fields.get("inferenceConfig", {}).get("temperature")
    if isinstance(temperature, int | float) and temperature > 1:
        raise InvalidRequest(f"temperature={temperature!r}: Bedrock accepts 0 to 1", parameter="temperature")
    return fields


def drop_sampling(fields: dict[str, Any]) -> list[CallWarning]:
    """Leave out the sampling parameters that the service refuses while the model reasons.

    See https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-extended-thinking.html and
    https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html

    Args:
        fields: The fields of a request; changed in place.

    Returns:
        A warning for each parameter that was left out.
    """
    config = fields.get("inferenceConfig", {})
    model_fields = fields.get("additionalModelRequestFields")
    if not isinstance(model_fields, dict):
        return []
    thinking, nova = model_fields.get("thinking"), model_fields.get("reasoningConfig")
    dropped: list[str] = []
    if isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"):
        if config.get("temperature", 1) != 1:
            dropped.append("temperature")
        top_p = config.get("topP")
        if isinstance(top_p, int | float) and top_p < MIN_REASONING_TOP_P:
            dropped.append("topP")
        if model_fields.pop("top_k", None) is not None:
            dropped.append("top_k")
    elif isinstance(nova, dict) and nova.get("maxReasoningEffort") == "high":
        dropped += [name for name in ("temperature", "topP") if name in config]
        nova_config = model_fields.get("inferenceConfig")
        if isinstance(nova_config, dict) and nova_config.pop("topK", None) is not None:
            dropped.append("top_k")
            if not nova_config:
                del model_fields["inferenceConfig"]
    for name in dropped:
        config.pop(name, None)
    if dropped and not config:
        fields.pop("inferenceConfig", None)
    names = [re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", name) for name in dropped]
    return [
        CallWarning("left_out", name, f"{name} was left out, because the model does not accept it while it reasons.")
        for name in names
    ]


def set_guardrail_config(fields: dict[str, Any], *, is_stream: bool) -> None:
    """Move `guardrailIdentifier` and `guardrailVersion` into `guardrailConfig`, where the service expects them.

    Args:
        fields: The fields of a request; changed in place.
        is_stream: Whether the response is streamed. If not, the guardrail's setting `streamProcessingMode` is removed,
            because the service accepts it for streams only.

    Raises:
        InvalidRequest: The guardrail's version is missing.
    """
    guardrail = fields.get("guardrailConfig", {})
    for name in ("guardrailIdentifier", "guardrailVersion"):
        if name in fields:
            guardrail[name] = str(fields.pop(name))
    if guardrail:
        if "guardrailIdentifier" in guardrail and "guardrailVersion" not in guardrail:
            raise InvalidRequest("guardrail_version is missing: give the guardrail's version, such as '1' or 'DRAFT'")
        if not is_stream:
            guardrail.pop("streamProcessingMode", None)
        fields["guardrailConfig"] = guardrail


def add_cache_points(arguments: dict[str, Any], sections: Any) -> None:
    """Add a cache point at the end of each of the sections; in `messages`, at the end of the last user turn.

    Args:
        arguments: The arguments of the call; changed in place.
        sections: Names from `CACHE_SECTIONS`, as a list, or as a dict with the time-to-live of each section (`5m`,
            `1h` or `None` for the model's default).

    Raises:
        InvalidRequest: A section or a time-to-live is unknown, or the request has too many cache points.
    """
    if isinstance(sections, str) or not isinstance(sections, Mapping | Sequence | frozenset | set):
        raise InvalidRequest(f"cache_points={sections!r}: must be a list of {', '.join(CACHE_SECTIONS)}")
    for section in sections:
        if section not in CACHE_SECTIONS:
            raise InvalidRequest(f"cache_points: {section!r} is unknown; there are {', '.join(CACHE_SECTIONS)}")
        ttl = sections[section] if isinstance(sections, Mapping) else None
        if ttl not in (None, "5m", "1h"):
            raise InvalidRequest(f"cache_points[{section!r}]={ttl!r}: must be '5m', '1h' or None")
        point = cache_point(ttl)
        if section == "messages":
            turn = next(turn for turn in reversed(arguments["messages"]) if turn["role"] == "user")
            turn["content"].append(point)
        elif section == "system" and "system" in arguments:
            arguments["system"].append(point)
        elif section == "tools" and "toolConfig" in arguments:
            arguments["toolConfig"]["tools"].append(point)
    tools = arguments.get("toolConfig", {}).get("tools", ())
    block_lists = (tools, arguments.get("system", ()), *(turn["content"] for turn in arguments["messages"]))
    count = sum(isinstance(block, Mapping) and "cachePoint" in block
                for blocks in block_lists
                for block in blocks)  # fmt: skip
    if count > MAX_CACHE_POINTS:
        raise InvalidRequest(
            f"the request has {count} cache points; Bedrock accepts at most {MAX_CACHE_POINTS}: remove some"
        )


def _set_at_path(fields: dict[str, Any], path: str, value: Any) -> None:
    """Set the field at a dotted path, and the other fields that the service requires with it."""
    *parents, last = path.split(".")
    parent = fields
    for key in parents:
        parent = parent.setdefault(key, {})
        if not isinstance(parent, dict):
            raise InvalidRequest(f"{key} must be a dict, not {type(parent).__name__}")
    parent.update({last: value, **_COMPANION_FIELDS.get(path, {})})
    if path == _ADAPTIVE_EFFORT_PATH:
        fields["additionalModelRequestFields"].setdefault("thinking", {"type": "adaptive"})


def _check_reasoning_budget(request: Request) -> None:
    budget, max_tokens = (request.parameters.get(name) for name in ("reasoning_budget", "max_tokens"))
    if budget is not None and budget < MIN_REASONING_BUDGET:
        raise InvalidRequest(
            f"reasoning_budget={budget}: this model requires at least {MIN_REASONING_BUDGET}",
            parameter="reasoning_budget",
        )
    if budget is not None and max_tokens is not None and max_tokens <= budget:
        raise InvalidRequest(
            f"max_tokens={max_tokens} includes the reasoning, whose budget is {budget} tokens: raise max_tokens above "
            "the budget",
            parameter="max_tokens",
        )


def _copy_mappings(value: Any) -> Any:
    return {k: _copy_mappings(v) for k, v in value.items()} if isinstance(value, Mapping) else value
