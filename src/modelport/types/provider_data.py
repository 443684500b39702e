"""`ProviderData`: what a service returned that it expects to receive again, unchanged, in later requests.

Examples are signatures of reasoning, encrypted reasoning, and the reasoning text that some services require in a tool
loop. A reader of a protocol puts it on the deltas of a response, so that `ChatMessage` and its tool calls have it. The
layer `adapt` leaves it out, with a warning, if the model that is called can't use it
(`Model.accepts_provider_data`). Otherwise the protocol puts it into the request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from modelport.schema.json_text import excerpt

#: The names of the wire formats, which are packages of `modelport.protocols`.
Protocol = Literal["chat_completions", "responses", "messages", "converse"]

#: The fields of a chat completion's message in which services return provider data. A caller may pass them by hand.
MESSAGE_FIELDS = ("reasoning_content", "reasoning_details", "thinking_blocks", "extra_content")
#: The same for the fields of a tool call.
CALL_FIELDS = ("extra_content", "provider_specific_fields")
#: The fields that are lists of objects. `reasoning_content` is a string, and the others are objects.
_LISTS = ("reasoning_details", "thinking_blocks")
#: The types of content parts that are reasoning.
REASONING_PARTS = ("thinking", "reasoning")


@dataclass(frozen=True, slots=True, repr=False)
class ProviderData:
    """Data of one service, in the form in which the service returned it.

    It is sent back only by the same protocol and to the same service. If `service` is `None`, it is sent to every
    service of the protocol.

    Args:
        protocol: The wire format: `chat_completions`, `responses`, `messages` or `converse`.
        items: JSON objects, in the service's order. For chat completions, each is a dict of fields of the message or
            of the tool call; for Responses, an output item; for Messages and Converse, a content block.
        service: Who returned the data: the name of a known service such as `openrouter`, or the host of its API;
            `None` if the caller passed the data by hand.

    Examples:
        >>> ProviderData("chat_completions", ({"reasoning_content": "Paris is in France."},), "deepseek")
        ProviderData('chat_completions', 'deepseek', 1 item)
    """

    protocol: Protocol
    items: tuple[Mapping[str, Any], ...]
    service: str | None = None

    def __post_init__(self) -> None:
        if self.protocol not in get_args(Protocol):
            raise ValueError(
                f"'protocol' is {excerpt(self.protocol)}; it must be one of {', '.join(get_args(Protocol))}"
            )
        if not isinstance(self.service, str | None):
            raise ValueError(f"'service' must be a string, not {type(self.service).__name__}")
        if not isinstance(self.items, list | tuple) or not all(isinstance(item, Mapping) for item in self.items):
            raise ValueError("'items' must be a list of dicts")
        object.__setattr__(self, "items", tuple(self.items))

    @classmethod
    def from_value(cls, value: Any) -> ProviderData:
        """Return provider data from a `ProviderData`, or from the dict that `to_dict` returned.

        Raises:
            ValueError: The value is something else, or has an unknown key.
        """
        if isinstance(value, ProviderData):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a dict with 'protocol' and 'items', not {type(value).__name__}")
        if unknown := sorted(map(repr, value.keys() - {"protocol", "service", "items"})):
            raise ValueError(f"unknown key {unknown[0]}; known are items, protocol, service")
        return cls(value.get("protocol", ""), value.get("items", ()), value.get("service"))

    def to_dict(self) -> dict[str, Any]:
        """Return the data as a dict of JSON types, which `from_value` and `generate` accept."""
        result: dict[str, Any] = {"protocol": self.protocol, "items": list(self.items)}
        return result if self.service is None else {**result, "service": self.service}

    def fits(self, protocol: Protocol, service: str | None) -> bool:
        """Return whether the data may be sent to a service: it has the same protocol, and the same service or none."""
        return self.protocol == protocol and self.service in (None, service)

    def __repr__(self) -> str:
        # The repr appears in logs. The items may be long, and they are encrypted or private.
        count = len(self.items)
        return f"ProviderData({self.protocol!r}, {self.service!r}, {count} item{'' if count == 1 else 's'})"


def join(parts: Iterable[ProviderData]) -> ProviderData | None:
    """Return the provider data that consists of these parts, in order; `None` if there are none.

    Parts of another protocol or service than the last part are discarded.
    """
    all_parts = list(parts)
    if len(all_parts) < 2:
        return all_parts[0] if all_parts else None
    last = all_parts[-1]
    same = (part for part in all_parts if (part.protocol, part.service) == (last.protocol, last.service))
    return ProviderData(last.protocol, tuple(item for part in same for item in part.items), last.service)


def provider_data_from(get: Callable[[str], Any], fields: Iterable[str]) -> ProviderData | None:
    """Return the provider data of a message or of a tool call that a caller passes.

    Args:
        get: Returns the value of a key of the message or the call; `None` if there is none.
        fields: `MESSAGE_FIELDS` or `CALL_FIELDS`: the fields that are taken as provider data of chat completions.

    Raises:
        ValueError: The value of `provider_data` or of a field is not valid.
    """
    by_hand = {name: value for name in fields if (value := get(name)) is not None}
    for name, value in by_hand.items():
        _check_field(name, value)
    if (given := get("provider_data")) is None:
        return ProviderData("chat_completions", (by_hand,)) if by_hand else None
    try:
        data = ProviderData.from_value(given)
    except ValueError as error:
        raise ValueError(f"'provider_data': {error}") from None
    if by_hand:
        raise ValueError(f"'provider_data' and {next(iter(by_hand))!r} exclude each other: pass one of them")
    return data


def reasoning_parts_of(content: Any) -> list[Mapping[str, Any]]:
    """Return the parts of a message's content that are reasoning, in the formats of Mistral and Databricks."""
    return [
        part
        for part in (content if isinstance(content, list | tuple) else ())
        if isinstance(part, Mapping)
        and part.get("type") in REASONING_PARTS
        and isinstance(part.get("thinking") or part.get("summary"), list | tuple)
    ]


def reasoning_text_of(part: Mapping[str, Any]) -> str:
    """Return the text of reasoning in a content part, or in an entry of `reasoning_details`."""
    inner = part.get("thinking") or part.get("summary") or part.get("text")
    if isinstance(inner, list):
        return "".join(reasoning_text_of(item) for item in inner)
    return inner if isinstance(inner, str) else ""


def _check_field(name: str, value: Any) -> None:
    if name == "reasoning_content":
        is_valid, expected = isinstance(value, str), "a string"
    elif name in _LISTS:
        is_valid = isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value)
        expected = "a list of dicts, as in the response"
    else:
        is_valid, expected = isinstance(value, Mapping), "a dict, as in the response"
    if not is_valid:
        raise ValueError(f"{name!r} must be {expected}, not {type(value).__name__}")
