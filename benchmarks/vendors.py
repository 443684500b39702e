"""The vendors' clients that `remote.py` measures, and modelport's backends for the same services; see `peers.py`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from peers import KEY, PEERS, STOP, STREAMED, LiteLLM, Messages, Modelport, OpenAISDK, Peer


class AzureSDK(OpenAISDK):
    """OpenAI's client for Azure's v1 API, which is the plain client at another URL, as in Azure's documentation."""


class ResponsesSDK(OpenAISDK):
    """OpenAI's client on the Responses API, with the arguments that modelport sends too."""

    def _responses(self, kind: str) -> Any:
        self._client(kind)
        return self._clients[kind].responses

    def call(self, messages: Messages) -> str:
        return str(self._responses("OpenAI").create(**_RESPONSES, input=messages).output_text)

    def stream(self, messages: Messages) -> Iterator[str]:
        for event in self._responses("OpenAI").create(**_RESPONSES, input=messages, stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta

    async def acall(self, messages: Messages) -> str:
        return str((await self._responses("AsyncOpenAI").create(**_RESPONSES, input=messages)).output_text)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for event in await self._responses("AsyncOpenAI").create(**_RESPONSES, input=messages, stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta


_RESPONSES: dict[str, Any] = {"model": "bench", "store": False, "include": ["reasoning.encrypted_content"]}


class HubClient(Peer):
    def __init__(self, url: str) -> None:
        from huggingface_hub import AsyncInferenceClient, InferenceClient

        self._sync, self._async = InferenceClient(url, token=KEY), AsyncInferenceClient(url, token=KEY)

    def call(self, messages: Messages) -> str:
        return str(self._sync.chat_completion(messages, stop=STOP).choices[0].message.content)

    def stream(self, messages: Messages) -> Iterator[str]:
        for chunk in self._sync.chat_completion(messages, stop=STOP, **STREAMED):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    async def acall(self, messages: Messages) -> str:
        return str((await self._async.chat_completion(messages, stop=STOP)).choices[0].message.content)

    async def astream(self, messages: Messages) -> AsyncIterator[str]:
        async for chunk in await self._async.chat_completion(messages, stop=STOP, **STREAMED):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text


_AWS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}


class Boto3(Peer):
    asynchronous = False

    def __init__(self, url: str) -> None:
        os.environ.update(_AWS)
        import boto3
        from botocore.config import Config

        url = url.removesuffix("/v1")
        config = Config(max_pool_connections=200)
        self._client = boto3.client("bedrock-runtime", endpoint_url=url, config=config)

    def _arguments(self, messages: Messages) -> dict[str, Any]:
        turns = [{"role": m["role"], "content": [{"text": m["content"]}]} for m in messages if m["role"] != "system"]
        system = [{"text": m["content"]} for m in messages if m["role"] == "system"]
        more = {"system": system} if system else {}
        return {"modelId": "bench", "messages": turns, "inferenceConfig": {"stopSequences": STOP}, **more}

    def call(self, messages: Messages) -> str:
        response = self._client.converse(**self._arguments(messages))
        return str(response["output"]["message"]["content"][0]["text"])

    def stream(self, messages: Messages) -> Iterator[str]:
        for event in self._client.converse_stream(**self._arguments(messages))["stream"]:
            if text := event.get("contentBlockDelta", {}).get("delta", {}).get("text"):
                yield text


class ModelportAzure(Modelport):
    name = "AzureOpenAIServerModel"

    def _settings(self, url: str) -> dict[str, Any]:
        return {"model_id": "bench", "azure_endpoint": url.removesuffix("/v1"), "api_key": KEY}


class ModelportResponses(Modelport):
    def _settings(self, url: str) -> dict[str, Any]:
        return {**super()._settings(url), "api": "responses"}


class ModelportHub(Modelport):
    name = "InferenceClientModel"

    def _settings(self, url: str) -> dict[str, Any]:
        return {"base_url": url, "api_key": KEY}


class ModelportBedrock(Modelport):
    name = "AmazonBedrockServerModel"

    def _settings(self, url: str) -> dict[str, Any]:
        os.environ.update(_AWS)
        return {"model_id": "bench", "client_kwargs": {"endpoint_url": url.removesuffix("/v1")}}


class ModelportLiteLLM(Modelport):
    name = "LiteLLMModel"

    def _settings(self, url: str) -> dict[str, Any]:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        return {"model_id": "openai/bench", "api_base": url, "api_key": KEY}


ALL: dict[str, type[Peer]] = {
    **PEERS,
    "responses: openai SDK": ResponsesSDK,
    "responses: modelport": ModelportResponses,
    "azure: openai SDK": AzureSDK,
    "azure: modelport": ModelportAzure,
    "huggingface: hub client": HubClient,
    "huggingface: modelport": ModelportHub,
    "bedrock: boto3": Boto3,
    "bedrock: modelport": ModelportBedrock,
    "litellm: LiteLLM": LiteLLM,
    "litellm: modelport": ModelportLiteLLM,
}
