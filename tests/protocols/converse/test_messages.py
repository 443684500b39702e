"""Messages as Converse blocks and turns: what is sent, and what is refused because AWS would refuse it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from modelport import ChatMessage, InvalidRequest, Request, UnsupportedFeature
from modelport.protocols.converse.request import converse_call_from
from modelport.types.capabilities import Capabilities
from modelport.types.content import Attachment
from modelport.types.provider_data import ProviderData
from tests.protocols.converse.examples import (
    CLAUDE,
    LLAMA,
    PDF,
    PDF_PART,
    PNG,
    WEATHER_TOOL,
    RecordingModel,
    call_message,
    recording_model,
    result_message,
    sent_body,
    text_part,
    user_message,
)
from tests.servers.bedrock_rules import redacted_reasoning, signature_of


def test_system_messages_are_separate_and_turns_alternate(model: RecordingModel) -> None:
    body = sent_body(model, [
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


def test_system_message_within_conversation_is_moved_with_warning(model: RecordingModel) -> None:
    message = model.generate(["hi"][0])
    assert not message.warnings
    message = model.generate(
        [user_message(text_part("a")), {"role": "system", "content": "late"}, user_message(text_part("b"))]
    )
    assert model.sent[-1]["system"] == [{"text": "late"}]
    assert ["messages[1]" in str(warning) for warning in message.warnings] == [True]


def test_blank_text_is_left_out(model: RecordingModel) -> None:
    body = sent_body(
        model,
        [
            user_message(text_part(" "), text_part("a"), text_part("")),
            {"role": "assistant", "content": "\n"},
            user_message(text_part("b")),
        ],
    )
    assert body["messages"] == [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]


def test_images_and_files_are_sent_as_bytes_with_unique_names(model: RecordingModel) -> None:
    file = {"type": "file", "file": {"filename": "my_report.v2.pdf", "file_data": PDF}}
    body = sent_body(model, [user_message(text_part("look"), {"type": "image", "image": PNG}, file, file)])
    _, image, first, second = body["messages"][0]["content"]
    assert image == {"image": {"format": "png", "source": {"bytes": PNG}}}
    assert first == {"document": {"format": "pdf", "name": "my-report-v2", "source": {"bytes": b"%PDF-1.7"}}}
    assert second["document"]["name"] == "my-report-v2 2"


def test_file_media_type_with_parameters_is_recognised() -> None:
    part = Attachment("file", b"a,b", "Text/CSV; charset=utf-8", "t.csv")
    request = Request((ChatMessage("user", (part, *[])), ChatMessage("user", "look")))
    arguments = converse_call_from(request, CLAUDE).arguments
    assert arguments["messages"][0]["content"][0]["document"]["format"] == "csv"


def test_tool_calls_and_results_become_blocks(model: RecordingModel) -> None:
    history = [
        user_message(text_part("?")),
        call_message("a", "b", content="I look."),
        result_message("b"),
        result_message("a", ""),
        user_message(text_part("and?")),
    ]
    body = sent_body(model, history, tools=[WEATHER_TOOL])
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


def test_tool_result_with_image_is_sent_before_user_text(model: RecordingModel) -> None:
    history = [
        user_message(text_part("?")),
        call_message("a"),
        user_message(text_part("well?")),
        result_message("a", [{"type": "image", "image": PNG}]),
    ]
    blocks = sent_body(model, history, tools=[WEATHER_TOOL])["messages"][2]["content"]
    assert [next(iter(block)) for block in blocks] == ["toolResult", "text"]
    assert blocks[0]["toolResult"]["content"] == [{"image": {"format": "png", "source": {"bytes": PNG}}}]


@pytest.mark.parametrize("call_id", ["call|with|bars", "x" * 65, "é"])
def test_call_id_that_aws_refuses_is_rewritten_equally_in_call_and_result(model: RecordingModel, call_id: str) -> None:
    history = [user_message(text_part("?")), call_message(call_id), result_message(call_id)]
    body = sent_body(model, history, tools=[WEATHER_TOOL])
    used = body["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert used.startswith("call_")
    assert body["messages"][2]["content"][0]["toolResult"]["toolUseId"] == used


def test_provider_data_of_bedrock_is_sent_back_unchanged(model: RecordingModel) -> None:
    signed = {"reasoningText": {"text": "hm", "signature": signature_of("hm")}}
    redacted = {"redactedContent": base64.b64encode(redacted_reasoning("x")).decode()}
    details: tuple[dict[str, Any], ...] = (signed, redacted, {"another": "block"})
    response = ChatMessage("assistant", "42", reasoning="hm", provider_data=ProviderData("converse", details))
    for earlier in (response, response.to_dict(), ChatMessage.from_dict(json.loads(response.model_dump_json()))):
        body = sent_body(model, [user_message(text_part("?")), earlier, user_message(text_part("sure?"))])
        assert body["messages"][1]["content"] == [
            {"reasoningContent": signed},
            {"reasoningContent": {"redactedContent": redacted_reasoning("x")}},
            {"text": "42"},
        ]


def test_unsigned_reasoning_is_sent_back_only_if_model_takes_it() -> None:
    messages = (ChatMessage("user", "?"), ChatMessage("assistant", "42", reasoning="hm"), ChatMessage("user", "!"))
    for sends_reasoning in (False, True):
        request = Request(messages, capabilities=Capabilities(sends_reasoning=sends_reasoning))
        arguments = converse_call_from(request, "openai.gpt-oss-20b-1:0").arguments
        reasoning = [b["reasoningContent"] for b in arguments["messages"][1]["content"] if "reasoningContent" in b]
        assert reasoning == ([{"reasoningText": {"text": "hm"}}] if sends_reasoning else [])


# --- refused requests -------------------------------------------------------------------------------------------------


def image_messages(data: bytes, count: int = 1) -> list[dict[str, Any]]:
    return [user_message(text_part("look"), *[{"type": "image", "image": data}] * count)]


def messages_with_call(name: str, arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "c", "function": {"name": name, "arguments": arguments}}
    return [user_message(text_part("a")), {"role": "assistant", "tool_calls": [call]}, result_message("c")]


A, B = user_message(text_part("a")), user_message(text_part("b"))
REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("assistant message first", [{"role": "assistant", "content": "a"}, B], {}, r"\[0\].*a user message first"),
    ("system message only", [{"role": "system", "content": "a"}], {}, "no user message"),
    ("blank message", [user_message(text_part(" "))], {}, r"messages\[0\]: the text is blank"),
    ("blank later message", [A, {"role": "assistant", "content": "b"}, user_message(text_part(""))], {},
     r"messages\[2\]"),
    ("BMP image", image_messages(b"BM" + b"\0" * 40), {},
     r"\[0\]\['content'\]\[1\]: the image's type is image/bmp.*PNG, JPEG, GIF"),
    ("large image", image_messages(PNG + b"\0" * 4_000_000), {}, r"bytes; Bedrock accepts 3,932,160"),
    ("21 images", image_messages(PNG, 21), {}, "21 images"),
    ("six files", [user_message(text_part("a"), *[PDF_PART] * 6)], {}, "6 files"),
    ("file without text", [user_message(PDF_PART)], {}, "needs text too"),
    ("file of unknown type",
     [user_message(text_part("a"), {"type": "file", "file": {"file_data": "data:video/mp4;base64,AA=="}})],
     {}, r"\[1\]: the file's type is video/mp4; Bedrock accepts pdf, csv"),
    ("empty file",
     [user_message(text_part("a"), {"type": "file", "file": {"file_data": "data:text/csv;base64,"}})], {}, "empty"),
    ("image in assistant message", [A, {"role": "assistant", "content": [{"type": "image", "image": PNG}]}],
     {}, r"messages\[1\]\['content'\]\[0\]: Bedrock accepts images in user messages only"),
    ("image in system message", [{"role": "system", "content": [{"type": "image", "image": PNG}]}, A], {},
     r"messages\[0\]: a system message on Bedrock contains text only"),
    ("call without result", [A, call_message("c")], {}, "'c' has no result"),
    ("one of two calls without result", [A, call_message("c", "d"), result_message("c")], {}, "'d' has no result"),
    ("result of another call", [A, call_message("c"), result_message("c"), result_message("d")], {},
     "'d' must be the only one"),
    ("two results of one call", [A, call_message("c"), result_message("c"), result_message("c")], {},
     "'c' must be the only one"),
    ("result without call", [A, result_message("c")], {}, "right after the message with that call"),
    ("two calls with one id", [A, call_message("c", "c"), result_message("c")], {},
     "two tool calls of one turn have the id 'c'"),
    ("tool name in the history", messages_with_call("a.b", {}), {}, "does not accept the tool name 'a.b'"),
    ("tool name", "hi", {"tools": [{"name": "get.weather"}]}, r"tool 'get\.weather': .*rename"),
    ("tool schema", "hi", {"tools": [{"name": "f", "parameters": {"type": "string"}}]}, "of type 'object'"),
    ("temperature", "hi", {"temperature": 1.5}, r"temperature=1\.5: Bedrock accepts 0 to 1"),
    ("temperature in the service's field", "hi", {"inference_config": {"temperature": 2}}, "Bedrock accepts 0 to 1"),
    ("field that is not a dict", "hi", {"inferenceConfig": 3}, "inferenceConfig=3: must be a dict"),
    ("guardrail without version", "hi", {"guardrail_identifier": "abc"}, "guardrail_version is missing"),
    ("unknown cache section", "hi", {"cache_points": ["prompt"]},
     "'prompt' is unknown; there are tools, system, messages"),
    ("unknown cache duration", "hi", {"cache_points": {"messages": "2h"}}, "'2h': must be '5m', '1h' or None"),
    ("cache sections as a string", "hi", {"cache_points": "system"}, "cache_points='system': must be a list"),
    ("system as a parameter", "hi", {"system": [{"text": "a"}]}, "'system' is not a parameter"),
    ("reasoning that is not base64", [A, {"role": "assistant", "content": "b", "provider_data":
     {"protocol": "converse", "items": [{"redactedContent": "?"}]}}, B], {},
     r"messages\[1\]\['provider_data'\]\['items'\]\[0\].*base64"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "options", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_request_that_aws_would_refuse_raises_invalid_request_before_sending(
    model: RecordingModel, messages: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidRequest, match=text):
        model.generate(messages, **options)
    assert not model.calls


@pytest.mark.parametrize(
    ("model_id", "options"),
    [
        (CLAUDE, {"parallel_tool_calls": False}), (CLAUDE, {"seed": 1}), (CLAUDE, {"logprobs": True}),
        (CLAUDE, {"min_p": 0.1}), (LLAMA, {"top_k": 3}), ("amazon.titan-text-express-v1", {"top_k": 3}),
    ],
)  # fmt: skip
def test_option_that_the_api_lacks_raises_unsupported_feature(model_id: str, options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFeature):
        recording_model(model_id).generate("hi", **options)
