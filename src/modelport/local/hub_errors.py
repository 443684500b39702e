"""What the Hugging Face hub's client says, in our words: its errors, its log, and no token in either."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from modelport.errors import (
    AuthenticationError,
    ConnectionFailed,
    InvalidRequest,
    ModelError,
    NotFoundError,
    RateLimited,
    ServerError,
)


def clean(text: str) -> str:
    """Takes what may be secret out of a text: credentials and queries in URLs, tokens."""
    text = re.sub(r"(\w://)[^\s'\"<>]*@", r"\1", text)
    text = re.sub(r"(\w://[^\s'\"<>?]*)\?[^\s'\"<>]*", r"\1", text)
    return re.sub(r"\bhf_\w+|(?<=Bearer )[^\s'\"]+", "***", text)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keeps a package's log from the terminal, where each of its retries would be a line; our error says it once."""
    import logging

    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def hub_failure(error: Exception, repo: str, file: str) -> ModelError:
    """What the Hub's client raised, as one of our errors.

    Args:
        error: The client's.
        repo: The repository.
        file: What was wanted of it, for the message.
    """
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why it fell back to its cache, which has not got the file
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    no_repo = isinstance(error, errors.RepositoryNotFoundError) and not isinstance(error, errors.GatedRepoError)
    what = f"{file} of {repo}"
    if no_repo or status == 404:
        missing = f"repository {repo}, or HF_TOKEN is no token that may see it" if no_repo else f"file {file} in {repo}"
        return NotFoundError(f"The Hugging Face hub has no {missing}.", status=status)
    if status in (401, 403):
        return AuthenticationError(
            f"The Hugging Face hub refused {what} (HTTP {status}). Set HF_TOKEN to a token that may read it; if the "
            f"model is gated, ask for access on its page first.",
            status=status,
        )
    if status is not None:
        kind = RateLimited if status == 429 else ServerError if status >= 500 else InvalidRequest
        return kind(f"The Hugging Face hub answered HTTP {status} for {what}.", status=status)
    reason = f"{type(error).__name__}: {clean(str(error))}"
    if isinstance(error, errors.HFValidationError):
        return InvalidRequest(f"{repo!r} can't be a repository on the Hugging Face hub ({reason}).")
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        return ServerError(f"Can't store {what} in the hub's cache ({reason}).", retryable=False)
    return ConnectionFailed(
        f"Can't get {what} from the Hugging Face hub, and it is not in its cache ({reason}). Check the network, the "
        "proxy, HF_ENDPOINT and HF_HUB_OFFLINE, or pass the path of a file that you have."
    )
