"""The table of the parameters that a call can have: `PARAMETERS`.

It has a `Parameter` for each option of a call that modelport knows, whether the option becomes an item of
`Request.parameters` (`temperature`) or a field of `Request` (`tools`). The other constants are derived from the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelport.errors import InvalidRequest
from modelport.inputs.messages import role_conversions_from
from modelport.inputs.output_types import grammar_from, grammar_from_response_format
from modelport.inputs.settings import check_kind
from modelport.inputs.tool_choice import tool_choice_from

#: A function that checks the value of a parameter and returns it as one type: a list of stop sequences, for example, as
#: a tuple. Its arguments are the caller's value, and the name that the caller used for the parameter. It raises
#: `InvalidRequest` if the value is wrong.
Normaliser = Callable[[Any, str], Any]


@dataclass(frozen=True)
class Parameter:
    """What modelport knows about one parameter of a call.

    Args:
        name: The parameter's main name, which layers and backends use.
        normalise: Checks the caller's value and converts it to one type.
        other_names: Other names that callers can use for the parameter.
        destination: Where the value is put:

            - `parameters`: into `Request.parameters`; every backend accepts the parameter or refuses it by name;
            - `timeouts`: into `Request.timeouts`;
            - `request`: into another field of `Request`, or it controls how the messages are converted;
            - `backend`: into `Request.parameters`, but only backends that list it in `Capabilities.extra_parameters`
              accept it;
            - `check_only`: nowhere. Only one value is allowed, so nothing but the check is needed.
        capability: The field of `Capabilities` that must be true for this parameter; otherwise the request is refused.
            `None` if the parameter needs no capability, or if the layers have a substitute: they can send a
            `reasoning_effort` as a `reasoning_budget`, for example.
        excludes: The name of a parameter that can't be in the same call, because both set the same thing.
    """

    name: str
    normalise: Normaliser
    other_names: tuple[str, ...] = ()
    destination: Literal["parameters", "timeouts", "request", "backend", "check_only"] = "parameters"
    capability: str | None = None
    excludes: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names that callers can use for the parameter."""
        return (self.name, *self.other_names)


def _number(low: float, high: float = math.inf, *, integer: bool = False, exclusive: bool = False) -> Normaliser:
    """Return a function that accepts numbers from `low` to `high`; with `exclusive`, `low` itself is not accepted."""
    kind = "an integer" if integer else "a number"
    bounds = f"{'above' if exclusive else 'of at least'} {low:g}" + (
        f" and at most {high:g}" if high < math.inf else ""
    )

    def normalise(value: Any, name: str) -> Any:
        right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
        if right_type and (value > low if exclusive else value >= low) and value <= high and value != math.inf:
            return value
        raise _invalid(value, name, f"must be {kind} {bounds}")

    return normalise


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    raise _invalid(value, name, "must be True or False")


def _dict(value: Any, name: str) -> Any:
    check_kind(Mapping, **{name: value})  # Unlike `_invalid`, it does not show the value, which may contain an API key.
    return value


def _number_of_messages(value: Any, name: str) -> Any:
    if value == 1:
        return value
    raise _invalid(value, name, "must be 1: a call returns one message; call again for another")


def _stream(value: Any, name: str) -> Any:
    if value is False:
        return value
    raise _invalid(value, name, "can't be set by a parameter: call generate_stream for a stream")


#: The values of `reasoning_effort`, from no reasoning to as much as the model can do.
REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def _reasoning_effort(value: Any, name: str) -> Any:
    if value in REASONING_EFFORTS:
        return value
    raise _invalid(value, name, f"must be one of {', '.join(REASONING_EFFORTS)}")


def stop_sequences_from(value: Any, name: str = "stop_sequences") -> tuple[str, ...]:
    """Return the stop sequences in the caller's order, without repetitions.

    Raises:
        InvalidRequest: `value` is not a string or a list of strings, or a string is empty.
    """
    values = [value] if isinstance(value, str) else () if value is None else value
    if not isinstance(values, Iterable) or isinstance(values, bytes):
        raise InvalidRequest(f"{name} must be a list of strings, not {type(value).__name__}")
    values = tuple(values)
    for index, stop in enumerate(values):
        if not isinstance(stop, str) or not stop:
            raise InvalidRequest(f"{name}[{index}]={stop!r}: must be a string that is not empty")
    return tuple(dict.fromkeys(values))


