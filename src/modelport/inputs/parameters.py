"""The table of the parameters that a call can have: `PARAMETERS`.

It has a `Parameter` for each option of a call that modelport knows, whether the option becomes an item of
`Request.parameters` (`temperature`) or a field of `Request` (`tools`). The other constants are derived from the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from modelport.errors import InvalidRequest
from modelport.inputs.messages import role_conversions_from
from modelport.inputs.output_types import grammar_from
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
        description: What the parameter does, with its unit and range, in Markdown for the reference page.
        default: What happens without the parameter; empty if nothing happens.
        elsewhere: What happens with a backend that does not accept it; empty if every backend does.
        source: The page that defines the parameter; empty if modelport defines it.
    """

    name: str
    normalise: Normaliser
    other_names: tuple[str, ...] = ()
    destination: Literal["parameters", "timeouts", "request", "backend", "check_only"] = "parameters"
    capability: str | None = None
    excludes: str | None = None
    description: str = ""
    default: str = ""
    elsewhere: str = ""
    source: str = ""

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
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
REASONING_EFFORTS: tuple[ReasoningEffort, ...] = get_args(ReasoningEffort)


def _reasoning_effort(value: Any, name: str) -> Any:
    if value in REASONING_EFFORTS:
        return value
    raise _invalid(value, name, f"must be one of {', '.join(REASONING_EFFORTS)}")


OnError = Literal["raise", "return"]


def _on_error(value: Any, name: str) -> Any:
    if value in get_args(OnError):
        return value
    raise _invalid(value, name, "must be 'raise' or 'return'")


#: How many characters the stop sequences of a call may have together. Each piece of the output is compared with them.
MAX_STOP_CHARACTERS = 10_000


#: The maximum of `usage_after_stop`.
MAX_USAGE_DELTAS = 10_000


def stop_sequences_from(value: Any, name: str = "stop_sequences") -> tuple[str, ...]:
    """Return the stop sequences in the caller's order, without repetitions.

    Raises:
        InvalidRequest: `value` is not a string or a list of strings, a string is empty, or they are too long.
    """
    values = [value] if isinstance(value, str) else () if value is None else value
    if not isinstance(values, Iterable) or isinstance(values, bytes):
        raise InvalidRequest(f"{name} must be a list of strings, not {type(value).__name__}")
    values = tuple(values)
    length = 0
    for index, stop in enumerate(values):
        if not isinstance(stop, str) or not stop:
            raise InvalidRequest(f"{name}[{index}]={stop!r}: must be a string that is not empty")
        length += len(stop)
    if length > MAX_STOP_CHARACTERS:
        raise InvalidRequest(
            f"{name}: the stop sequences have {length} characters together; at most {MAX_STOP_CHARACTERS} are accepted"
        )
    return tuple(dict.fromkeys(values))


def _tools(value: Any, name: str) -> Any:
    # The module is imported here because many programs use no tools, and `import modelport` must be fast.
    from modelport.inputs.tools import tools_from

    return tools_from(value)


