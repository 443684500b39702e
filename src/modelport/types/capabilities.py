"""`Capabilities`: what a backend and its model can do. modelport never sends a request to find this out.

Each class of a backend declares `Capabilities`. Profiles change them for models with certain names, and the argument
`capabilities=` of the constructor overrides both. The layers decide by the result whether a request is sent as it is,
rewritten or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.json_text import excerpt
from modelport.schema.rules import SchemaRules
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex

_OUTPUT_TYPES = {"json_schema": JSONSchema, "regex": Regex, "choice": Choice, "lark": Lark}


@dataclass(frozen=True)
class Capabilities:
    """What a backend supports for one model. For other features, the layers use a substitute or refuse the request.

    Args:
        stop: Whether the backend supports stop sequences. If not, modelport truncates the output at a stop sequence.
        max_stop_sequences: How many stop sequences a request may have; `None` for any number. Stop sequences beyond
            this number are not sent, and modelport truncates the output at them.
        tools: Whether the backend supports tools. If not, modelport describes the tools in the prompt and reads the
            calls from the output.
        tool_choices: Which of `auto`, `none`, `required` and `named` the backend supports.
        parallel_tool_calls: Whether the model can make several calls in one message.
        grammars: The output types that the backend enforces, as classes or as the names `json_schema`, `regex`,
            `choice` and `lark`.
        enforces_grammars: Whether it is known that the backend enforces `grammars`. If not, they are sent, and the
            output is checked: `message.enforcement` says `validated`, and requests with `strict` are refused.
        schema_rules: The subset of JSON Schema that the backend enforces; `None` if it enforces any schema. modelport
            rewrites other schemas to this subset. If that is not possible, modelport requests the output as the
            arguments of a tool call, or validates the finished output.
        grammar_with_tools: Whether a request may have both an output type and tools.
        inputs: The accepted kinds of content parts: `text`, `image`, `audio`, `file`.
        image_urls: Whether the backend fetches images by URL. If not, modelport fetches them and sends their bytes.
        logprobs: Whether the backend returns log probabilities.
        seed: Whether the backend supports a seed.
        reasoning: Whether the backend returns the model's reasoning separately from the output.
        reasoning_efforts: The supported values of `reasoning_effort`.
        reasoning_budget: Whether `reasoning_budget` is supported. If it is, a `reasoning_effort` that is not in
            `reasoning_efforts` is sent as a budget.
        sends_reasoning: Whether modelport sends the reasoning text of earlier messages back to the model. The data in
            `ChatMessage.provider_data` does not depend on it.
        usage: Whether the backend reports token usage.
        cached_tokens: Whether the backend reports how many tokens of the prompt were read from a cache.
        system_role: Whether system messages are supported. If not, each is merged into the user message after it.
        consecutive_roles: Whether two messages of the same role may follow each other. If not, they are merged.
        renamed: modelport's names of parameters -> the backend's names, as `{"max_tokens": "max_completion_tokens"}`.
        refused: Parameters that are not supported. A request with one of them is refused.
        extra_parameters: The parameters that are supported beyond those that every backend has, such as `top_k` and
            `extra_body`. `None` if a parameter of any name is supported.
        forwards_unknown: Whether a parameter that is not in `extra_parameters` is sent, with a warning on the message.
            If not, it is refused. Services forward; engines, which know all their parameters, refuse.
    """

    stop: bool = True
    max_stop_sequences: int | None = None
    tools: bool = False
    tool_choices: frozenset[str] = frozenset({"auto", "none", "required", "named"})
    parallel_tool_calls: bool = True
    grammars: frozenset[type] = frozenset()
    enforces_grammars: bool = True
    schema_rules: SchemaRules | None = None
    grammar_with_tools: bool = False
    inputs: frozenset[str] = frozenset({"text"})
    image_urls: bool = False
    logprobs: bool = False
    seed: bool = False
    reasoning: bool = False
    reasoning_efforts: frozenset[str] = frozenset()
    reasoning_budget: bool = False
    sends_reasoning: bool = False
    usage: bool = False
    cached_tokens: bool = False
    system_role: bool = True
    consecutive_roles: bool = True
    renamed: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    extra_parameters: frozenset[str] | None = frozenset()
    forwards_unknown: bool = True

    def __post_init__(self) -> None:
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            annotation, _, optional = str(item.type).partition(" | ")
            if optional and value is None:
                continue
            if annotation.startswith("frozenset"):
                object.__setattr__(self, name, _to_frozenset(name, value))
            elif annotation == "bool" and not isinstance(value, bool):
                raise _invalid(name, value, "True or False")
            elif annotation == "int" and (type(value) is not int or value < 0):
                raise _invalid(name, value, "an integer, or None for any number")
            elif annotation.startswith("Mapping") and not isinstance(value, Mapping):
                raise _invalid(name, value, "a dict of names")
        try:
            object.__setattr__(self, "schema_rules", SchemaRules.from_value(self.schema_rules))
        except ValueError as error:
            raise InvalidRequest(f"capabilities: schema_rules: {error}") from None

    def replace(self, **changes: Any) -> Capabilities:
        """Return a copy with some values changed.

        Raises:
            InvalidRequest: A name is not that of a capability.
        """
        known = {item.name for item in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise InvalidRequest(f"capabilities: {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON types. `merged_with` accepts the result."""
        names = {output_type: name for name, output_type in _OUTPUT_TYPES.items()}
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            key: sorted(names.get(v, v) for v in value) if isinstance(value, frozenset)
            else value.to_dict() if isinstance(value, SchemaRules)
            else value
            for key, value in values.items()
        }  # fmt: skip

    def merged_with(self, given: Capabilities | Mapping[str, Any] | None) -> Capabilities:
        """Return a copy in which the caller's values replace the declared ones.

        Args:
            given: The caller's `capabilities` argument: complete `Capabilities`, which replace all values, or a dict of
                the values that differ; `None` for no change.

        Raises:
            InvalidRequest: `given` is something else, or names an unknown capability.
        """
        if given is None:
            return self
        if isinstance(given, Capabilities):
            return given
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise InvalidRequest(f"capabilities={excerpt(given)}: must be Capabilities, or a dict of what differs")
        return self.replace(**given)

    def with_profiles(self, model_id: str | None, profiles: Iterable[tuple[str, Mapping[str, Any]]]) -> Capabilities:
        """Return a copy changed by every profile whose pattern matches the model's name, in order.

        Args:
            model_id: The model's name. Only the part after the last slash is compared: `o3` of `openai/o3`.
            profiles: Pairs of a pattern with wildcards (`gpt-5*`) and the values to change.
        """
        name = (model_id or "").rsplit("/", 1)[-1].lower()
        result = self
        for pattern, changes in profiles:
            if fnmatchcase(name, pattern):
                result = result.replace(**changes)
        return result


