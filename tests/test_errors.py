"""Errors: one small tree, readable in one line, whole after a pickle."""

from __future__ import annotations

import copy
import pickle
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
}  # fmt: skip


def made(kind: type[ModelError], **details: Any) -> ModelError:
    if kind is MissingDependency:
        return MissingDependency("openai", "openai", **details)
    if kind is StreamInterrupted:
        return StreamInterrupted("It broke off.", partial=ChatMessage("assistant", "Par"), **details)
    return kind("It went wrong.", **details)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_keeps_everything_through_a_pickle(kind: type[ModelError], copied: Any) -> None:
    error = made(kind, **DETAILS)
    twin = copied(error)
    assert type(twin) is kind
    assert (str(twin), twin.message, twin.args) == (str(error), error.message, error.args)
    assert vars(twin) == vars(error)
    assert twin.retryable is True


@pytest.mark.parametrize("kind", PUBLIC)
def test_an_error_is_one_readable_line(kind: type[ModelError]) -> None:
    error = made(kind, model_id="gpt")
    assert str(error) == f"{error.message} (model: gpt)"
    assert "\n" not in str(error)
    assert str(made(kind)) == error.message  # No empty brackets where the model is unknown.


def test_what_an_unusable_answer_holds_survives_too() -> None:
    for kind in (InvalidToolCall, InvalidOutput):
        error = kind("broken", text='{"a', partial=ChatMessage("assistant", "x"))
        twin = pickle.loads(pickle.dumps(error))
        assert (twin.text, twin.partial) == ('{"a', ChatMessage("assistant", "x"))


def test_the_partial_message_survives() -> None:
    twin = pickle.loads(pickle.dumps(made(StreamInterrupted)))
    assert twin.partial.content == "Par"


def test_details_default_to_unknown() -> None:
    error = ModelError("?")
    assert (error.model_id, error.status, error.retry_after, error.parameter) == (None, None, None, None)


def test_each_kind_says_whether_it_may_help_to_send_again() -> None:
    assert {kind.__name__ for kind in PUBLIC if kind.retryable} == {"RateLimited", "ServerError", "ConnectionFailed"}
    assert RateLimited("?", retryable=False).retryable is False
    assert InvalidRequest("?", retryable=True).retryable is True
    assert InvalidRequest("?").retryable is False  # One error's word does not change its class.


def test_the_tree() -> None:
    assert all(issubclass(kind, ModelError) for kind in PUBLIC)
    assert issubclass(errors.ContextWindowExceeded, InvalidRequest)
    assert not issubclass(ConnectionFailed, ConnectionError)


def test_every_error_can_be_imported_from_the_package() -> None:
    import modelport

    for kind in PUBLIC:
        assert getattr(modelport, kind.__name__) is kind


def test_a_missing_dependency_says_what_to_run_and_is_an_import_error() -> None:
    error = MissingDependency("xllamacpp", "llamacpp")
    assert "pip install 'modelport[llamacpp]'" in str(error)
    assert "'xllamacpp'" in str(error)
    assert isinstance(error, ImportError)
    assert pickle.loads(pickle.dumps(error)).extra == "llamacpp"


def test_an_error_that_went_through_a_process_pool_is_the_same() -> None:
    error = made(RateLimited, **DETAILS)
    error.add_note("seen on Monday")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["seen on Monday"]
