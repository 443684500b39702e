"""Requests and answers in Converse's form: pure translation, held to botocore's service model and AWS's rules."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from modelport import (
    AmazonBedrockServerModel,
    ChatMessage,
    ChatMessageStreamDelta,
    InvalidRequest,
    InvalidToolCall,
    MalformedResponse,
    ModelError,
    Request,
    UnsupportedFeature,
    accumulate,
)
from modelport.protocols.converse.request import ConverseCall, call_from
from modelport.protocols.converse.response import ConverseResponseReader, usage_from
from modelport.testing.checks.images import solid_png
from modelport.types.capabilities import Capabilities
from modelport.types.content import Attachment
from tests.servers.bedrock import Converse
from tests.servers.bedrock_rules import check, sealed_thought, service, signature_of
from tests.servers.faults import Call as FaultCall

CLAUDE, NOVA, LLAMA = "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "amazon.nova-pro-v1:0", "meta.llama3-1-70b-v1:0"
PNG = solid_png((200, 30, 30))
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7").decode()
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}  # fmt: skip


class Recording(AmazonBedrockServerModel):
    """Holds what it would send to AWS's rules, and sends nothing."""

    sent: list[dict[str, Any]]
    asked: list[ConverseCall]
    said = "ok"

    async def deltas(self, request: Request) -> Any:
        call = call_from(request, self.model_id, self.capabilities)
        operation = "ConverseStream" if request.stream else "Converse"
        model = service().operation_model(operation)
        wire = create_serializer("rest-json").serialize_to_request(call.arguments, model)
        self.sent.append(check(json.loads(wire["body"]), operation))
        self.asked.append(call)
        yield ChatMessageStreamDelta(content=self.said, finish_reason="stop", warnings=list(call.warnings))


def recording(model_id: str = CLAUDE, **settings: Any) -> Recording:
    model = Recording(model_id, region_name="us-east-1", api_key="k" * 20, **settings)
    model.sent, model.asked = [], []
    return model


@pytest.fixture(scope="module")
def made() -> Recording:
    return recording()


@pytest.fixture
def model(made: Recording) -> Recording:
    made.sent.clear()
    made.asked.clear()
    made.said = "ok"
    return made


def sent(model: Recording, messages: Any = "hi", **options: Any) -> dict[str, Any]:
    model.generate(messages, **options)
    return {key: value for key, value in model.sent[-1].items() if key != "modelId"}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def calls(*identifiers: str, content: str | None = None) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    made = [{"id": identifier, "type": "function", "function": function} for identifier in identifiers]
    return {"role": "assistant", "content": content, "tool_calls": made}


def result(identifier: str, content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identifier, "content": content}


# --- messages ---------------------------------------------------------------------------------------------------------


def test_system_goes_apart_and_turns_alternate(model: Recording) -> None:
    body = sent(model, [
        {"role": "system", "content": "Be terse."}, {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"},
    ])  # fmt: skip
    assert body == {
        "system": [{"text": "Be terse."}, {"text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"text": "a"}, {"text": "b"}]},
            {"role": "assistant", "content": [{"text": "c"}, {"text": "d"}]},
            {"role": "user", "content": [{"text": "e"}]},
        ],
    }


def test_a_system_message_amid_the_conversation_is_moved_and_said(model: Recording) -> None:
    message = model.generate(["hi"][0])
    assert not message.warnings
    message = model.generate([user(text("a")), {"role": "system", "content": "late"}, user(text("b"))])
    assert model.sent[-1]["system"] == [{"text": "late"}]
    assert ["messages[1]" in warning for warning in message.warnings] == [True]


def test_blank_text_is_left_out(model: Recording) -> None:
    body = sent(model, [user(text(" "), text("a"), text("")), {"role": "assistant", "content": "\n"}, user(text("b"))])
    assert body["messages"] == [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]


def test_images_and_files_are_bytes(model: Recording) -> None:
    file = {"type": "file", "file": {"filename": "my_report.v2.pdf", "file_data": PDF}}
    body = sent(model, [user(text("look"), {"type": "image", "image": PNG}, file, file)])
    _, image, first, second = body["messages"][0]["content"]
    assert image == {"image": {"format": "png", "source": {"bytes": PNG}}}
    assert first == {"document": {"format": "pdf", "name": "my-report-v2", "source": {"bytes": b"%PDF-1.7"}}}
    assert second["document"]["name"] == "my-report-v2 2"


def test_calls_and_results(model: Recording) -> None:
    history = [user(text("?")), calls("a", "b", content="I look."), result("b"), result("a", ""), user(text("and?"))]
    body = sent(model, history, tools=[WEATHER])
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"text": "I look."},
                {"toolUse": {"toolUseId": "a", "name": "get_weather", "input": {"city": "Rome"}}},
                {"toolUse": {"toolUseId": "b", "name": "get_weather", "input": {"city": "Rome"}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "b", "content": [{"text": "sunny"}]}},
                {"toolResult": {"toolUseId": "a", "content": [{"text": "(no output)"}]}},
                {"text": "and?"},
            ],
        },
    ]


