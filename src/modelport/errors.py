"""What can go wrong, as one small tree of types.

Every failure of a call is a `ModelError`. Its subclass says what happened, so that a caller catches a type
and never searches a message for "429". Messages hold no secret: a backend passes only what the service said
and what the caller can change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelport.types.messages import Attempt, ChatMessage


class ModelError(Exception):
    """A call to a model failed.

    Args:
        message: What happened, where, and what to do about it.
        model_id: The model that was asked, if known.
        status: The service's HTTP status, if it gave one.
        retry_after: Seconds that the service asks us to wait before the next attempt, if it said so.
        retryable: Whether the same request may succeed later; `None` takes the class's default.
        parameter: The parameter that the service refused, if it named one.

    Attributes:
        attempts: The models that were asked, where there were several to ask (`FallbackModel`).
        partial: What had arrived of the answer, if anything had.
    """

    retryable = False
    partial: ChatMessage | None = None
    attempts: Sequence[Attempt] = ()
    #: Whether this error, when it comes in the middle of an answer, cuts the answer off (see `StreamInterrupted`)
    #: rather than judging the answer that has come.
    interrupts = True
    #: Whether the model has learnt from this refusal: `layers/retry.py` sends the request once more, in another form.
    profile_updated = False

    def __init__(
        self,
        message: str,
        *,
        model_id: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.status = status
        self.retry_after = retry_after
        self.parameter = parameter
        if retryable is not None:
            self.retryable = retryable

    @property
    def message(self) -> str:
        """The text of the error, without the model's name."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} (model: {self.model_id})" if self.model_id else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by their positional arguments alone, which would lose every attribute.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[ModelError], args: tuple[Any, ...], state: dict[str, Any]) -> ModelError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AuthenticationError(ModelError):
    """No key, a wrong key, or a key without the right (HTTP 401, 403)."""


class NotFoundError(ModelError):
    """The model, the deployment, the file or the path is not there (HTTP 404)."""


class InvalidRequest(ModelError):
    """The request is wrong; sending it again will not help (HTTP 400, 422, or found before anything is sent)."""


class ContextWindowExceeded(InvalidRequest):
    """The prompt, or the prompt and the answer asked for, does not fit the model's context."""


class ContentFiltered(ModelError):
    """The service's policy refused the prompt or the answer."""

    interrupts = False


class RateLimited(ModelError):
    """Too many requests or tokens (HTTP 429); `retry_after` holds the wait in seconds if the service gave one."""

    retryable = True


class ServerError(ModelError):
    """The service failed (HTTP 5xx), or the engine in this process did."""

    retryable = True


class ConnectionFailed(ModelError):
    """The service could not be reached, or the connection broke."""

    retryable = True


class DeadlineExceeded(ModelError):
    """A time limit of the caller's ran out; the message says which."""


class MalformedResponse(ModelError):
    """The service answered with something that is no answer: broken JSON, a body cut short, no choices."""


class StreamInterrupted(ModelError):
    """An answer broke off after its first part had reached the caller.

    Attributes:
        partial: The message as far as it had arrived. The cause is chained as `__cause__`.
    """

    partial: ChatMessage

    def __init__(self, message: str, *, partial: ChatMessage, **details: Any) -> None:
        super().__init__(message, **details)
        self.partial = partial


class _UnusableAnswer(ModelError):
    """An answer arrived whole and is not what was asked for."""

    interrupts = False

    def __init__(self, message: str, *, text: str = "", partial: ChatMessage | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.text = text
        self.partial = partial


class InvalidToolCall(_UnusableAnswer):
    """A tool call can't be used: broken JSON, an unknown tool, arguments against the schema, or against `tool_choice`.

    Attributes:
        text: The raw arguments, as the model wrote them.
        partial: The whole message, if it had arrived.
    """


class InvalidOutput(_UnusableAnswer):
    """The answer does not have the form that `grammar` asked for.

    Attributes:
        text: The answer as the model wrote it.
        partial: The whole message.
    """


class UnsupportedFeature(ModelError):
    """This backend or model can't do what the request asks; nothing has been sent."""


class MissingDependency(ModelError, ImportError):
    """A package that this backend needs is not installed; the message holds the exact command."""

    def __init__(self, package: str, extra: str, **details: Any) -> None:
        super().__init__(
            f"{package!r} is needed for this and is not installed. Run: pip install 'modelport[{extra}]'", **details
        )
        self.extra = extra
