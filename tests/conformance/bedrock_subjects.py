"""Bedrock's backends under test: real weights behind ministack, and a strict server that knows AWS's rules."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from modelport import AmazonBedrockServerModel, ChatMessageStreamDelta, Model, Request
from modelport.testing import Subject
from tests.conformance.subjects import KEY, environment_variable
from tests.servers.bedrock import BedrockServer, Converse, ConverseFault
from tests.servers.faults import Call, Fault
from tests.servers.llamacpp import llama_server
from tests.servers.ministack import MOCKED, ministack

#: A model for which the service enforces schemas, and one that needs a forced tool.
CLAUDE, NOVA = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.amazon.nova-pro-v1:0"
ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "a-very-secret-access-key-for-conformance"


class NoMockedResponses(AmazonBedrockServerModel):
    """Fails when ministack makes up a response because its upstream has failed."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        text = ""
        async for delta in super().deltas(request):
            text += delta.content or ""
            assert MOCKED not in text, "ministack's upstream has failed"
            yield delta


@contextmanager
def real_weights() -> Iterator[Subject]:
    """boto3 on ministack, with llama.cpp behind it; credentials from the environment."""
    with (
        # ministack lets the engine generate to its end when a caller has left, and the next call waits for the slot.
        llama_server(api_key=None, slots=1, n_ctx=512) as engine,
        ministack(engine.url) as server,
        environment_variable("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        environment_variable("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        NoMockedResponses(
            NOVA, region_name="us-east-1", api_base=server.url,
            # ministack forwards neither schemas nor images, and SmolLM2's chat template has no tools.
            capabilities={"tools": False, "inputs": ["text"], "reasoning": False, "cached_tokens": False},
        ) as model,
    ):  # fmt: skip
        # `busy` is left out: ministack does not close its connection to the engine when its own caller does.
        yield Subject(make=lambda: model, count_tokens=engine.count_prompt_tokens, secrets=(SECRET_KEY,))


@contextmanager
def strict_server(model_id: str = CLAUDE) -> Iterator[Subject]:
    """boto3 with a Bedrock API key, on a server that refuses what AWS refuses."""

    def make(url: str, **settings: Any) -> Model:
        return AmazonBedrockServerModel(model_id, region_name="us-east-1", api_base=url, api_key=KEY, **settings)

    with ExitStack() as stack:
        stack.enter_context(environment_variable("AWS_BEARER_TOKEN_BEDROCK", KEY))
        server = stack.enter_context(BedrockServer(api_key=KEY, model=respond))
        model = stack.enter_context(make(server.url, cache_points=["system", "messages"]))

        def failing_server(fault: Fault) -> str:
            failing = stack.enter_context(BedrockServer(api_key=KEY))
            failing.script(then=fault)
            return failing.url

        statuses = {str(status): failing_server(ConverseFault.status(status)) for status in (404, 500)}
        statuses["401"] = stack.enter_context(BedrockServer(api_key="another key")).url
        statuses["429"] = failing_server(ConverseFault.rate_limit(None))
        statuses["retry_after"] = failing_server(ConverseFault.rate_limit(7))
        statuses["truncated"] = failing_server(ConverseFault.cut("finish"))
        refused = stack.enter_context(BedrockServer())
        refused.stop_listening()
        yield Subject(
            make=lambda: model,
            prompts={"reasoning": "What is six times seven? Think first.", "too long": "word " * 6000},
            count_tokens=lambda messages: sum(count_words(message["content"]) for message in messages),
            busy=lambda: sum(not (request.done or request.client_left) for request in server.requests),
            faults={
                **{name: partial(make, url, retry=False) for name, url in statuses.items()},
                "timeout": partial(make, failing_server(ConverseFault.silence()), timeout=0.2),
                "refused": partial(make, refused.url, retry=False),
            },
            secrets=(KEY,),
        )


# --- a model that follows a few rules ---------------------------------------------------------------------------------


def count_words(text: str) -> int:
    """The number of tokens: this model's tokens are words."""
    return len(text.split())


STORY = " ".join(f"The fox took book {n} from the shelf and read it to the owls." for n in range(1, 60))


def respond(parameters: dict[str, Any]) -> Converse | ConverseFault:
    """The response to a request that the server has accepted."""
    blocks = parameters["messages"][-1]["content"]
    text = " ".join(block["text"] for block in blocks if "text" in block)
    config = parameters.get("toolConfig", {})
    specs = {tool["toolSpec"]["name"]: tool["toolSpec"]["inputSchema"]["json"] for tool in config.get("tools", ())}
    choice, results = config.get("toolChoice", {}), any("toolResult" in block for block in blocks)
    text_format = parameters.get("outputConfig", {}).get("textFormat")
    counted = usage_of(parameters)
    limits = parameters.get("inferenceConfig", {})
    if choice or ("get_weather" in specs and "weather" in text and not results):
        name = choice.get("tool", {}).get("name") or ("get_weather" if "get_weather" in specs else min(specs))
        cities = [{"city": city} for city in re.findall("Paris|Rome", text)] if name == "get_weather" else []
        arguments = [json.dumps(one) for one in cities or [example_of(specs[name], specs[name])]]
        max_tokens = {"maxTokens": limits["maxTokens"]} if "maxTokens" in limits else {}
        truncated = [truncate(one, max_tokens) for one in arguments]
        calls = [Call(name, one, f"tooluse_{n}") for n, (one, _) in enumerate(truncated)]
        stop_reason = "max_tokens" if any(reason for _, reason in truncated) else "tool_use"
        return Converse("", calls, stop_reason=stop_reason, usage=counted)
    image = next((block["image"]["source"]["bytes"] for block in blocks if "image" in block), None)
    if text_format is not None:
        schema = json.loads(text_format["structure"]["jsonSchema"]["schema"])
        output = json.dumps(example_of(schema, schema))
    elif image is not None:
        output = f"I see picture {hashlib.sha256(image).hexdigest()[:8]}."
    else:
        output = plain_text(text, results)
    output, truncation = truncate(output, limits)
    counted["outputTokens"] = count_words(output)
    counted["totalTokens"] = sum(counted.values()) - counted["totalTokens"]
    response = Converse(output, stop_reason=truncation or "end_turn", usage=counted)
    if "Think first" in text:
        return Converse(output, reasoning="Six sevens are forty-two.", redacted="hidden", usage=counted)
    if "long story" in text:
        return ConverseFault(response=response, delay_s=0.2, pace_s=0.004)
    return response


def plain_text(text: str, has_results: bool) -> str:
    if has_results:
        return "It is sunny there."
    if "Bastille" in text:
        return "1789-07-14"
    if "The mood of" in text:
        return "positive"
    if found := re.search(r"the number (\d+)", text):
        return f"{found[1]} is {'even' if int(found[1]) % 2 == 0 else 'odd'}."
    return STORY if "long story" in text else "The capital of France is Paris."


def truncate(text: str, limits: dict[str, Any]) -> tuple[str, str | None]:
    """The text up to `maxTokens` or the first complete stop sequence, and the stop reason if the text was truncated."""
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in limits.get("stopSequences", ()) if stop in text]
    if ends:
        end, length = min(ends)
        return text[: end + length], "stop_sequence"
    pieces = re.findall(r"\S+\s*", text)
    max_tokens = limits.get("maxTokens", len(pieces))
    return "".join(pieces[:max_tokens]), "max_tokens" if max_tokens < len(pieces) else None


def usage_of(parameters: dict[str, Any]) -> dict[str, int]:
    """The token usage. If the request has cache points, its first two words are read from a cache."""
    texts = [block.get("text", "") for message in parameters["messages"] for block in message["content"]]
    texts += [block.get("text", "") for block in parameters.get("system", ())]
    count = sum(map(count_words, texts))
    points = [block for message in parameters["messages"] for block in message["content"] if "cachePoint" in block]
    read = min(2, count) if points else 0
    return {
        "inputTokens": count - read, "outputTokens": 4, "totalTokens": count + 4,
        **({"cacheReadInputTokens": read, "cacheWriteInputTokens": 0} if points else {}),
    }  # fmt: skip


def example_of(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value that is valid by a schema, whose references are in `root`."""
    if "$ref" in schema:
        return example_of(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return example_of(schema["anyOf"][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: example_of(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [example_of(schema["items"], root)]
    return {"string": "Ada", "integer": 36, "number": 1.5, "boolean": True}.get(str(kind))
