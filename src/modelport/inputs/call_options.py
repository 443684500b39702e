"""The types of the arguments of a call, for type checkers and editors. No code of modelport reads them at run time.

`modelport.inputs.parameters` is the table of the same options, with their checks and descriptions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol

from modelport.inputs.parameters import OnError, ReasoningEffort
from modelport.inputs.vendor_options import VendorOptions
from modelport.types.messages import ChatMessage
from modelport.types.parsed import Parsed
from modelport.types.tools import NamedToolChoice

if TYPE_CHECKING:
    from modelport.types.parsed import Parser, TypeForm
else:  # For `typing.get_type_hints`.
    Parser = TypeForm = type


class MessageLike(Protocol):
    """A message object of another library: it has a role and a content."""

    @property
    def role(self) -> Any:
        """The author of the message, a string or a member of an `Enum`."""

    @property
    def content(self) -> Any:
        """The text, or a list of parts."""


#: What a call takes as `messages`: the text of one user message, one message, or a list of messages. A message is a
#: `ChatMessage`, a dict in the chat completions format, or a message object of another library. (The items are `Any`,
#: because mypy infers `list[object]` for a list of dicts and messages.)
MessageInput = str | ChatMessage | Mapping[str, Any] | MessageLike | Iterable[Any]
#: What a call takes as `stop_sequences`.
StopInput = str | Sequence[str] | None


class UntypedCallOptions(VendorOptions, total=False):
    """The options without the output type: a call with only these returns a `ChatMessage` whose `parsed` is `Any`.

    It has a signature of its own, because mypy infers no type for a generic function that is passed on, as in
    `asyncio.to_thread(model, "Hello")`.
    """

    stop: StopInput
    strict: bool | None
    tools: Iterable[Any] | None
    tools_to_call_from: Iterable[Any] | None
    tool_choice: str | Mapping[str, Any] | NamedToolChoice | None
    tool_errors: OnError | None
    output_errors: OnError | None
    usage_after_stop: int | None
    custom_role_conversions: Mapping[Any, Any] | None
    flatten_messages_as_text: bool | None
    max_tokens: int | None
    max_new_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    top_p: float | None
    min_p: float | None
    top_k: int | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logprobs: bool | None
    top_logprobs: int | None
    parallel_tool_calls: bool | None
    reasoning_effort: ReasoningEffort | None
    reasoning_budget: int | None
    timeout: float | None
    first_token_timeout: float | None
    idle_timeout: float | None
    extra_body: Mapping[str, Any] | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, Any] | None
    n: Literal[1] | None
    stream: Literal[False] | None


class CallOptions(UntypedCallOptions, Generic[Parsed], total=False):
    """The options of a call, for the `**options` of your own functions that pass them on.

    `None` means that an option is not given. The page on options says what each one does. The option `stop` is another
    name of `stop_sequences`, which is a parameter of the methods themselves.

    Examples:
        >>> def ask(question: str, **options: Unpack[CallOptions]) -> str:
        ...     return model(question, **options).text
    """

    grammar: Parser[Parsed] | type[Any] | TypeForm[Any] | Mapping[str, Any] | None
    response_format: Parser[Parsed] | type[Any] | TypeForm[Any] | Mapping[str, Any] | None


class TypedCallOptions(UntypedCallOptions, Generic[Parsed], total=False):
    """The options of a call whose output type is a type.

    mypy infers the type of a `Literal` or of a union only where the option has the type `TypeForm[…]` and no other. So
    the methods have one signature with these options, and another one with `CallOptions`.
    """

    grammar: TypeForm[Parsed]
    response_format: TypeForm[Parsed]
