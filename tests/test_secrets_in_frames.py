"""What a caller passes to a constructor or a call is in no frame of a traceback with local variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelport import (
    AmazonBedrockServerModel,
    AzureOpenAIServerModel,
    InferenceClientModel,
    InvalidOutput,
    Model,
    OpenAIServerModel,
    RedisLimits,
    load_model,
)
from modelport.secrets import HiddenStr, hide_secrets
from modelport.testing import ScriptedModel
from tests.remote.secret_leaks import text_of_error

KEY = "sk-this-must-never-be-seen"
URL = f"https://user:{KEY}@host.example/v1"


class Own(Model):
    """A class of a user that hands its settings on."""

    def __init__(self, model_id: str, password: str, **settings: Any) -> None:
        super().__init__(model_id, **settings)
        raise ZeroDivisionError("not today")


REFUSED: dict[str, Callable[[], Any]] = {
    "OpenAI, another setting": lambda: OpenAIServerModel("m", api_key=KEY, dialect="nonsense"),
    "OpenAI, by position": lambda: OpenAIServerModel("m", "not a url", KEY),
    "OpenAI, no model": lambda: OpenAIServerModel("", api_key=KEY),
    "OpenAI, a header": lambda: OpenAIServerModel("m", api_key="k", default_headers={"X-Team": KEY}, retry="x"),
    "OpenAI, a query": lambda: OpenAIServerModel("m", api_key="k", default_query={"code": KEY}, retry="x"),
    "OpenAI, client_kwargs": lambda: OpenAIServerModel("m", client_kwargs={"api_key": KEY}, dialect="nonsense"),
    "OpenAI, a password in the URL": lambda: OpenAIServerModel("m", api_base=URL, api_key="k"),
    "OpenAI, a misspelt name": lambda: OpenAIServerModel("m", apikey=KEY),
    "Azure": lambda: AzureOpenAIServerModel("m", "https://x.example", azure_ad_token=KEY, dialect="nonsense"),
    "Hugging Face": lambda: InferenceClientModel("m", token=KEY, provider=5),  # type: ignore[arg-type]
    "Hugging Face, cookies": lambda: InferenceClientModel("m", client_kwargs={"cookies": {"a": KEY}}, retry="x"),
    "Bedrock": lambda: AmazonBedrockServerModel("m", api_key=KEY, region_name=5),  # type: ignore[arg-type]
    "Bedrock, client_kwargs": lambda: AmazonBedrockServerModel("m", None, {"aws_secret_access_key": KEY, "x": 1}),
    "RedisLimits": lambda: RedisLimits(f"redis://:{KEY}@127.0.0.1:1", timeout=-1),
    "RedisLimits, its type": lambda: RedisLimits({"url": KEY}),
    "load_model": lambda: load_model("openai/m", api_key=KEY, dialect="nonsense"),
    "a class of a user": lambda: Own("m", KEY, api_key=KEY),
    "a call": lambda: OpenAIServerModel("m", api_key="k")("?", extra_headers={"X-Team": KEY}, top_p=5),
    "a stream": lambda: list(ScriptedModel(ZeroDivisionError()).generate_stream("?", extra_query={"code": KEY})),
    "an option of a call": lambda: OpenAIServerModel("m", api_key="k")("?", api_key=KEY),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_secret_is_in_no_frame(case: str) -> None:
    with pytest.raises(Exception) as raised:
        REFUSED[case]()
    text = text_of_error(raised.value, __file__)
    assert KEY not in text and "HiddenStr" not in text


def test_hidden_strings_are_strings() -> None:
    settings: dict[str, Any] = {"api_key": KEY, "nested": {"password": KEY, "n": 1}, "headers": {"X": KEY}, "url": URL,
                                "key": {"env": "NAME"}, "max_tokens": 5, "text": "plain"}  # fmt: skip
    given = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    hide_secrets(settings)
    assert settings == given and KEY not in repr(settings) and "plain" in repr(settings)
    assert isinstance(settings["api_key"], HiddenStr) and repr(settings["key"]) == "{'env': 'NAME'}"


def test_schema_with_a_property_named_like_a_secret_is_left_alone() -> None:
    schema = {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]}
    model = OpenAIServerModel("m", api_key="k", grammar=schema)
    assert model.kwargs["grammar"] is schema
    with pytest.raises(InvalidOutput, match="is not of type 'string'"):
        ScriptedModel('{"token": 5}', repeat=True)("?", grammar=schema, extra_headers={"X": KEY})


def test_constructor_keeps_its_signature() -> None:
    import inspect

    assert [*inspect.signature(OpenAIServerModel).parameters][:3] == ["model_id", "api_base", "api_key"]
    assert OpenAIServerModel.__init__.__name__ == "__init__"
