"""The exceptions of modelport.

Every failure of a call raises a `ModelError`. Its subclass says what happened, so that a caller catches a type and
never searches a message for "429". An exception of a library or of an engine is turned into one of these and chained
as the cause.

    ModelError
    ├── AuthenticationError
    ├── NotFoundError
    ├── InvalidRequest
    │   └── ContextWindowExceeded
    ├── ContentFiltered
    ├── RateLimited                 retryable
    ├── ServerError                 retryable
    ├── ConnectionFailed            retryable
    ├── DeadlineExceeded
    ├── MalformedResponse
    ├── StreamInterrupted
    ├── InvalidToolCall
    ├── InvalidOutput
    ├── UnsupportedFeature
    └── MissingDependency           also an ImportError

No message holds a secret: a backend quotes only what the service said, with secrets redacted, and what the caller can
change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelport.types.messages import Attempt, ChatMessage


class ModelError(Exception):
    """A call to a model failed.

    Args:
        message: What happened, where, and what the caller can do about it.
        model_id: The model that was called, if known.
        status: The HTTP status of the service's response, if there was one.
        retry_after: Seconds to wait before the next attempt, if the service named a wait.
        retryable: Whether the same request may succeed later; `None` takes the class's default.
        parameter: The parameter that the service rejected, if the service named one.
        hint: What a user of the command line can do about the error, in terms of options and environment variables;
            `None` where the message suffices. The command line prints the hint after the message. The hint is not part
            of `str(error)`.

    Attributes:
        attempts: The models that were tried, where there were several (`FallbackModel`).
        partial: The part of the response that had arrived, if any.
    """

    retryable = False
    partial: ChatMessage | None = None
    attempts: Sequence[Attempt] = ()
    #: Whether this error, when it is raised in mid-stream, means that the stream was interrupted (and becomes a
    #: `StreamInterrupted`). It is false for errors that judge the response that has arrived.
    interrupts = True
    #: Whether the backend updated its profile of the model after this rejection, for example because the service
    #: rejected a parameter. `Model` then runs the request once more from the start, with the new capabilities.
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
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.model_id = model_id
        self.status = status
        self.retry_after = retry_after
        self.parameter = parameter
        self.hint = hint
        if retryable is not None:
            self.retryable = retryable

    @property
    def message(self) -> str:
        """The text of the error, without the model's name."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} (model: {self.model_id})" if self.model_id else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception pickles its positional arguments alone, which would lose every attribute.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[ModelError], args: tuple[Any, ...], state: dict[str, Any]) -> ModelError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AuthenticationError(ModelError):
    """The key is missing, wrong, or lacks a permission (HTTP 401, 403)."""


class NotFoundError(ModelError):
    """The model, the deployment, the file or the path does not exist (HTTP 404)."""


class InvalidRequest(ModelError):
    """The request is wrong, and sending it again will not help (HTTP 400, 422, or found before anything is sent)."""


class ContextWindowExceeded(InvalidRequest):
    """The prompt, or the prompt and the requested output together, exceed the model's context window."""


class ContentFiltered(ModelError):
    """The service's content policy rejected the prompt or the response."""

    interrupts = False


class RateLimited(ModelError):
    """Too many requests or tokens (HTTP 429); `retry_after` holds the wait in seconds if the service named one."""

    retryable = True


class ServerError(ModelError):
    """The service (HTTP 5xx) or the local engine failed."""

    retryable = True


class ConnectionFailed(ModelError):
    """The service could not be reached, or the connection broke."""

    retryable = True


class DeadlineExceeded(ModelError):
    """A time limit of the caller ran out; the message says which one."""


class MalformedResponse(ModelError):
    """The service sent a response that can't be used: broken JSON, a truncated body, no choices."""


class StreamInterrupted(ModelError):
    """A stream was interrupted after its first part had reached the caller.

    Attributes:
        partial: The message as far as it had arrived. The cause is chained as `__cause__`.
    """

    partial: ChatMessage

    def __init__(self, message: str, *, partial: ChatMessage, **details: Any) -> None:
        super().__init__(message, **details)
        self.partial = partial


class _UnusableOutput(ModelError):
    """A complete response arrived, but the model's output is not what the request asked for."""

    interrupts = False

    def __init__(self, message: str, *, text: str = "", partial: ChatMessage | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.text = text
        self.partial = partial


class InvalidToolCall(_UnusableOutput):
    """A tool call can't be used: broken JSON, an unknown tool, or a violation of the schema or of `tool_choice`.

    Attributes:
        text: The raw arguments, as the model wrote them.
        partial: The whole message, if it had arrived.
    """


class InvalidOutput(_UnusableOutput):
    """The output does not match the schema, regular expression, choice or grammar that `grammar` asked for.

    Attributes:
        text: The output as the model wrote it.
        partial: The whole message.
    """


class UnsupportedFeature(ModelError):
    """The backend or the model does not support what the request asks for; nothing has been sent."""


class MissingDependency(ModelError, ImportError):
    """A package that the backend needs is not installed; the message holds the exact command that installs it.

    Args:
        package: The missing package.
        extra: The extra of modelport that installs the package.
        **details: See `ModelError`.
    """

    def __init__(self, package: str, extra: str, **details: Any) -> None:
        super().__init__(
            f"{package!r} is needed for this and is not installed. Run: pip install 'modelport[{extra}]'", **details
        )
        self.extra = extra