def _invalid(value: Any, name: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{name}={value!r}: {problem}", parameter=name)


#: The longest timeout in seconds. Some larger numbers would overflow the clock of an event loop, which is a float.
_MAX_TIMEOUT = 1e9
_timeout = _number(0, _MAX_TIMEOUT, exclusive=True)

#: What happens to a parameter that a backend lacks, for the reference page: see `Parameter.elsewhere`.
_REFUSED = "`UnsupportedFeature` before anything is sent"
_SERVICE_DECIDES = (
    "`UnsupportedFeature` if modelport knows that. Otherwise the parameter is sent, and if the service rejects it, "
    "later requests leave it out, with a warning"
)
_WARNED = (
    "a remote service gets the parameter, and the message a warning; a local engine refuses it with "
    "`UnsupportedFeature`"
)

PARAMETERS: Mapping[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            "stop_sequences", stop_sequences_from, other_names=("stop",), destination="request",
            description="The output ends before the first of these strings that appears in it.",
            elsewhere="modelport ends the output itself",
        ),
        Parameter(
            "grammar", grammar_from, other_names=("response_format",), destination="request",
            description="The output type, or `None` for free text: a pydantic model, a dataclass, a `TypedDict`, an "
            "`Enum`, a `Literal`, a JSON schema, a `Choice`, a `Regex` or a `Lark`. `message.parsed` is the output as "
            "an object of this type.",
            elsewhere="the output comes as the arguments of a tool call, or it is validated; see `strict`",
        ),
        Parameter(
            "strict", _flag, destination="request", default="False",
            description="Whether the call is refused if neither the engine nor the service can enforce the output "
            "type.",
        ),
        Parameter(
            "tools", _tools, other_names=("tools_to_call_from",), destination="request",
            description="The tools that the model may call: functions, `Tool`s, dicts in the chat completions "
            "format, or tool objects of other libraries. Given as `tools_to_call_from`, as agents do, the "
            "defaults are `tool_choice=\"required\"` and `tool_errors=\"return\"`.",
            elsewhere="the tools are described in the prompt, with a warning",
        ),
        Parameter(
            "tool_choice", lambda value, name: tool_choice_from(value), destination="request", default="auto",
            description="`auto`, `none`, `required` (at least one call), or the name of the tool to call.",
            elsewhere="the choice is checked on the response, with a warning",
        ),
        Parameter(
            "tool_errors", _on_error, destination="request", default="raise",
            description="What happens if the model's tool call can't be used, or is missing although it was required: "
            "`raise` raises `InvalidToolCall`; `return` returns the message as the model wrote it, with the reason in "
            "`call.error` and in `warnings`, for an agent that tells its model.",
        ),
        Parameter(
            "output_errors", _on_error, destination="request", default="raise",
            description="What happens if the output does not match the output type: `raise` raises `InvalidOutput`; "
            "`return` returns the message as the model wrote it, with the reason in `warnings` and without `parsed`, "
            "for an agent that tells its model. It is the default for the `response_format` of known code agents.",
        ),
        Parameter(
            "usage_after_stop", _number(0, MAX_USAGE_DELTAS, integer=True), destination="request", default="64",
            description="How many more deltas are read, in at most a second, if the token usage is not known yet when "
            "modelport ends the output at a stop sequence: many services report it only at the end. 0 to close the "
            "connection at once; `token_usage` may then be `None`.",
        ),
        Parameter(
            "custom_role_conversions", lambda value, name: role_conversions_from(value), destination="request",
            description="Roles that are replaced before the request is sent, as `{\"system\": \"user\"}`.",
        ),
        Parameter(
            "flatten_messages_as_text", _flag, destination="request", default="False",
            description="Whether the text parts of each message are joined and sent as one string.",
        ),
        Parameter(
            "max_tokens", _number(1, integer=True), other_names=("max_new_tokens", "max_completion_tokens"),
            description="The maximum length of the output, in tokens. A truncated output has the finish reason "
            "`length`.",
            default="the backend's; local engines stop at the end of their context window",
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "temperature", _number(0), default="the backend's",
            description="How random the output is: 0 takes the most likely token each time.",
            elsewhere=_SERVICE_DECIDES,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "top_p", _number(0, 1, exclusive=True), default="the backend's",
            description="Only the most likely tokens whose probabilities add up to this number, above 0 and at most "
            "1, are sampled.",
            elsewhere=_SERVICE_DECIDES,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "min_p", _number(0, 1), destination="backend", default="the backend's",
            description="Tokens are sampled only if they have at least this share of the most likely token's "
            "probability, from 0 to 1.",
            elsewhere=_WARNED,
            source="https://huggingface.co/docs/transformers/main_classes/text_generation",
        ),
        Parameter(
            "top_k", _number(0, integer=True), destination="backend", default="the backend's",
            description="How many of the most likely tokens are sampled; 0 for all.",
            elsewhere=_WARNED,
            source="https://huggingface.co/docs/transformers/main_classes/text_generation",
        ),
        Parameter(
            "seed", _number(-(2**63), 2**64, integer=True), capability="seed",
            description="The seed of the random numbers: the same request with the same seed gives the same output, as "
            "far as the backend can repeat it.",
            elsewhere=_REFUSED,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "presence_penalty", _number(-2, 2), default="0",
            description="How much the probability of every token that the output has already is reduced, from -2 to "
            "2.",
            elsewhere=_SERVICE_DECIDES,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "frequency_penalty", _number(-2, 2), default="0",
            description="How much the probability of a token is reduced for each time that the output has it already, "
            "from -2 to 2.",
            elsewhere=_SERVICE_DECIDES,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "repetition_penalty", _number(0, exclusive=True), destination="backend", default="1",
            description="The factor by which tokens of the prompt and the output become less likely; 1 for no penalty.",
            elsewhere=_WARNED,
            source="https://huggingface.co/docs/transformers/main_classes/text_generation",
        ),
        Parameter(
            "logprobs", _flag, capability="logprobs", default="False",
            description="Whether `message.logprobs` has the log probability of each token.",
            elsewhere=_REFUSED,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "top_logprobs", _number(0, 20, integer=True), capability="logprobs", default="0",
            description="How many of the most likely tokens are reported at each position, from 0 to 20. Sets "
            "`logprobs`.",
            elsewhere=_REFUSED,
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "parallel_tool_calls", _flag, default="the backend's",
            description="Whether the model may make several tool calls in one message.",
            elsewhere="all calls but the first are dropped, with a warning",
            source="https://platform.openai.com/docs/api-reference/chat/create",
        ),
        Parameter(
            "reasoning_effort", _reasoning_effort, excludes="reasoning_budget", default="the model's",
            description="How much the model reasons before it answers: `none`, `minimal`, `low`, `medium`, `high`, "
            "`xhigh` or `max`.",
            elsewhere="the effort is sent as a `reasoning_budget`, or refused with `UnsupportedFeature`",
            source="https://platform.openai.com/docs/guides/reasoning",
        ),
        Parameter(
            "reasoning_budget", _number(1, integer=True), excludes="reasoning_effort", default="the model's",
            description="The maximum length of the reasoning, in tokens.",
            elsewhere=_REFUSED,
            source="https://platform.claude.com/docs/en/build-with-claude/extended-thinking",
        ),
        Parameter(
            "timeout", _timeout, destination="timeouts", default="600",
            description="The limit for the whole call, in seconds: every attempt, every wait and the complete "
            "response.",
        ),
        Parameter(
            "first_token_timeout", _timeout, destination="timeouts",
            description="The limit for one attempt, up to its first delta, in seconds.",
        ),
        Parameter(
            "idle_timeout", _timeout, destination="timeouts",
            description="The limit for each wait for a further delta, in seconds.",
        ),
        Parameter(
            "extra_body", _dict, destination="backend",
            description="Fields that are added to the request's body unchanged and without a check. They override the "
            "fields that modelport sends.",
            elsewhere=_REFUSED,
        ),
        Parameter(
            "extra_headers", _dict, destination="backend",
            description="Headers of the request.",
            elsewhere=_REFUSED,
        ),
        Parameter(
            "extra_query", _dict, destination="backend",
            description="Parameters in the query of the request's URL.",
            elsewhere=_REFUSED,
        ),
        Parameter(
            "n", _number_of_messages, destination="check_only", default="1",
            description="Only 1 is allowed, because a call returns one message.",
        ),
        Parameter(
            "stream", _stream, destination="check_only", default="False",
            description="Only `False` is allowed: `generate_stream` and `agenerate_stream` stream.",
        ),
    )
}  # fmt: skip

#: Every name of a parameter -> the parameter.
BY_ANY_NAME: Mapping[str, Parameter] = {
    name: parameter for parameter in PARAMETERS.values() for name in parameter.names
}


def _with_destination(*destinations: str) -> frozenset[str]:
    return frozenset(name for name, parameter in PARAMETERS.items() if parameter.destination in destinations)


#: The main names of the parameters in `Request.parameters` that are not specific to some backends.
KNOWN_PARAMETERS = _with_destination("parameters")
#: The parameters that become a field of `Request.timeouts`.
TIMEOUTS = _with_destination("timeouts")
#: Options that are fields of `Request`, with the same defaults.
FIELDS_OF_REQUEST = ("stop_sequences", "grammar", "strict", "tool_errors", "output_errors", "usage_after_stop")
#: The name of a parameter -> the name of the parameter that a call can't have as well.
EXCLUSIVE: Mapping[str, str] = {
    name: parameter.excludes for name, parameter in PARAMETERS.items() if parameter.excludes is not None
}
#: The name of a parameter -> the field of `Capabilities` that must be true for it.
NEEDED_CAPABILITIES: Mapping[str, str] = {
    name: parameter.capability for name, parameter in PARAMETERS.items() if parameter.capability is not None
}