def _tools(value: Any, name: str) -> Any:
    # The module is imported here because many programs use no tools, and `import modelport` must be fast.
    from modelport.inputs.tools import tools_from

    return tools_from(value)


def _grammar(value: Any, name: str) -> Any:
    return grammar_from_response_format(value) if name == "response_format" else grammar_from(value)


def _invalid(value: Any, name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{name}={value!r}: {problem}", parameter=name)


#: The longest timeout in seconds. Some larger numbers would overflow the clock of an event loop, which is a float.
_MAX_TIMEOUT = 1e9
_timeout = _number(0, _MAX_TIMEOUT, exclusive=True)

PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter("stop_sequences", stop_sequences_from, other_names=("stop",), destination="request"),
        Parameter("grammar", _grammar, other_names=("response_format",), destination="request"),
        Parameter("strict", _flag, destination="request"),
        Parameter("tools", _tools, other_names=("tools_to_call_from",), destination="request"),
        Parameter("tool_choice", lambda value, name: tool_choice_from(value), destination="request"),
        Parameter("custom_role_conversions", lambda value, name: role_conversions_from(value), destination="request"),
        Parameter("flatten_messages_as_text", _flag, destination="request"),
        Parameter("max_tokens", _number(1, integer=True), other_names=("max_new_tokens", "max_completion_tokens")),
        Parameter("temperature", _number(0)),
        Parameter("top_p", _number(0, 1, exclusive=True)),
        Parameter("min_p", _number(0, 1)),
        Parameter("top_k", _number(0, integer=True)),
        Parameter("seed", _number(-(2**63), 2**64, integer=True), capability="seed"),
        Parameter("presence_penalty", _number(-2, 2)),
        Parameter("frequency_penalty", _number(-2, 2)),
        Parameter("repetition_penalty", _number(0, exclusive=True)),
        Parameter("logprobs", _flag, capability="logprobs"),
        Parameter("top_logprobs", _number(0, 20, integer=True), capability="logprobs"),
        Parameter("parallel_tool_calls", _flag),
        Parameter("reasoning_effort", _reasoning_effort, excludes="reasoning_budget"),
        Parameter("reasoning_budget", _number(1, integer=True), excludes="reasoning_effort"),
        Parameter("timeout", _timeout, destination="timeouts"),
        Parameter("first_token_timeout", _timeout, destination="timeouts"),
        Parameter("idle_timeout", _timeout, destination="timeouts"),
        Parameter("extra_body", _dict, destination="backend"),
        Parameter("extra_headers", _dict, destination="backend"),
        Parameter("extra_query", _dict, destination="backend"),
        Parameter("n", _number_of_messages, destination="check_only"),
        Parameter("stream", _stream, destination="check_only"),
    )
}

#: Every name of a parameter -> the parameter.
BY_ANY_NAME: Mapping[str, Parameter] = {
    name: parameter for parameter in PARAMETERS.values() for name in parameter.names
}


def _with_destination(*destinations: str) -> frozenset[str]:
    return frozenset(name for name, parameter in PARAMETERS.items() if parameter.destination in destinations)


#: The main names of the parameters in `Request.parameters` that are not specific to some backends.
KNOWN_PARAMETERS = _with_destination("parameters")
#: The main names of all options of a call that are not specific to some backends.
CALL_OPTIONS = _with_destination("parameters", "timeouts", "request", "check_only")
#: The parameters that become a field of `Request.timeouts`.
TIMEOUTS = _with_destination("timeouts")
#: The name of a parameter -> the name of the parameter that a call can't have as well.
EXCLUSIVE: Mapping[str, str] = {
    name: parameter.excludes for name, parameter in PARAMETERS.items() if parameter.excludes is not None
}
#: The name of a parameter -> the field of `Capabilities` that must be true for it.
NEEDED_CAPABILITIES: Mapping[str, str] = {
    name: parameter.capability for name, parameter in PARAMETERS.items() if parameter.capability is not None
}
