"""Makes IDs of tool calls, and rewrites those that a service refuses.

A conversation may have begun on another service, whose IDs this one refuses: OpenAI accepts 40 characters, and Mistral
exactly nine letters or digits. An ID that a service refuses is replaced by a digest of it, in the call and in its
result. The digest depends on nothing else, so the same ID is replaced in the same way in every later request.
"""

from __future__ import annotations

import hashlib
import os
import re
import string
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from modelport.types.messages import ChatMessage


@dataclass(frozen=True)
class CallIdRule:
    """Which IDs of tool calls a service accepts.

    Args:
        pattern: A regular expression for the complete ID.
        length: The number of letters and digits in the ID that replaces another one.
        source: The page or report that states the rule.
        is_of_model: Whether the models themselves have the rule, in their chat templates. It then holds on every API.
    """

    pattern: str
    length: int
    source: str
    is_of_model: bool = False


_OPENAI = CallIdRule(r".{1,40}", 24, "https://github.com/agno-agi/agno/issues/5382")
_MISTRAL = CallIdRule(r"[a-zA-Z0-9]{9}", 9, "https://github.com/anomalyco/opencode/issues/1680", is_of_model=True)
#: The service's key, as in `inputs.vendor_parameters` -> its rule.
_BY_SERVICE = {"openai": _OPENAI, "azure": _OPENAI, "mistral": _MISTRAL}
#: A pattern of the model's name, without what stands before its last slash -> the rule, on whichever server the model
#: runs: the chat templates of Mistral's models refuse other IDs, and routers pass the IDs on to OpenAI.
_BY_MODEL = {
    # Mistral, Ministral, Magistral, Codestral, Devstral, …, and Mixtral, Pixtral, Voxtral.
    "*stral-*": _MISTRAL, "*xtral-*": _MISTRAL,
    "gpt-*": _OPENAI, "o[134]": _OPENAI, "o[134]-*": _OPENAI,
}  # fmt: skip
_ALPHABET = string.digits + string.ascii_letters


def call_id_rule(service: str | None, model_id: str | None) -> CallIdRule | None:
    """Return the rule of a service or of a model, or `None` if any ID is accepted."""
    name = (model_id or "").rsplit("/", 1)[-1].lower()
    by_model = next((rule for pattern, rule in _BY_MODEL.items() if fnmatchcase(name, pattern)), None)
    # The rule of a Mistral model on Azure is stricter than that of Azure.
    return by_model or _BY_SERVICE.get(service or "")


def new_call_id() -> str:
    """Return a random ID that every service accepts."""
    return _digest(os.urandom(32), _MISTRAL.length)


def accepted_id(call_id: str, rule: CallIdRule) -> str:
    """Return the ID, or the one that replaces it if the rule does not accept it."""
    if not call_id or re.fullmatch(rule.pattern, call_id, re.DOTALL):
        return call_id
    return _digest(call_id.encode("utf-8", "surrogatepass"), rule.length)


def with_accepted_ids(messages: tuple[ChatMessage, ...], rule: CallIdRule | None) -> tuple[ChatMessage, ...]:
    """Return the messages, with the IDs of tool calls and of their results as the rule requires.

    If nothing has to change, the result is the given tuple.
    """
    if rule is None:
        return messages
    for message in messages:
        if message.tool_calls or message.tool_call_id:
            break
    else:
        return messages

    def accepted(call_id: str) -> str:
        return accepted_id(call_id, rule)

    result = []
    for message in messages:
        calls, result_id = message.tool_calls, message.tool_call_id
        if calls and any(accepted(call.id) != call.id for call in calls):
            message = replace(message, tool_calls=[replace(call, id=accepted(call.id)) for call in calls])
        if result_id and accepted(result_id) != result_id:
            message = replace(message, tool_call_id=accepted(result_id))
        result.append(message)
    is_unchanged = all(before is after for before, after in zip(messages, result, strict=True))
    return messages if is_unchanged else tuple(result)


def _digest(data: bytes, length: int) -> str:
    number, text = int.from_bytes(hashlib.sha256(data).digest(), "big"), ""
    for _ in range(length):
        number, digit = divmod(number, len(_ALPHABET))
        text += _ALPHABET[digit]
    return text
