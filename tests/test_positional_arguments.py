"""The constructors take positional arguments in the order of smolagents' classes of the same names."""

from __future__ import annotations

import inspect

import pytest

import modelport
from modelport import AmazonBedrockServerModel, InferenceClientModel, Model, OpenAIServerModel

pytestmark = pytest.mark.server
models = pytest.importorskip("smolagents.models", reason="installed by the test environment")

CLASSES = (
    "TransformersModel", "InferenceClientModel", "LiteLLMModel", "LiteLLMRouterModel", "OpenAIServerModel",
    "AzureOpenAIServerModel", "AmazonBedrockServerModel", "MLXModel", "VLLMModel",
)  # fmt: skip


def positional_names(cls: type) -> list[str]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


@pytest.mark.parametrize("name", CLASSES)
def test_positional_arguments_have_the_order_of_smolagents(name: str) -> None:
    theirs = positional_names(getattr(models, name))
    assert positional_names(getattr(modelport, name))[: len(theirs)] == theirs


def test_positional_arguments_reach_their_settings() -> None:
    model = OpenAIServerModel("m", "http://127.0.0.1:1", "k", None, None, None, {"system": "user"}, True)
    assert (model.custom_role_conversions, model.flatten_messages_as_text) == ({"system": "user"}, True)
    hub = InferenceClientModel("m", None, "hf_x", 20, None, {"system": "user"}, None, "org", "http://127.0.0.1:1")
    assert (hub.kwargs["timeout"], hub.bill_to, hub.base_url) == (20, "org", "http://127.0.0.1:1")
    assert InferenceClientModel.from_dict(hub.to_dict()).to_dict() == hub.to_dict()


@pytest.mark.parametrize("model", [
    OpenAIServerModel("m", "http://127.0.0.1:1", "k"), InferenceClientModel("m", token="hf_x"),
    AmazonBedrockServerModel("us.amazon.nova-pro-v1:0", region_name="us-east-1", api_key="k"),
], ids=str)  # fmt: skip
def test_client_that_is_assigned_later_is_an_error(model: Model) -> None:
    with pytest.raises(AttributeError, match="pass the client or its settings to the constructor"):
        model.client = object()  # type: ignore[attr-defined]
