"""The vocabulary of the fault matrix: faults, and the outcomes that a call may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelport.errors import ModelError
from tests.servers.bedrock import ConverseFault
from tests.servers.faults import Fault, Reply
from tests.servers.responses import ResponsesFault

#: The text of a complete response.
ANSWER = Reply().text
#: The text that a stream has delivered after its third event. The first event holds the role.
BEGINNING = ANSWER[:16]

Wire = type[Fault]
#: Returns the server's faults, one for each request, in the wire format of a backend.
FaultScript = Callable[[Wire], Sequence[Fault]]


@dataclass(frozen=True)
class Succeeds:
    """The call succeeds.

    Args:
        attempts: The number of requests.
        waits: The least seconds between the first two requests.
        text: The text of the message.
    """

    attempts: int
    waits: float = 0.0
    text: str = ANSWER


@dataclass(frozen=True)
class Fails:
    """The call raises an error.

    Args:
        error: The exact type of the error.
        attempts: The number of requests.
        attributes: Attributes of the error, and their values.
        at_once: Whether the call fails without a wait between attempts.
        abandons: Whether the call ends before the server has finished its response.
    """

    error: type[ModelError]
    attempts: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    at_once: bool = False
    abandons: bool = False


@dataclass(frozen=True)
class Interrupted:
    """The stream raises `StreamInterrupted` after one request.

    Args:
        cause: The exact type of the cause.
        partial: The text of the partial message.
    """

    cause: type[ModelError]
    partial: str = BEGINNING


@dataclass(frozen=True)
class NotApplicable:
    """The cell does not exist, for this reason."""

    reason: str


Outcome = Succeeds | Fails | Interrupted | NotApplicable


@dataclass(frozen=True)
class FaultCase:
    """A fault, and its expected outcomes.

    Args:
        name: The name, which begins with the number of its kind.
        script: The faults of the first requests; `None` if `special` is set.
        non_streaming: The outcome of a non-streaming call.
        streamed: The outcome of a stream.
        then: Returns the fault of all further requests.
        options: The options of the call. If a cell fails, options that are time limits are tried once more, four times
            as long: on a busy machine a correct response may come too late too.
        settings: The settings of the model.
        wires: The wire formats that have this fault.
        special: The name of a function in `playing` that runs the cell instead of a script.
        stalls_in_error_body: Whether the body of an error stalls. The time for which it is read is then shortened.
    """

    name: str
    script: FaultScript | None
    non_streaming: Outcome
    streamed: Outcome
    then: Callable[[Wire], Fault] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    wires: tuple[Wire, ...] = (Fault, ConverseFault, ResponsesFault)
    special: str = ""
    stalls_in_error_body: bool = False


@dataclass(frozen=True)
class Backend:
    """A backend under test.

    Args:
        wire: The wire format of the backend.
        litellm: Whether the backend uses LiteLLM, which can't be installed beside the other packages.
        exceptions: By the names of faults: streams with another outcome, and why a library causes it.
    """

    wire: Wire = Fault
    litellm: bool = False
    exceptions: Mapping[str, tuple[Outcome, str]] = field(default_factory=dict)
