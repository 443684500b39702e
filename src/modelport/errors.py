"""The exceptions of modelport.

Every failure of a call raises a subclass of `ModelError`. The class says what happened, so a caller never has to search
an error message for "429". If another library or an engine raised an exception, it is the `__cause__` of the
`ModelError`, unless the exception could contain a secret.

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
    ├── ModelClosed
    └── MissingDependency           also an ImportError

A single error may differ from its class: a `ConnectionFailed` because of an invalid certificate is not retryable, and a
`DeadlineExceeded` is retryable unless `timeout` ran out.

No error message contains a secret: what a service wrote is quoted with secrets redacted, and settings that may contain
a key are not quoted at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelport.types.messages import Attempt, ChatMessage
    from modelport.types.usage import TokenUsage


class ModelError(Exception):
    """A call to a model failed.

    Args:
        message: What happened, where, and what the caller can do about it.
        model_id: The model that was called, if known.
        status: The HTTP status of the service's response, if there was one.
        retry_after: The seconds after which the service allows the next attempt, if it stated them.
        retryable: Whether the same request may succeed later; `None` for the default of the class.
        parameter: The parameter that the service rejected, if the service named one.
        hint: What a user of the command line can do about the error, such as the option to set; `None` if the message
            says enough. Only the command line prints the hint, after the message: it is not part of `str(error)`.

    Attributes:
        attempts: What happened with each model that `FallbackModel` called; empty for other models.
        token_usage: The token counts of all requests of the call whose usage the service reported; `None` if it did not
            report any. `partial.token_usage` is the same.
        partial: The part of the response that had arrived before the error; `None` if nothing had arrived.
    """

    retryable = False
    partial: ChatMessage | None = None
    attempts: Sequence[Attempt] = ()
    token_usage: TokenUsage | None = None
    #: Whether this error is reported as a `StreamInterrupted`, with this error as its cause, if it is raised in
    #: mid-stream. It is `False` for the error classes that say that the content of the response is wrong or rejected.
    reported_as_interruption = True
    #: Backends set this to `True` if the service rejected something, such as a parameter, and the model object has
    #: recorded this in what it knows about the model (its profile). `Model` then sends the request again without it.
    profile_updated = False
    #: What the response has disproved: "grammar" if an output did not match the output type that the backend was
    #: thought to enforce, "tool_choice" if the model did not call a tool that it was forced to call, else `None`.
    disproved: str | None = None
    #: If the service accepts `parameter`, but not together with another one: the other one.
    incompatible_with: str | None = None
    #: Whether another model may accept the request: `FallbackModel` then calls the next one. This is set on the error
    #: about an unknown option, which may be a parameter of another backend.
    other_models_may_accept = False

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
        """The text of the error. `str(error)` adds the model's name to it."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message} (model: {self.model_id})" if self.model_id else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # By default, unpickling calls the class with `args` only. Classes with other required arguments would fail.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[ModelError], args: tuple[Any, ...], state: dict[str, Any]) -> ModelError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class AuthenticationError(ModelError):
    """The API key is missing, wrong, or lacks a permission (HTTP 401, 403)."""


class NotFoundError(ModelError):
    """The model, the deployment, the file or the path does not exist (HTTP 404)."""


class InvalidRequest(ModelError):
    """The request is wrong. The service rejected it (HTTP 400, 422), or modelport did before anything was sent."""


class ContextWindowExceeded(InvalidRequest):
    """The prompt, or the prompt and the requested output together, exceed the model's context window."""


class ContentFiltered(ModelError):
    """The service's content policy rejected the prompt or the response."""

    reported_as_interruption = False


class RateLimited(ModelError):
    """The service got too many requests or tokens (HTTP 429); see `retry_after` for the wait, if it stated one."""

    retryable = True


class ServerError(ModelError):
    """The service (HTTP 5xx) or the local engine failed."""

    retryable = True


class ConnectionFailed(ModelError):
    """The service could not be reached, or the connection broke."""

    retryable = True


class DeadlineExceeded(ModelError):
    """A time limit of the call ran out: `timeout`, `first_token_timeout` or `idle_timeout`; the message names it."""


class MalformedResponse(ModelError):
    """The service sent a response that can't be read: invalid JSON, an incomplete body, or no message in it."""


class StreamInterrupted(ModelError):
    """A stream failed after the caller had received the first output. The original error is the `__cause__`.

    Attributes:
        partial: The message as far as it had arrived.
    """

    partial: ChatMessage

    def __init__(self, message: str, *, partial: ChatMessage, **details: Any) -> None:
        super().__init__(message, **details)
        self.partial = partial


class _UnusableOutput(ModelError):
    """The response arrived, but the model's output is not what the request asked for."""

    reported_as_interruption = False

    def __init__(self, message: str, *, text: str = "", partial: ChatMessage | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.text = text
        self.partial = partial


class InvalidToolCall(_UnusableOutput):
    """A tool call of the model can't be used.

    Its arguments are not valid JSON or violate the schema, there is no such tool, or `tool_choice` does not allow the
    call.

    Attributes:
        text: The arguments as the model wrote them.
        partial: The complete message; `None` if it had not arrived.
    """


class InvalidOutput(_UnusableOutput):
    """The output does not match the schema, regular expression, choice or grammar that `grammar` asked for.

    Attributes:
        text: The output as the model wrote it.
        partial: The complete message.
    """


class UnsupportedFeature(ModelError):
    """The backend or the model does not support what the request asks for; nothing has been sent."""


class ModelClosed(ModelError):
    """The model was closed, before the call or while it was in progress; create a new model."""


class MissingDependency(ModelError, ImportError):
    """A Python package that is needed is not installed; the error message contains the command that installs it.

    Args:
        package: The missing package.
        extra: The optional dependency group of modelport (`modelport[extra]`) that includes the package.
        **details: See `ModelError`.
    """

    def __init__(self, package: str, extra: str, **details: Any) -> None:
        super().__init__(
            f"{package!r} is needed for this and is not installed. Run: pip install 'modelport[{extra}]'", **details
        )
        self.extra = extra