def test_a_result_may_hold_an_image_and_comes_before_what_the_user_says(model: Recording) -> None:
    history = [user(text("?")), calls("a"), user(text("well?")), result("a", [{"type": "image", "image": PNG}])]
    blocks = sent(model, history, tools=[WEATHER])["messages"][2]["content"]
    assert [next(iter(block)) for block in blocks] == ["toolResult", "text"]
    assert blocks[0]["toolResult"]["content"] == [{"image": {"format": "png", "source": {"bytes": PNG}}}]


@pytest.mark.parametrize("identifier", ["call|with|bars", "x" * 65, "é"])
def test_ids_of_other_services_are_rewritten_alike(model: Recording, identifier: str) -> None:
    body = sent(model, [user(text("?")), calls(identifier), result(identifier)], tools=[WEATHER])
    used = body["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert used.startswith("call_")
    assert body["messages"][2]["content"][0]["toolResult"]["toolUseId"] == used


def test_thinking_goes_back_as_it_came(model: Recording) -> None:
    signed = {"reasoningText": {"text": "hm", "signature": signature_of("hm")}}
    sealed = {"redactedContent": base64.b64encode(sealed_thought("x")).decode()}
    answer = ChatMessage("assistant", "42", reasoning="hm", reasoning_details=[signed, sealed, {"another": "service"}])
    for form in (answer, answer.to_dict(), ChatMessage.from_dict(json.loads(answer.model_dump_json()))):
        body = sent(model, [user(text("?")), form, user(text("sure?"))])
        assert body["messages"][1]["content"] == [
            {"reasoningContent": signed},
            {"reasoningContent": {"redactedContent": sealed_thought("x")}},
            {"text": "42"},
        ]


def test_thinking_without_a_signature_is_sent_only_where_it_is_wanted() -> None:
    request = Request(
        (ChatMessage("user", "?"), ChatMessage("assistant", "42", reasoning="hm"), ChatMessage("user", "!"))
    )
    for wanted in (False, True):
        arguments = call_from(request, "openai.gpt-oss-20b-1:0", Capabilities(sends_reasoning=wanted)).arguments
        thoughts = [b["reasoningContent"] for b in arguments["messages"][1]["content"] if "reasoningContent" in b]
        assert thoughts == ([{"reasoningText": {"text": "hm"}}] if wanted else [])


def image_of(data: bytes, count: int = 1) -> list[dict[str, Any]]:
    return [user(text("look"), *[{"type": "image", "image": data}] * count)]


FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}
REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("the assistant first", [{"role": "assistant", "content": "a"}, user(text("b"))], {}, r"\[0\].*user's first"),
    ("system alone", [{"role": "system", "content": "a"}], {}, "no user message"),
    ("blank", [user(text(" "))], {}, r"messages\[0\]: its text is blank"),
    ("blank later", [user(text("a")), {"role": "assistant", "content": "b"}, user(text(""))], {}, r"messages\[2\]"),
    ("BMP", image_of(b"BM" + b"\0" * 40), {}, r"\[0\]\['content'\]\[1\]: it is image/bmp.*PNG, JPEG, GIF"),
    ("a large image", image_of(PNG + b"\0" * 4_000_000), {}, r"bytes; Bedrock takes 3,932,160"),
    ("21 images", image_of(PNG, 21), {}, "21 images"),
    ("six files", [user(text("a"), *[FILE] * 6)], {}, "6 files"),
    ("a file alone", [user(FILE)], {}, "needs text too"),
    ("a file of another type", [user(text("a"), {"type": "file", "file": {"file_data": "data:video/mp4;base64,AA=="}})],
     {}, r"\[1\]: it is video/mp4; Bedrock takes pdf, csv"),
    ("an empty file", [user(text("a"), {"type": "file", "file": {"file_data": "data:text/csv;base64,"}})], {}, "empty"),
    ("an image in an answer", [user(text("a")), {"role": "assistant", "content": [{"type": "image", "image": PNG}]}],
     {}, r"messages\[1\]\['content'\]\[0\]: Bedrock takes images from the user only"),
    ("an image for a system", [{"role": "system", "content": [{"type": "image", "image": PNG}]}, user(text("a"))], {},
     r"messages\[0\]: a system message holds text alone"),
    ("no result", [user(text("a")), calls("c")], {}, "'c' has no result"),
    ("half the results", [user(text("a")), calls("c", "d"), result("c")], {}, "'d' has no result"),
    ("a result too many", [user(text("a")), calls("c"), result("c"), result("d")], {}, "'d' must be the only one"),
    ("two results", [user(text("a")), calls("c"), result("c"), result("c")], {}, "'c' must be the only one"),
    ("a result of nothing", [user(text("a")), result("c")], {}, "right after the message with that call"),
    ("one id twice", [user(text("a")), calls("c", "c"), result("c")], {}, "two tool calls of one turn have the id 'c'"),
    ("arguments that are no JSON",
     [user(text("a")), {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]},
      result("c")], {}, r"messages\[1\]\['tool_calls'\]: the arguments of 'f' are no JSON object"),
    ("a strange name in the history",
     [user(text("a")), {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "a b", "arguments": {}}}]},
      result("c")], {}, "'a b' is no tool name"),
    ("a tool's name", "hi", {"tools": [{"name": "get.weather"}]}, r"tool 'get\.weather': .*rename"),
    ("a tool's schema", "hi", {"tools": [{"name": "f", "parameters": {"type": "string"}}]}, "of type 'object'"),
    ("heat", "hi", {"temperature": 1.5}, r"temperature=1\.5: Bedrock takes 0 to 1"),
    ("heat, in the API's words", "hi", {"inference_config": {"temperature": 2}}, "Bedrock takes 0 to 1"),
    ("a config that is none", "hi", {"inferenceConfig": 3}, "inferenceConfig=3: must be a dict"),
    ("a guardrail without version", "hi", {"guardrail_identifier": "abc"}, "guardrail_version is missing"),
    ("a place to cache", "hi", {"cache_points": ["prompt"]}, "'prompt' is no place; there are tools, system, messages"),
    ("a time to cache", "hi", {"cache_points": {"messages": "2h"}}, "'2h': must be '5m', '1h' or None"),
    ("no list", "hi", {"cache_points": "system"}, "cache_points='system': must be a list"),
    ("messages by another way", "hi", {"system": [{"text": "a"}]}, "'system' is no parameter here"),
    ("details that are broken", [user(text("a")), {"role": "assistant", "content": "b", "reasoning_details":
     [{"redactedContent": "?"}]}, user(text("c"))], {}, r"messages\[1\]\['reasoning_details'\]\[0\].*base64"),
]  # fmt: skip


