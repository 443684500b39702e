"""`FallbackModel` as an object: nesting, settings, saving, secrets and closing."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from modelport import ChatMessage, FallbackModel, Model, OpenAIServerModel
from modelport.errors import ConnectionFailed, InvalidRequest, ModelError, ServerError
from tests.combine.models import ReplayModel, attempts_of, failing, generate


def test_nested_fallback_models_report_all_attempts(call: Callable[..., ChatMessage], hedge: Any) -> None:
    inner = FallbackModel([failing("a"), ReplayModel("b")], hedge=hedge)
    message = call(FallbackModel([failing("z"), inner], hedge=hedge))
    assert (message.content, message.model_id) == ("b", "b")
    assert attempts_of(message) == [("z", "ServerError: no"), ("a", "ServerError: no"), ("b", None)]


def test_nested_fallback_model_that_fails_calls_the_next_model() -> None:
    inner = FallbackModel([failing("a"), failing("b")])
    message = generate(FallbackModel([inner, ReplayModel("c")]))
    assert attempts_of(message) == [("a", "ServerError: no"), ("b", "ServerError: no"), ("c", None)]


def remote(name: str, key: str = "sk-secret-0123456789", **settings: Any) -> Model:
    return OpenAIServerModel(name, api_base="http://127.0.0.1:1/v1", api_key=key, **settings)


def test_restored_model_has_its_models_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    nested = FallbackModel(
        [remote("b", temperature=0, retry=False), remote("c", retry=False)], on_interrupted="restart", hedge="p95"
    )
    model = FallbackModel(
        [remote("a", retry=False), nested],
        fallback_on=[ServerError, "RateLimited", OSError, "ModelError"],
        cooldown=5,
        max_tokens=9,
        timeout=3,
    )
    data = json.loads(json.dumps(model.to_dict()))
    assert "sk-secret" not in str(data) and data["fallback_on"] == [
        "ServerError",
        "RateLimited",
        "OSError",
        "ModelError",
    ]
    for twin in (Model.from_dict(data), FallbackModel.from_dict(data), pickle.loads(pickle.dumps(model))):
        assert isinstance(twin, FallbackModel) and twin.to_dict() == data
        assert isinstance(twin.models[1], FallbackModel) and twin.models[1].hedge == "p95"
        assert twin.kwargs == {"max_tokens": 9, "timeout": 3}
        with pytest.raises(ConnectionFailed):
            twin.generate("?", timeout=20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"class": "TransformersModel", "custom_generate": "evil/repo"},
            r"models\[1\]: custom_generate: .*code",
        ),
        ({"class": "NoSuchModel"}, r"models\[1\]: model class 'NoSuchModel' is unknown"),
    ],
    ids=["code", "unknown"],
)
def test_from_dict_names_the_inner_model_that_it_refuses(
    monkeypatch: pytest.MonkeyPatch, data: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    models = [{"class": "OpenAIServerModel", "model_id": "a"}, data]
    with pytest.raises(InvalidRequest, match=message):
        FallbackModel.from_dict({"class": "FallbackModel", "models": models})
    with pytest.raises(InvalidRequest, match=message):
        FallbackModel(models)


@pytest.mark.parametrize("fallback_on", [lambda error: True, [type("Mine", (ModelError,), {})]])
def test_to_dict_names_the_setting_that_cannot_be_stored(fallback_on: Any) -> None:
    with pytest.raises(TypeError, match="fallback_on"):
        FallbackModel([remote("a")], fallback_on=fallback_on).to_dict()


def test_unpickled_model_has_no_cooldown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    model = FallbackModel([remote("a", retry=False), remote("b", retry=False)])
    with pytest.raises(ConnectionFailed):
        model.generate("?")
    assert all(candidate.cooling_until for candidate in model._candidates)
    assert not any(candidate.cooling_until for candidate in pickle.loads(pickle.dumps(model))._candidates)


def test_secret_is_in_no_representation() -> None:
    model = FallbackModel([remote("a", retry=False), remote("b", retry=False)])
    with pytest.raises(ConnectionFailed) as raised:
        model.generate("?")
    representations = [
        repr(model),
        repr(vars(model)),
        repr(pickle.dumps(model)),
        repr(raised.value.attempts),
        str(raised.value),
    ]
    assert not any("sk-secret" in text for text in representations)
    assert repr(model) == "FallbackModel('a or b')"


class Closing(ReplayModel):
    def close(self, drain: float = 0.0) -> None:
        self.calls = ()
        if self.model_id == "a":
            raise OSError("it does not close")


@pytest.mark.parametrize("method", ["close", "aclose"])
def test_close_closes_every_model(method: str) -> None:
    models = [Closing("a"), Closing("b"), Closing("c")]
    model = FallbackModel(models)
    with pytest.raises(OSError, match="does not close"):
        model.close() if method == "close" else asyncio.run(model.aclose())
    assert [m.calls for m in models] == [(), (), ()]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"models": []}, "at least one"),
        ({"models": "gpt-4o"}, "at least one"),
        ({"models": ["gpt-4o"]}, r"^models\[0\]: str is no modelport model; load_model makes"),
        ({"fallback_on": ["NoSuchError"]}, "NoSuchError"),
        ({"fallback_on": ["print"]}, "print"),
        ({"fallback_on": [KeyboardInterrupt]}, "KeyboardInterrupt"),
        ({"fallback_on": [3]}, "3 is neither an error type"),
        ({"on_interrupted": "ignore"}, "on_interrupted"),
        ({"cooldown": -1}, "cooldown"),
        ({"cooldown": "p95"}, "cooldown"),
        ({"hedge": "p99"}, "hedge.*or p95"),
        ({"hedge": True}, "hedge"),
        ({"capabilities": {"tools": False}}, "capabilities"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
def test_wrong_setting_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        FallbackModel(**{"models": [ReplayModel("a")], **settings})


def test_restored_message_has_its_attempts() -> None:
    message = generate(FallbackModel([failing("a"), ReplayModel("b")]))
    twin = ChatMessage.from_dict(json.loads(message.model_dump_json()))
    assert twin.attempts == message.attempts and len(twin.attempts) == 2
    # The message can be sent in a conversation, also as a dict.
    model = ReplayModel("c")
    for turn in (message, message.to_dict()):
        model.generate([{"role": "user", "content": "?"}, turn])
        assert model.requests[-1].messages[1].content == "b"