def _to_frozenset(name: str, value: Any) -> frozenset[Any]:
    """Return the value of a capability that is a set; in `grammars`, names become the classes of the output types."""
    holds_types = name == "grammars"
    expected = f"a list of {', '.join(_OUTPUT_TYPES)}" if holds_types else "a list of names"
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise _invalid(name, value, expected)
    items = [_OUTPUT_TYPES.get(item, item) if holds_types and isinstance(item, str) else item for item in value]
    if not all(isinstance(item, type if holds_types else str) for item in items):
        raise _invalid(name, value, expected)
    return frozenset(items)


def _invalid(name: str, value: Any, expected: str) -> InvalidRequest:
    return InvalidRequest(f"capabilities: {name}={excerpt(value)}: must be {expected}")


def union_of(all_capabilities: Sequence[Capabilities]) -> Capabilities:
    """Return the capabilities that at least one of several models has."""
    result: dict[str, Any] = {}
    for item in fields(Capabilities):
        values = [getattr(capabilities, item.name) for capabilities in all_capabilities]
        if item.name == "renamed":
            continue  # Every model renames the parameters itself, so the union renames none.
        if item.name == "refused":
            result[item.name] = frozenset.intersection(*values)
        elif None in values:  # For these fields, `None` means "no limit".
            result[item.name] = None
        elif item.name == "schema_rules":
            # Two different subsets of JSON Schema can't be joined into one, so the union then has no rules.
            result[item.name] = values[0] if all(value == values[0] for value in values) else None
        elif isinstance(values[0], frozenset):
            result[item.name] = frozenset.union(*values)
        else:
            result[item.name] = max(values)
    return Capabilities(**result)