@pytest.mark.parametrize(("messages", "options", "says"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_aws_would_refuse_is_found_first(model: Recording, messages: Any, options: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        model.generate(messages, **options)
    assert not model.asked


@pytest.mark.parametrize(
    ("model_id", "options"),
    [
        (CLAUDE, {"parallel_tool_calls": False}), (CLAUDE, {"seed": 1}), (CLAUDE, {"logprobs": True}),
        (CLAUDE, {"min_p": 0.1}), (LLAMA, {"top_k": 3}), ("amazon.titan-text-express-v1", {"top_k": 3}),
    ],
)  # fmt: skip
def test_what_the_api_can_not_do_is_refused(model_id: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature):
        recording(model_id).generate("hi", **options)


# --- tools ------------------------------------------------------------------------------------------------------------


def test_tool_choices(model: Recording) -> None:
    spec = {
        "name": "get_weather",
        "description": "The weather.",
        "inputSchema": {"json": WEATHER["function"]["parameters"]},
    }
    chosen: list[tuple[str, dict[str, Any]]] = [("auto", {}), ("required", {"toolChoice": {"any": {}}}),
              ("get_weather", {"toolChoice": {"tool": {"name": "get_weather"}}})]  # fmt: skip
    for choice, expected in chosen:
        try:
            model.generate("hi", tools=[WEATHER], tool_choice=choice)
        except InvalidToolCall:
            pass  # this model never calls
        assert model.sent[-1]["toolConfig"] == {"tools": [{"toolSpec": spec}], **expected}
    assert "toolConfig" not in sent(model, tools=[WEATHER], tool_choice="none")


def test_tool_config_stays_while_the_history_holds_calls(model: Recording) -> None:
    history = [user(text("a")), calls("c"), result("c")]
    message = model.generate(history)
    assert [tool["toolSpec"]["name"] for tool in model.sent[-1]["toolConfig"]["tools"]] == ["get_weather"]
    assert [warning for warning in message.warnings if "toolConfig was sent" in warning]
    message = model.generate(history, tools=[WEATHER], tool_choice="none")
    assert model.sent[-1]["toolConfig"]["tools"][0]["toolSpec"]["description"] == "The weather."
    assert message.warnings and not model.asked[-1].may_call
    message = model.generate(history, tools=[WEATHER])
    assert not message.warnings and model.asked[-1].may_call


def test_a_call_that_was_not_to_be_made_is_an_error() -> None:
    call = ConverseCall({}, may_call=False)
    start = {"contentBlockStart": {"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "a", "name": "f"}}}}
    with pytest.raises(InvalidToolCall, match="'f' though it was not to"):
        ConverseResponseReader(call).event(start)


def test_tool_config_of_the_users_own_is_kept(model: Recording) -> None:
    own = {"tools": [{"systemTool": {"name": "nova_grounding"}}]}
    body = sent(model, tools=[WEATHER], toolConfig=own)
    assert [next(iter(tool)) for tool in body["toolConfig"]["tools"]] == ["systemTool", "toolSpec"]
    assert own == {"tools": [{"systemTool": {"name": "nova_grounding"}}]}
    history = [user(text("a")), calls("c"), result("c")]
    body = sent(model, history, tools=[WEATHER], tool_choice="none", toolConfig={**own, "toolChoice": {"any": {}}})
    assert "toolChoice" not in body["toolConfig"]


def test_models_that_can_only_offer_tools() -> None:
    """The choice is checked, not enforced, and said."""
    model = recording(LLAMA)
    with pytest.raises(InvalidToolCall):
        model.generate("hi", tools=[WEATHER], tool_choice="required")
    assert "toolChoice" not in model.sent[-1]["toolConfig"]


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_have_their_places(model: Recording) -> None:
    body = sent(model, max_tokens=7, temperature=0.5, top_p=0.9, top_k=5, stop_sequences=["END", "\n", " "])
    assert body["inferenceConfig"] == {"maxTokens": 7, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]}
    assert body["additionalModelRequestFields"] == {"top_k": 5}
    nova = recording(NOVA)
    body = sent(nova, top_k=5, stop_sequences=list("abcdef"))
    assert body["additionalModelRequestFields"] == {"inferenceConfig": {"topK": 5}}
    assert body["inferenceConfig"] == {"stopSequences": list("abcd")}


def test_the_services_own_fields_pass_through(model: Recording) -> None:
    given = {
        "inference_config": {"maxTokens": 9, "temperature": 0.1}, "performanceConfig": {"latency": "optimized"},
        "request_metadata": {"team": "a"}, "serviceTier": {"type": "flex"},
        "additional_model_request_fields": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "additionalModelResponseFieldPaths": ["/stop_sequence"], "outputConfig": {"effort": "low"},
    }  # fmt: skip
    before = json.dumps(given)
    body = sent(model, temperature=0.7, top_k=3, **given)
    assert body["inferenceConfig"] == {"maxTokens": 9, "temperature": 0.7}
    assert body["additionalModelRequestFields"] == {"thinking": {"type": "enabled", "budget_tokens": 1024}, "top_k": 3}
    assert body["requestMetadata"] == {"team": "a"} and body["performanceConfig"] == {"latency": "optimized"}
    assert body["outputConfig"] == {"effort": "low"} and body["serviceTier"] == {"type": "flex"}
    assert json.dumps(given) == before, "what the caller gave was changed"


def test_guardrails(model: Recording) -> None:
    whole = {
        "guardrailConfig": {"guardrailIdentifier": "abc", "guardrailVersion": "1", "streamProcessingMode": "async"}
    }
    assert sent(model, **whole)["guardrailConfig"] == {"guardrailIdentifier": "abc", "guardrailVersion": "1"}
    list(model.generate_stream("hi", **whole))
    assert model.sent[-1]["guardrailConfig"] == whole["guardrailConfig"]
    body = sent(model, guardrail_identifier="abc", guardrail_version=3)
    assert body["guardrailConfig"] == {"guardrailIdentifier": "abc", "guardrailVersion": "3"}


def test_cache_points(model: Recording) -> None:
    history = [{"role": "system", "content": "s"}, user(text("a"))]
    body = sent(model, history, tools=[WEATHER], cache_points={"tools": "1h", "system": None, "messages": "5m"})
    assert body["toolConfig"]["tools"][-1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert body["system"] == [{"text": "s"}, {"cachePoint": {"type": "default"}}]
    assert body["messages"][0]["content"][-1] == {"cachePoint": {"type": "default", "ttl": "5m"}}
    assert "cachePoint" not in str(sent(model, "hi", cache_points=["tools", "system"])), "there is nothing to cache"
    own = {"tools": [{"systemTool": {"name": "a"}}, *[{"cachePoint": {"type": "default"}}] * 3]}
    with pytest.raises(InvalidRequest, match="5 cache points; Bedrock takes at most 4"):
        model.generate(history, toolConfig=own, cache_points=["system", "messages"])


def test_a_wish_to_cache_becomes_a_cache_point_behind_its_part(model: Recording) -> None:
    def marked(text: str, ttl: str | None = None) -> list[dict[str, Any]]:
        control = {"type": "ephemeral", **({"ttl": ttl} if ttl else {})}
        return [{"type": "text", "text": text, "cache_control": control}, {"type": "text", "text": "."}]

    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [
        {"role": "system", "content": marked("s")},
        {"role": "user", "content": marked("a", "1h")},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": marked("r")},
    ]
    body, point = sent(model, history, tools=[WEATHER]), {"cachePoint": {"type": "default"}}
    assert body["system"] == [{"text": "s"}, point, {"text": "."}]
    asked, _, result = (turn["content"] for turn in body["messages"])
    assert asked == [{"text": "a"}, {"cachePoint": {"type": "default", "ttl": "1h"}}, {"text": "."}]
    assert [list(block) for block in result] == [["toolResult"], ["cachePoint"]]
    assert result[0]["toolResult"]["content"] == [{"text": "r"}, {"text": "."}]
    with pytest.raises(InvalidRequest, match="5 cache points"):
        model.generate([{"role": "user", "content": marked("a") * 5}])


def test_schemas_go_natively_with_what_they_can_not_enforce_in_words(model: Recording) -> None:
    schema = {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 0, "description": "In years."},
            "pets": {"type": "array", "items": {"oneOf": [{"type": "string"}, {"type": "null"}]}, "maxItems": 3},
        },
        "required": ["age"],
    }
    before = json.dumps(schema)
    model.said = '{"age": 3}'
    message = model.generate("hi", grammar=schema)
    form = model.sent[-1]["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert json.loads(form["schema"]) == {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "description": 'In years. {"minimum": 0}'},
            "pets": {
                "type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "description": '{"maxItems": 3}',
            },
        },
        "required": ["age"],
        "additionalProperties": False,
    }  # fmt: skip
    assert "maxItems, minimum of the schema were checked, not enforced" in message.warnings
    with pytest.raises(UnsupportedFeature, match="maxItems, minimum of the schema"):
        model.generate("hi", grammar=schema, strict=True)
    assert json.dumps(schema) == before
    assert "toolConfig" not in model.sent[-1]


def test_an_open_schema_goes_through_a_tool(model: Recording) -> None:
    with pytest.raises(ModelError):
        model.generate("hi", response_format={"type": "json_object"})
    assert "outputConfig" not in model.sent[-1]
    assert model.sent[-1]["toolConfig"]["toolChoice"] == {"tool": {"name": "json_object"}}


# --- anything at all --------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", " ", "\n\t", "a", "Hello there.", "é世界", "\ud800", "x" * 30])
PARTS = st.one_of(
    TEXTS.map(text),
    st.sampled_from([{"type": "image", "image": PNG}, {"type": "image", "image": b"BM" + b"\0" * 9}, FILE,
                     {"type": "image", "url": "https://example.com/a.png"},
                     {"type": "file", "file": {"file_data": "data:text/x-python;base64,AA=="}},
                     {"type": "file", "file": {"filename": "../a  _b.t", "file_data": "data:text/plain;base64,AA=="}}]),
)  # fmt: skip
CONTENTS = st.one_of(TEXTS, st.lists(PARTS, max_size=4))
IDS = st.sampled_from(["a", "b", "a|b", "", "x" * 70])
ARGUMENTS = st.sampled_from(['{"city": "Rome"}', "{}", "", "[1]", "{", "null", {"city": 1}, {}])
CALLS = st.builds(
    lambda identifier, name, given: {"id": identifier, "function": {"name": name, "arguments": given}},
    IDS, st.sampled_from(["get_weather", "f", "a b", ""]), ARGUMENTS,
)  # fmt: skip
DETAILS = st.sampled_from([
    {"reasoningText": {"text": "hm", "signature": signature_of("hm")}}, {"reasoningText": {"text": 3}}, {"x": 1},
    {"redactedContent": base64.b64encode(sealed_thought("x")).decode()}, {"redactedContent": "!"},
])  # fmt: skip
MESSAGES = st.one_of(
    st.builds(lambda content: {"role": "system", "content": content}, CONTENTS),
    st.builds(lambda content: {"role": "user", "content": content}, CONTENTS),
    st.builds(
        lambda content, calls, details: {
            "role": "assistant", "content": content, "tool_calls": calls, "reasoning_details": details,
        },
        CONTENTS, st.lists(CALLS, max_size=2), st.lists(DETAILS, max_size=2),
    ),
    st.builds(lambda content, identifier: result(identifier, content), CONTENTS, IDS),
)  # fmt: skip
SCHEMAS = st.sampled_from([
    {"type": "object", "properties": {"a": {"type": "integer", "maximum": 3}}},
    {"type": "object"}, {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string", "maxLength": 3}}},
    {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}},
])  # fmt: skip


SAID = st.sampled_from(["a", "Hello there.", "é世界", "\ud800", " x "])
SHOWN = st.lists(
    st.one_of(TEXTS.map(text), st.sampled_from([{"type": "image", "image": PNG}, FILE])), max_size=3
).flatmap(lambda parts: SAID.map(lambda said: [text(said), *parts]))  # fmt: skip


@st.composite
def steps(draw: st.DrawFn) -> list[Any]:
    """A few messages that can stand anywhere after the first: calls come with their results."""
    kind = draw(st.sampled_from(["user", "assistant", "system", "calls"]))
    if kind != "calls":
        return [{"role": kind, "content": draw(SHOWN if kind == "user" else TEXTS)}]
    made = calls(*draw(st.lists(IDS.filter(bool), min_size=1, max_size=3, unique=True)), content=draw(TEXTS))
    texts = st.one_of(TEXTS, SHOWN)
    return [made, *(result(call["id"], draw(texts)) for call in draw(st.permutations(made["tool_calls"])))]


@st.composite
def exchanges(draw: st.DrawFn) -> list[Any]:
    """A conversation, mostly one that AWS would take, sometimes with a message in it that may be anything."""
    messages = [user(*draw(SHOWN)), *(message for step in draw(st.lists(steps(), max_size=4)) for message in step)]
    if draw(st.integers(0, 4)) == 0:
        messages.insert(draw(st.integers(0, len(messages))), draw(MESSAGES))
    return messages


OPTIONS = st.fixed_dictionaries({}, optional={
    "tools": st.sampled_from([[WEATHER], [WEATHER], [WEATHER, {"name": "f"}], [{"name": "a b"}], []]),
    "tool_choice": st.sampled_from(["auto", "none", "none"]),
    "stop_sequences": st.lists(st.sampled_from(["\n", "END", " ", "é"]), max_size=6),
    "temperature": st.sampled_from([0, 0.5, 1, 1, 1.5]), "max_tokens": st.just(5),
    "cache_points": st.sampled_from([["tools", "system", "messages"], {"messages": "1h"}]),
    "inference_config": st.sampled_from([{"maxTokens": 3}, {"temperature": 0.2}]),
    "guardrail_config": st.just({"guardrailIdentifier": "abc", "guardrailVersion": "1"}),
})  # fmt: skip
FORMS = st.one_of(
    st.just({}), st.just({}),
    st.fixed_dictionaries({"grammar": SCHEMAS}),
    st.sampled_from(["get_weather", "required"]).map(lambda choice: {"tools": [WEATHER], "tool_choice": choice}),
)  # fmt: skip
FUZZED = {model_id: recording(model_id) for model_id in (CLAUDE, NOVA, LLAMA, "mistral.mixtral-8x7b-v0:1")}


@settings(max_examples=600, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(FUZZED)), exchanges(), OPTIONS, FORMS, st.booleans())
@example(
    CLAUDE, [user(text("a")), calls("a|b"), result("a|b", " ")], {}, {"tool_choice": "none", "tools": [WEATHER]}, True
)
def test_every_request_is_one_that_aws_takes_or_a_typed_error(
    model_id: str, messages: list[Any], options: dict[str, Any], form: dict[str, Any], streamed: bool
) -> None:
    """`Recording` holds each one to the rules, and lets what they refuse out as another error."""
    model, options = FUZZED[model_id], {**options, **form}
    try:
        if streamed:
            list(model.generate_stream(messages, **options))
        else:
            model.generate(messages, **options)
    except ModelError:
        pass


def test_the_fuzz_before_this_sends_enough_to_tell() -> None:
    assert sum(len(model.sent) for model in FUZZED.values()) > 150


# --- answers ----------------------------------------------------------------------------------------------------------


def whole(content: list[Any], stop: str = "end_turn", **more: Any) -> ChatMessage:
    response = {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": stop, **more}
    return accumulate([ConverseResponseReader(ConverseCall({}, True)).whole(response)])


def test_usage_counts_the_cache_as_input() -> None:
    usage = {"inputTokens": 3, "outputTokens": 5, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 7}
    counted = usage_from(usage)
    assert (counted.input_tokens, counted.output_tokens, counted.cached_input_tokens) == (110, 5, 100)
    counted = usage_from({"inputTokens": 3, "outputTokens": 5})
    assert (counted.input_tokens, counted.cached_input_tokens) == (3, None)
    assert usage_from({}).input_tokens is None


def test_calls_make_it_a_turn_of_calls_whatever_the_service_says() -> None:
    use = {"toolUse": {"toolUseId": "a", "name": "f", "input": {"b": 1}}}
    message = whole([{"text": "I look."}, use])
    assert (message.content, message.finish_reason) == ("I look.", "tool_calls")
    assert message.tool_calls and message.tool_calls[0].function.arguments == {"b": 1}


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
        ("guardrail_intervened", "content_filter"), ("content_filtered", "content_filter"),
        ("model_context_window_exceeded", "length"), ("something_new", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons(said: str, means: str) -> None:
    assert whole([{"text": "a"}], said).finish_reason == means


def test_the_one_stop_sequence_is_named() -> None:
    call = ConverseCall({"inferenceConfig": {"stopSequences": ["END"]}}, True)
    response = {"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": "stop_sequence"}
    assert ConverseResponseReader(call).whole(response).stop_sequence == "END"


def test_what_is_no_message_is_said_and_not_lost() -> None:
    cited = {"citationsContent": {"content": [{"text": "cited"}], "citations": [{"title": "t"}]}}
    image = {"image": {"format": "png", "source": {"bytes": PNG}}}
    server = {"toolUse": {"toolUseId": "a", "name": "nova_grounding", "input": {}, "type": "server_tool_use"}}
    message = whole([server, cited, image])
    assert (message.text, message.tool_calls) == ("cited", None)
    assert len(message.warnings) == 3
    assert message.raw["output"]["message"]["content"][1] is cited


def test_malformed_answers() -> None:
    with pytest.raises(MalformedResponse, match="malformed"):
        whole([], "malformed_model_output")
    with pytest.raises(InvalidToolCall):
        whole([], "malformed_tool_use")
    for response in (None, 7, {}, {"output": {}}, {"output": {"message": {"content": [7]}}, "stopReason": "end_turn"}):
        with pytest.raises(MalformedResponse):
            ConverseResponseReader(ConverseCall({}, True)).whole(response)


def test_a_files_media_type_may_say_more() -> None:
    part = Attachment("file", b"a,b", "Text/CSV; charset=utf-8", "t.csv")
    request = Request((ChatMessage("user", (part, *[])), ChatMessage("user", "look")))
    arguments = call_from(request, CLAUDE, Capabilities()).arguments
    assert arguments["messages"][0]["content"][0]["document"]["format"] == "csv"


SAYINGS = st.builds(
    Converse,
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    calls=st.lists(
        st.builds(
            FaultCall,
            st.sampled_from(["f", "g"]),
            st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.integers(), max_size=3)
            .map(json.dumps),
            st.uuids().map(str),
        ),
        max_size=3,
    ),
    reasoning=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    signed=st.booleans(),
    piece=st.integers(1, 9),
)  # fmt: skip


@settings(max_examples=150, derandomize=True, deadline=None)
@given(SAYINGS)
def test_a_stream_folds_to_the_whole_answer(said: Converse) -> None:
    reader = ConverseResponseReader(ConverseCall({}, True))
    pieces = []
    for frame in said.events():
        buffer = EventStreamBuffer()
        buffer.add_data(frame)
        for message in buffer:
            pieces.append(reader.event({message.headers[":event-type"]: json.loads(message.payload)}))
    streamed = accumulate([piece for piece in [*pieces, reader.end()] if piece is not None])
    assert streamed == accumulate([ConverseResponseReader(ConverseCall({}, True)).whole(json.loads(said.body()))])
    assert streamed.reasoning == (said.reasoning or None)
    assert bool(streamed.reasoning_details) == (said.signed and bool(said.reasoning))


ANYTHING = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["text", "toolUse", "reasoningContent", "reasoningText", "redactedContent", "signature",
                         "delta", "start", "contentBlockIndex", "input", "name", "toolUseId", "stopReason", "usage",
                         "output", "message", "content", "inputTokens", "trace", "promptRouter", "citationsContent"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KINDS = st.sampled_from(
    ["contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata", "new"]
)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(st.lists(st.dictionaries(KINDS, ANYTHING, min_size=1, max_size=1), max_size=6), ANYTHING)
def test_whatever_comes_is_an_answer_or_a_typed_error(events: list[Any], response: Any) -> None:
    reader = ConverseResponseReader(ConverseCall({}, True))
    for read in (
        lambda: [*map(reader.event, events), reader.end()],
        lambda: [ConverseResponseReader(ConverseCall({}, True)).whole(response)],
    ):
        try:
            accumulate([piece for piece in read() if piece is not None])
        except ModelError:
            pass
