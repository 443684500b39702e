"""The exceptions: one small tree, readable in one line, complete after a pickle."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from modelport import errors
from modelport.errors import (
    ConnectionFailed,
    InvalidOutput,
    InvalidRequest,
    InvalidToolCall,
    MissingDependency,
    ModelError,
    RateLimited,
    StreamInterrupted,
)
from modelport.types.messages import ChatMessage

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ModelError)]
PUBLIC = [kind for kind in KINDS if not kind.__name__.startswith("_")]
DETAILS: dict[str, Any] = {
    "model_id": "gpt", "status": 429, "retry_after": 2.5, "retryable": True, "parameter": "temperature",
    "hint": "Do it.",
}  # fmt: skip
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda error: pickle.loads(pickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def make_error(kind: type[ModelError], **details: Any) -> ModelError:
    """Return an error of this type."""
    if kind is MissingDependency:
        return MissingDependency("openai", "openai", **details)
    if kind is StreamInterrupted:
        return StreamInterrupted("It broke off.", partial=ChatMessage("assistant", "Par"), **details)
    return kind("It went wrong.", **details)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", COPIES)
def test_copied_error_keeps_every_attribute(kind: type[ModelError], way: str) -> None:
    error = make_error(kind, **DETAILS)
    twin = COPIES[way](error)
    assert type(twin) is kind
    assert (str(twin), twin.message, twin.args) == (str(error), error.message, error.args)
    assert vars(twin) == vars(error)
    assert twin.retryable is True
    assert twin.hint == "Do it."


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_text_of_error_is_one_line_with_model_and_without_hint(kind: type[ModelError]) -> None:
    error = make_error(kind, model_id="gpt", hint="Do it.")
    assert str(error) == f"{error.message} (model: gpt)"
    assert "\n" not in str(error)
    assert str(make_error(kind)) == error.message  # There are no empty brackets where the model is unknown.


def test_pickled_error_keeps_the_unusable_output() -> None:
    for kind in (InvalidToolCall, InvalidOutput):
        error = kind("broken", text='{"a', partial=ChatMessage("assistant", "x"))
        twin = pickle.loads(pickle.dumps(error))
        assert (twin.text, twin.partial) == ('{"a', ChatMessage("assistant", "x"))


def test_pickled_error_keeps_the_partial_message() -> None:
    twin = pickle.loads(pickle.dumps(make_error(StreamInterrupted)))
    assert twin.partial.content == "Par"


def test_details_are_none_by_default() -> None:
    error = ModelError("?")
    assert (error.model_id, error.status, error.retry_after, error.parameter) == (None, None, None, None)
    assert error.hint is None


def test_retryable_belongs_to_the_type_unless_the_error_sets_it() -> None:
    assert {kind.__name__ for kind in PUBLIC if kind.retryable} == {"RateLimited", "ServerError", "ConnectionFailed"}
    assert RateLimited("?", retryable=False).retryable is False
    assert InvalidRequest("?", retryable=True).retryable is True
    assert InvalidRequest("?").retryable is False  # The error before has not changed its class.


def test_all_errors_are_model_errors() -> None:
    assert all(issubclass(kind, ModelError) for kind in PUBLIC)
    assert issubclass(errors.ContextWindowExceeded, InvalidRequest)
    assert not issubclass(ConnectionFailed, ConnectionError)


def test_module_docstring_draws_every_public_error() -> None:
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in PUBLIC if f" {kind.__name__}" not in errors.__doc__] == []


def test_every_error_can_be_imported_from_the_package() -> None:
    import modelport

    for kind in PUBLIC:
        assert getattr(modelport, kind.__name__) is kind


def test_missing_dependency_names_the_command_and_is_an_import_error() -> None:
    error = MissingDependency("xllamacpp", "llamacpp")
    assert "pip install 'modelport[llamacpp]'" in str(error)
    assert "'xllamacpp'" in str(error)
    assert isinstance(error, ImportError)
    assert pickle.loads(pickle.dumps(error)).extra == "llamacpp"


def test_pickled_error_keeps_its_notes() -> None:
    error = make_error(RateLimited, **DETAILS)
    error.add_note("seen on Monday")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen on Monday"]
