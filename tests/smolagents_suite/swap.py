"""A pytest plugin that puts modelport's model classes in the place of smolagents' own."""

import pytest
import smolagents
import smolagents.models

import modelport

for name in (
    "Model", "TransformersModel", "InferenceClientModel", "LiteLLMModel", "LiteLLMRouterModel", "OpenAIModel",
    "OpenAIServerModel", "AzureOpenAIModel", "AzureOpenAIServerModel", "AmazonBedrockModel",
    "AmazonBedrockServerModel", "MLXModel", "VLLMModel",
):  # fmt: skip
    for module in (smolagents, smolagents.models):
        setattr(module, name, getattr(modelport, name))


class ProcessingTool(smolagents.Tool):
    name = "test_tool"
    description = "Processes a value."
    inputs = {"input": {"type": "string", "description": "The value."}}  # noqa: RUF012
    output_type = "string"

    def forward(self, input: str) -> str:
        if input == "error":
            raise ValueError("Tool execution error")
        return f"Processed: {input}"


@pytest.fixture
def test_tool() -> smolagents.Tool:
    """The fixture that several tests need, and which the source package does not bring."""
    return ProcessingTool()
