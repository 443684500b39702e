"""Bedrock's subjects: real weights behind ministack, and a strict server that knows AWS's rules."""

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
from tests.servers.faults import Call
from tests.servers.llamacpp import llama_server
from tests.servers.ministack import MOCKED, ministack

#: A model that takes schemas by itself, and one that needs a forced tool.
CLAUDE, NOVA = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "us.amazon.nova-pro-v1:0"
ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "a-very-secret-access-key-of-the-contract"


class Unmocked(AmazonBedrockServerModel):
    """Finds out when ministack has answered by itself."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        text = ""
        async for delta in super().deltas(request):
            text += delta.content or ""
            assert MOCKED not in text, "ministack's upstream has failed"
            yield delta


@contextmanager
def on_real_weights() -> Iterator[Subject]:
    """boto3 on ministack, with llama.cpp behind it; credentials of the environment."""
    with (
        llama_server(api_key=None) as engine,
        ministack(engine.url) as server,
        environment_variable("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        environment_variable("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        Unmocked(
            NOVA, region_name="us-east-1", api_base=server.url,
            # ministack hands neither schemas nor images on, and SmolLM2's template has no tools.
            capabilities={"tools": False, "inputs": ["text"], "reasoning": False, "cached_tokens": False},
        ) as model,
    ):  # fmt: skip
        # Not how busy the engine is: ministack itself does not leave it when its caller does.
        yield Subject(make=lambda: model, count_tokens=engine.count_prompt_tokens, secrets=(SECRET_KEY,))


@contextmanager
def strict(model_id: str = CLAUDE) -> Iterator[Subject]:
    """boto3 with a Bedrock API key, on a server that refuses what AWS refuses."""

    def make(url: str, **settings: Any) -> Model:
        return AmazonBedrockServerModel(model_id, region_name="us-east-1", api_base=url, api_key=KEY, **settings)

    with ExitStack() as stack:
        stack.enter_context(environment_variable("AWS_BEARER_TOKEN_BEDROCK", KEY))
        server = stack.enter_context(BedrockServer(api_key=KEY, model=speak))
        model = stack.enter_context(make(server.url, cache_points=["system", "messages"]))

        def failing(fault: ConverseFault) -> str:
            other = stack.enter_context(BedrockServer(api_key=KEY))
            other.script(then=fault)
            return other.url

        statuses = {str(status): failing(ConverseFault.status(status)) for status in (404, 500)}
        statuses["401"] = stack.enter_context(BedrockServer(api_key="another key")).url
        statuses["429"] = failing(ConverseFault.rate_limit(0))
        refused = stack.enter_context(BedrockServer())
        refused.stop_listening()
        yield Subject(
            make=lambda: model,
            prompts={"reasoning": "What is six times seven? Think first.", "too long": "word " * 6000},
            count_tokens=lambda messages: sum(words(message["content"]) for message in messages),
            busy=lambda: sum(not (request.done or request.client_left) for request in server.requests),
            faults={
                **{name: partial(make, url, retry=False) for name, url in statuses.items()},
                "timeout": partial(make, failing(ConverseFault.silence()), timeout=0.2),
                "refused": partial(make, refused.url, retry=False),
            },
            secrets=(KEY,),
        )


# --- a model of a few rules -------------------------------------------------------------------------------------------


def words(text: str) -> int:
    """What this model calls tokens."""
    return len(text.split())


STORY = " ".join(f"The fox took book {n} from the shelf and read it to the owls." for n in range(1, 60))


def speak(params: dict[str, Any]) -> Converse | ConverseFault:
    """What the rules say to this request; the server has found it in order."""
    blocks = params["messages"][-1]["content"]
    text = " ".join(block["text"] for block in blocks if "text" in block)
    config = params.get("toolConfig", {})
    specs = {tool["toolSpec"]["name"]: tool["toolSpec"]["inputSchema"]["json"] for tool in config.get("tools", ())}
    choice, results = config.get("toolChoice", {}), any("toolResult" in block for block in blocks)
    form = params.get("outputConfig", {}).get("textFormat")
    counted = usage(params)
    limits = params.get("inferenceConfig", {})
    if choice or ("get_weather" in specs and "weather" in text and not results):
        name = choice.get("tool", {}).get("name") or ("get_weather" if "get_weather" in specs else min(specs))
        given = [{"city": city} for city in re.findall("Paris|Rome", text)] if name == "get_weather" else []
        documents = [json.dumps(arguments) for arguments in given] or [json.dumps(instance(specs[name], specs[name]))]
        most = {"maxTokens": limits["maxTokens"]} if "maxTokens" in limits else {}
        pieces = [cut(document, most) for document in documents]
        calls = [Call(name, document, f"tooluse_{n}") for n, (document, _) in enumerate(pieces)]
        stop = "max_tokens" if any(ended for _, ended in pieces) else "tool_use"
        return Converse("", calls, stop_reason=stop, usage=counted)
    image = next((block["image"]["source"]["bytes"] for block in blocks if "image" in block), None)
    if form is not None:
        schema = json.loads(form["structure"]["jsonSchema"]["schema"])
        said = json.dumps(instance(schema, schema))
    elif image is not None:
        said = f"I see picture {hashlib.sha256(image).hexdigest()[:8]}."
    else:
        said = plain(text, results)
    said, stop = cut(said, limits)
    counted["outputTokens"] = words(said)
    counted["totalTokens"] = sum(counted.values()) - counted["totalTokens"]
    answer = Converse(said, stop_reason=stop or "end_turn", usage=counted)
    if "Think first" in text:
        return Converse(said, reasoning="Six sevens are forty-two.", sealed="none of yours", usage=counted)
    if "long story" in text:
        return ConverseFault(said=answer, delay_s=0.2, pace_s=0.004)
    return answer


def plain(text: str, results: bool) -> str:
    if results:
        return "It is sunny there."
    if "Bastille" in text:
        return "1789-07-14"
    if "The mood of" in text:
        return "positive"
    if found := re.search(r"the number (\d+)", text):
        return f"{found[1]} is {'even' if int(found[1]) % 2 == 0 else 'odd'}."
    return STORY if "long story" in text else "The capital of France is Paris."


def cut(text: str, limits: dict[str, Any]) -> tuple[str, str | None]:
    """The text up to its limit or to the first stop sequence to complete, and why it ends there."""
    ends = [(text.index(stop) + len(stop), -len(stop)) for stop in limits.get("stopSequences", ()) if stop in text]
    if ends:
        end, length = min(ends)
        return text[: end + length], "stop_sequence"
    pieces = re.findall(r"\S+\s*", text)
    most = limits.get("maxTokens", len(pieces))
    return "".join(pieces[:most]), "max_tokens" if most < len(pieces) else None


def usage(params: dict[str, Any]) -> dict[str, int]:
    """With cache points, the first two words of every request are read from a cache."""
    texts = [block.get("text", "") for message in params["messages"] for block in message["content"]]
    texts += [block.get("text", "") for block in params.get("system", ())]
    count = sum(map(words, texts))
    points = [block for message in params["messages"] for block in message["content"] if "cachePoint" in block]
    read = min(2, count) if points else 0
    return {
        "inputTokens": count - read, "outputTokens": 4, "totalTokens": count + 4,
        **({"cacheReadInputTokens": read, "cacheWriteInputTokens": 0} if points else {}),
    }  # fmt: skip


def instance(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value of a schema."""
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return instance(schema["anyOf"][0], root)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: instance(part, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema["items"], root)]
    return {"string": "Ada", "integer": 36, "number": 1.5, "boolean": True}.get(str(kind))
