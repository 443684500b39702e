"""What a backend and its model can do: declared, never tried out on the service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from modelport.errors import InvalidRequest
from modelport.schema.rules import SchemaRules
from modelport.types.output_types import Choice, JSONSchema, Lark, Regex

_GRAMMARS = {"json_schema": JSONSchema, "regex": Regex, "choice": Choice, "lark": Lark}


@dataclass(frozen=True)
class Capabilities:
    """What a backend honours by itself; the layers make up for the rest or refuse it.

    Args:
        stop: It takes stop sequences. Where not, the port cuts the answer.
        max_stop_sequences: How many it takes; `None` for any number. The port cuts at the others.
        tools: It takes tools. Where not, tools are put into the prompt and calls read from the answer.
        tool_choices: Which of `auto`, `none`, `required` and `named` it takes.
        parallel_tool_calls: It may make several calls in one answer.
        grammars: The kinds of grammar that it enforces by itself.
        schema_rules: The subset of JSON Schema that it enforces; `None` for any schema. The port rewrites a schema to
            it, and secures one that can't be said there another way.
        grammar_with_tools: It takes a grammar and tools in one request.
        inputs: The kinds of parts it takes: `text`, `image`, `audio`, `file`.
        image_urls: It fetches images by URL; where not, the port does and sends their bytes.
        logprobs: It gives log probabilities.
        seed: It takes a seed.
        reasoning: It gives the model's thinking apart from the answer.
        reasoning_efforts: Which values of `reasoning_effort` it takes.
        reasoning_budget: It takes a `reasoning_budget`, as which an effort goes too that it does not take by name.
        sends_reasoning: It wants earlier thinking sent back.
        usage: It reports token usage.
        cached_tokens: It reports how much of the prompt came from a cache.
        system_role: It takes a system message. Where not, its text goes in front of the first user message.
        consecutive_roles: It takes two messages of one role in a row. Where not, they are merged.
        renamed: Parameters it knows by another name, as `{"max_tokens": "max_completion_tokens"}`.
        refused: Parameters it does not take; a request that holds one is refused.
        extra_parameters: Those it takes beside the ones the port knows; `None` where any is passed on.
    """

    stop: bool = True
    max_stop_sequences: int | None = None
    tools: bool = False
    tool_choices: frozenset[str] = frozenset({"auto", "none", "required", "named"})
    parallel_tool_calls: bool = True
    grammars: frozenset[type] = frozenset()
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
    extra_parameters: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            kind, _, optional = str(item.type).partition(" | ")
            if optional and value is None:
                continue
            if kind.startswith("frozenset"):
                object.__setattr__(self, name, _set(name, value))
            elif kind == "bool" and not isinstance(value, bool):
                raise _wrong(name, value, "True or False")
            elif kind == "int" and (type(value) is not int or value < 0):
                raise _wrong(name, value, "a whole number, or None for any")
            elif kind.startswith("Mapping") and not isinstance(value, Mapping):
                raise _wrong(name, value, "a dict of names")
        try:
            object.__setattr__(self, "schema_rules", SchemaRules.from_value(self.schema_rules))
        except ValueError as error:
            raise InvalidRequest(f"capabilities: schema_rules: {error}") from None

    def replace(self, **changes: Any) -> Capabilities:
        """The same with some values changed.

        Raises:
            InvalidRequest: A name is no capability.
        """
        known = {item.name for item in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise InvalidRequest(f"capabilities: {unknown[0]!r} is unknown; known are {', '.join(sorted(known))}")
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it; `overlaid` takes it."""
        names = {kind: name for name, kind in _GRAMMARS.items()}
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            key: sorted(names.get(v, v) for v in value) if isinstance(value, frozenset)
            else value.to_dict() if isinstance(value, SchemaRules)
            else value
            for key, value in values.items()
        }  # fmt: skip

    def merged_with(self, given: Capabilities | Mapping[str, Any] | None) -> Capabilities:
        """The same with the caller's own word laid over it."""
        if given is None:
            return self
        if isinstance(given, Capabilities):
            return given
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise InvalidRequest(f"capabilities={given!r}: must be Capabilities, or a dict of what differs")
        return self.replace(**given)

    def profiled(self, model_id: str | None, profiles: Iterable[tuple[str, Mapping[str, Any]]]) -> Capabilities:
        """The same with every profile laid over it whose pattern the model's name matches, in order.

        Args:
            model_id: Its last part counts: `openai/o3` is `o3`.
            profiles: Pairs of a shell pattern (`gpt-5*`) and the changes.
        """
        name = (model_id or "").rsplit("/", 1)[-1].lower()
        result = self
        for pattern, changes in profiles:
            if fnmatchcase(name, pattern):
                result = result.replace(**changes)
        return result


def _set(name: str, value: Any) -> frozenset[Any]:
    """What a capability names; grammars may go by their names."""
    told, kind = ("a list of names", str) if name != "grammars" else (f"a list of {', '.join(_GRAMMARS)}", type)
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise _wrong(name, value, told)
    items = [_GRAMMARS.get(item, item) if kind is type and isinstance(item, str) else item for item in value]
    if not all(isinstance(item, kind) for item in items):
        raise _wrong(name, value, told)
    return frozenset(items)


def _wrong(name: str, value: Any, told: str) -> InvalidRequest:
    return InvalidRequest(f"capabilities: {name}={value!r}: must be {told}")


def any_of(every: Sequence[Capabilities]) -> Capabilities:
    """What at least one of them can do."""
    result: dict[str, Any] = {}
    for item in fields(Capabilities):
        values = [getattr(capabilities, item.name) for capabilities in every]
        if item.name == "renamed":
            continue  # which is each one's own affair
        if item.name == "refused":
            result[item.name] = frozenset.intersection(*values)
        elif None in values:  # no bound
            result[item.name] = None
        elif item.name == "schema_rules":
            # No one subset describes two services that differ, so no rules are stated for them.
            result[item.name] = values[0] if all(value == values[0] for value in values) else None
        elif isinstance(values[0], frozenset):
            result[item.name] = frozenset.union(*values)
        else:
            result[item.name] = max(values)
    return Capabilities(**result)
