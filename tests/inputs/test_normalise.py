"""Every form in which callers write messages and parameters comes to one; every mistake is named by its place."""

from __future__ import annotations

import base64
import copy
import datetime
import io
import json
import math
import os
import pickle
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from modelport.errors import InvalidRequest, ModelError, UnsupportedFeature
from modelport.inputs.messages import normalise_messages
from modelport.inputs.parameters import normalise_parameters, normalise_stop
from modelport.inputs.parts import image_from
from modelport.layers.limit.estimate import text_size
from modelport.model import Model
from modelport.protocols.chat_completions.request import plain_dict
from modelport.types.content import MAX_IMAGE_BYTES, Attachment, Image, Text
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.messages import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.request import Request


def png(colour: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (2, 2), colour).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
BASE64 = base64.b64encode(PNG).decode()
IMAGE = Image(PNG, "image/png")
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def one(message: Any, **options: Any) -> ChatMessage:
    """The normal form of a message; what was given must not have changed."""
    before = copy.deepcopy(message)
    (result,) = normalise_messages([message], **options)
    if not isinstance(message, SimpleNamespace):
        assert message == before
    return result


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        "Hello",
        {"role": "user", "content": "Hello"},
        ChatMessage("user", "Hello"),
        [ChatMessage("user", "Hello")],
        ({"role": "user", "content": "Hello"},),
        iter([{"role": "user", "content": "Hello"}]),
        [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        [{"role": "user", "content": [Text("Hello")], "name": None, "tool_calls": None}],
        [SimpleNamespace(role="user", content="Hello")],
    ],
)
def test_all_forms_of_a_question_are_one(messages: Any) -> None:
    assert normalise_messages(messages) == (ChatMessage("user", "Hello"),)


def test_forms_can_be_mixed() -> None:
    messages = [
        {"role": "system", "content": "s"},
        ChatMessage("user", "u"),
        SimpleNamespace(role="assistant", content="a"),
    ]
    assert [(m.role, m.content) for m in normalise_messages(messages)] == [
        ("system", "s"), ("user", "u"), ("assistant", "a"),
    ]  # fmt: skip


def test_several_texts_stay_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert one({"role": "user", "content": parts}).content == (Text("a"), Text("b"))


def test_openais_objects_are_messages() -> None:
    chat = pytest.importorskip("openai.types.chat")
    answer = chat.ChatCompletionMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [CALL]})
    expected = ChatMessageToolCall(ChatMessageToolCallFunction('{"city": "Paris"}', "weather"), "c1")
    for form in (answer, answer.model_dump()):  # The dump holds refusal, annotations, audio and function_call too.
        result = one(form)
        assert (result.role, result.content, result.tool_calls) == ("assistant", None, [expected])


def test_smolagents_objects_are_messages() -> None:
    from smolagents.models import ChatMessage as TheirMessage
    from smolagents.models import ChatMessageToolCall as TheirCall
    from smolagents.models import ChatMessageToolCallFunction as TheirFunction
    from smolagents.models import MessageRole as TheirRole

    parts = [{"type": "text", "text": "Look:"}, {"type": "image", "image": PILImage.new("RGB", (2, 2), "red")}]
    assert one(TheirMessage(TheirRole.USER, parts)).content == (Text("Look:"), IMAGE)
    call = TheirCall(TheirFunction(name="weather", arguments={"city": "Paris"}), "c1", "function")
    result = one(TheirMessage(TheirRole.ASSISTANT, None, [call]))
    assert result.tool_calls == [ChatMessageToolCall(ChatMessageToolCallFunction('{"city": "Paris"}', "weather"), "c1")]
    assert one(TheirMessage(TheirRole.TOOL_RESPONSE, "rain")).role == "user"


def test_the_agents_roles() -> None:
    called = one({"role": "tool-call", "content": [{"type": "text", "text": "Calling …"}]})
    assert (called.role, called.content) == ("assistant", "Calling …")
    assert one({"role": "tool-response", "content": "rain"}).role == "user"
    answered = one({"role": "tool-response", "content": "rain", "tool_call_id": "c1"})
    assert (answered.role, answered.tool_call_id) == ("tool", "c1")


def test_developer_is_openais_newer_word_for_system() -> None:
    assert one({"role": "developer", "content": "s"}).role == "system"


@pytest.mark.parametrize("conversions", [{"system": "user"}, {ChatMessage("system", "").role: "user"}])
def test_roles_can_be_converted(conversions: Any) -> None:
    assert one({"role": "system", "content": "s"}, role_conversions=conversions).role == "user"
    assert one({"role": "assistant", "content": "a"}, role_conversions=conversions).role == "assistant"


def test_roles_of_others_can_be_converted_to_ours() -> None:
    from smolagents.models import MessageRole as TheirRole

    assert one({"role": "critic", "content": "c"}, role_conversions={"critic": "user"}).role == "user"
    assert one({"role": "system", "content": "c"}, role_conversions={TheirRole.SYSTEM: TheirRole.USER}).role == "user"


def test_parts_can_be_flattened_to_text() -> None:
    parts = [{"type": "text", "text": "a"}, Text("b")]
    assert one({"role": "user", "content": parts}, flatten=True).content == "a\nb"
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\['content'\]\[0\]: image can't be flattened"):
        one({"role": "user", "content": [IMAGE]}, flatten=True)


def test_thinking_is_read_under_both_names() -> None:
    assert one({"role": "assistant", "content": "a", "reasoning": "hm"}).reasoning == "hm"
    assert one({"role": "assistant", "content": "a", "reasoning_content": "hm"}).reasoning == "hm"


def test_a_services_own_details_of_its_thinking_go_back_to_it() -> None:
    details = [{"signature": "s1"}, {"sealed": "s2"}]
    given = {"role": "assistant", "content": "a", "reasoning": "hm", "reasoning_details": details}
    assert one(given).reasoning_details == one(ChatMessage.from_dict(given)).reasoning_details == details
    with pytest.raises(InvalidRequest, match=r"messages\[0\]\['reasoning_details'\]: must be a list of dicts"):
        one({**given, "reasoning_details": "s1"})


def test_an_answer_of_ours_can_be_sent_back() -> None:
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "weather"), "c1")
    answer = ChatMessage("assistant", None, [call], raw=object(), finish_reason="tool_calls", model_id="m")
    sent = ChatMessageToolCall(ChatMessageToolCallFunction('{"city": "Paris"}', "weather"), "c1")
    for form in (answer, answer.to_dict()):
        result = one(form) if form is not answer else normalise_messages([form])[0]
        assert result == ChatMessage("assistant", None, [sent])
    assert call.function.arguments == {"city": "Paris"}


def test_an_empty_answer_may_be_in_the_history() -> None:
    assert one({"role": "assistant", "content": None}).content is None
    assert one({"role": "assistant", "content": ""}).content == ""


# --- images and files -------------------------------------------------------------------------------------------------

PIL = PILImage.new("RGB", (2, 2), "red")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": PIL},
        {"type": "image", "image": PNG},
        {"type": "image", "image": bytearray(PNG)},
        {"type": "image", "data": PNG},
        {"type": "image", "base64": BASE64},
        {"type": "image", "base64": BASE64, "media_type": "image/png"},
        {"type": "image", "url": f"data:image/png;base64,{BASE64}"},
        {"type": "image_url", "image_url": f"data:image/png;base64,{BASE64}"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{BASE64}"}},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{BASE64}"}},  # The bytes know better.
        IMAGE,
    ],
)
def test_all_forms_of_an_image_are_one(part: Any) -> None:
    assert one({"role": "user", "content": [part]}).content == (IMAGE,)


def test_an_image_by_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    for part in ({"image": path}, {"image": str(path)}, {"path": str(path)}, {"path": path}, {"url": path}):
        assert one({"role": "user", "content": [{"type": "image", **part}]}).content == (IMAGE,)


SIGNED = "h.example/i.png?sig=S1GNATURE"


@pytest.mark.parametrize("under", [lambda url: {"url": url}, lambda url: {"image_url": url},
                                   lambda url: {"image_url": {"url": url}}, lambda url: {"data": url}])  # fmt: skip
def test_a_url_reads_no_file(under: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes a URL is often not who calls: a page that an agent read, a user of the caller's."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for url in (str(tmp_path / "a.png"), "../a.png", "~/a.png", "/dev/zero", f"file://{tmp_path}/a.png", "", "http:a"):
        with pytest.raises(InvalidRequest, match="must be an http, https or data URL") as raised:
            one({"role": "user", "content": [{"type": "image", **under(url)}]})
        assert "a.png" not in str(raised.value) and "zero" not in str(raised.value)


@pytest.mark.parametrize("key", ["url", "image_url", "image", "path", "data"])
@pytest.mark.parametrize("scheme", ["ftp", "file", "httpx", "s3", " https"])
def test_a_url_of_another_kind_is_refused_without_its_signature(key: str, scheme: str) -> None:
    with pytest.raises(InvalidRequest, match="must be an http, https or data URL, not ") as raised:
        one({"role": "user", "content": [{"type": "image", key: f"{scheme}://{SIGNED}"}]})
    assert "S1GNATURE" not in str(raised.value)


def test_the_scheme_of_a_url_is_read_in_any_case() -> None:
    for key in ("url", "image"):
        parts = [{"type": "image", key: f"HTTPS://{SIGNED}"}, {"type": "image", key: f"Data:image/png;base64,{BASE64}"}]
        assert one({"role": "user", "content": parts}).content == (Image(url=f"https://{SIGNED}"), IMAGE)


@pytest.mark.parametrize("key", ["image", "path"])
def test_only_regular_files_of_a_sane_size_are_read(key: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge.png", "wb") as file:
        file.write(PNG)
        file.truncate(MAX_IMAGE_BYTES + 1)
    for name, says in (("pipe", "no regular file"), ("/dev/zero", "no regular file"), (".", "no regular file"),
                       ("huge.png", "larger than 20 MiB"), ("a" * 5000, "can't be read")):  # fmt: skip
        with pytest.raises(InvalidRequest, match=says) as raised:
            one({"role": "user", "content": [{"type": "image", key: str(tmp_path / name)}]})
        assert len(str(raised.value)) < 400


@pytest.mark.parametrize("url", ["http://example.com/a.png", "https://example.com/a.png"])
def test_an_image_by_address_is_not_fetched(url: str) -> None:
    parts = [
        {"type": "image", "url": url},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image", "image": url},
    ]
    assert one({"role": "user", "content": parts}).content == (Image(url=url),) * 3


def test_openais_detail_is_kept() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    assert one({"role": "user", "content": [part]}).content == (Image(url="https://example.com/a.png", detail="low"),)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "YCbCr"])
def test_a_pil_image_of_any_mode_is_sent_as_png(mode: str) -> None:
    image = PILImage.new("RGB", (2, 2), "red").convert(mode)
    result = image_from(image)
    assert result.media_type == "image/png"
    assert PILImage.open(io.BytesIO(result.data or b"")).size == (2, 2)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_an_image_files_kind_is_seen_in_its_bytes(form: str) -> None:
    buffer = io.BytesIO()
    PIL.save(buffer, form)
    assert image_from(buffer.getvalue()).media_type == f"image/{form.lower()}"


def test_an_image_shows_neither_its_bytes_nor_its_address() -> None:
    assert repr(IMAGE) == f"Image(image/png, {len(PNG)} bytes)"
    by_url = Image(url="https://example.com/a.png?sig=secret")
    assert "secret" not in repr(by_url) and "secret" in by_url.as_url()
    # Nor do the locals of a frame that has its URL, or a body with it.
    assert repr([by_url.url, by_url.to_dict()]).count("secret") == 0 and repr(by_url.url) == "'https://example.com/…'"
    assert pickle.loads(pickle.dumps(by_url)) == copy.deepcopy(by_url) == by_url


@pytest.mark.parametrize("control", [{"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])
def test_a_wish_to_cache_stays_on_its_part(control: dict[str, str]) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}, "cache_control": control}
    content = [{"type": "text", "text": "a", "cache_control": control}, image, {"type": "text", "text": "b"}]
    (message,) = normalise_messages([{"role": "user", "content": content}])
    assert plain_dict(message)["content"] == content
    (alone,) = normalise_messages([{"role": "user", "content": content[:1]}])
    assert plain_dict(alone)["content"] == content[:1]


def test_audio_and_files() -> None:
    data = base64.b64encode(b"RIFF").decode()
    parts = [
        {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": data}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
    ]
    content = (
        Attachment("audio", b"RIFF", "mp3"),
        Attachment("audio", b"RIFF", "wav"),
        Attachment("file", b"RIFF", "application/pdf", "a.pdf"),
    )
    result = one({"role": "user", "content": parts})
    assert result.content == content
    assert normalise_messages([plain_dict(result)]) == (result,)


# --- mistakes ---------------------------------------------------------------------------------------------------------

GOOD = {"role": "user", "content": "fine"}


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": "fine"}, *parts]}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (None, "messages must be a string or a list of messages, not NoneType"),
        (5, "not int"),
        (b"hello", "not bytes"),
        ([], "messages is empty"),
        ([GOOD, "hello"], r"messages\[1\]: must be a dict or a ChatMessage, not str"),
        ([GOOD, {"role": "user"}], r"messages\[1\]: has no 'content'"),
        ([GOOD, {"role": "user", "content": None}], r"messages\[1\]: has no 'content'"),
        ([GOOD, {"content": "a"}], r"messages\[1\]: has no 'role'; it must be one of assistant, developer"),
        ([{"role": "robot", "content": "a"}], r"messages\[0\]: role 'robot' is unknown"),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\]: role \['user'\] is unknown"),
        ([{"role": "user", "contents": "a"}], r"messages\[0\]: unknown key 'contents'"),
        ([{"role": "user", "content": 5}], r"messages\[0\]\['content'\]: must be a string or a list of parts, not int"),
        ([{"role": "user", "content": {"type": "text", "text": "a"}}], r"messages\[0\]\['content'\]: .* not dict"),
        ([{"role": "tool", "content": "a"}], r"messages\[0\]: a 'tool' message needs the 'tool_call_id'"),
        ([{"role": "user", "content": "a", "name": 5}], r"messages\[0\]\['name'\]: must be a string, not int"),
        ([{"role": "assistant", "content": "a", "reasoning": []}], r"messages\[0\]\['reasoning'\]: .* not list"),
        ([{"role": "assistant", "tool_calls": 5}], r"messages\[0\]\['tool_calls'\]: must be a list, not int"),
        ([{"role": "assistant", "tool_calls": [{}]}], r"messages\[0\]\['tool_calls'\]\[0\]: a tool call needs a 'func"),
        ("\ud800", r"messages: holds '\\ud800', half of a surrogate pair"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\]\['content'\]: holds '\\ud800'"),
        ([user({"type": "text", "text": "\udcff"})], r"messages\[0\]\['content'\]\[1\]\['text'\]: holds '\\udcff'"),
        ([user(Text(5))], r"\['content'\]\[1\]: Text's 'text' must be str, not int"),  # type: ignore[arg-type]
        ([user(Text("a", {"type": "x"}))], r"\['content'\]\[1\]\['cache_control'\]: must be {'type': 'ephemeral'}"),
        ([user(Text("a", 5))], r"\['content'\]\[1\]\['cache_control'\]: must be"),  # type: ignore[arg-type]
        ([user(Image())], r"\['content'\]\[1\]: Image's 'data' must be bytes, not NoneType"),
        ([user(Image("a", "image/png"))], r"Image's 'data' must be bytes, not str"),  # type: ignore[arg-type]
        ([user(Image(url=5))], r"Image's 'url' must be str, not int"),  # type: ignore[arg-type]
        ([user(Attachment("audio", "a", "wav"))], r"Attachment's 'data' must be bytes"),  # type: ignore[arg-type]
        ([user({"type": "image", "image": SimpleNamespace(save=5)})], r"\['image'\]: the Simple.* can't be written"),
        (
            [user({"type": "image_url", "image_url": {"url": "http://h/a", "key": 1}})],
            r"\['image_url'\]: unknown key 'k",
        ),
        ([user({"type": "input_audio", "input_audio": {"data": "AAAA", "key": 1}})], r"\['input_audio'\]: unknown key"),
        ([user({"type": "input_audio", "input_audio": {"data": "é"}})], r"\['content'\]\[1\]: .* not base64"),
        (
            [user({"type": "file", "file": {"file_data": "data:a;base64,AA==", "key": 1}})],
            r"\['file'\]: unknown key 'k",
        ),
        ([GOOD, user("a")], r"messages\[1\]\['content'\]\[1\]: must be a dict with a 'type', not str"),
        ([user({"text": "a"})], r"messages\[0\]\['content'\]\[1\]: has no 'type'"),
        ([user({"type": "video"})], r"messages\[0\]\['content'\]\[1\]: type 'video' is unknown"),
        ([user({"type": ["text"]})], r"messages\[0\]\['content'\]\[1\]: type \['text'\] is unknown"),
        ([user({"type": "text"})], r"messages\[0\]\['content'\]\[1\]\['text'\]: must be a string, not NoneType"),
        (
            [user({"type": "text", "text": "a", "txt": "b"})],
            r"\[1\]: unknown key 'txt'; .* cache_control, text",
        ),
        (
            [user({"type": "text", "text": "a", "cache_control": True})],
            r"\['cache_control'\]: must be \{'type'",
        ),
        (
            [user({"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": 5}})],
            "'5m' or '1h', not 5",
        ),
        ([user({"type": "image"})], r"messages\[0\]\['content'\]\[1\]: holds no image"),
        ([user({"type": "image", "image": 5})], r"\[1\]\['image'\]: must be a PIL image, bytes, a path or a URL"),
        ([user({"type": "image", "image": b"text"})], r"\[1\]\['image'\]: is no PNG, JPEG, GIF, WebP or BMP"),
        ([user({"type": "image", "path": "/no/such.png"})], r"\['path'\]: the image file '/no/such.png' can't be read"),
        ([user({"type": "image", "path": "a\0b"})], r"\['path'\]: the image file 'a\\x00b' can't be read"),
        ([user({"type": "image", "path": "~nobody-here/a.png"})], r"\['path'\]: the image file .* can't be read"),
        ([user({"type": "image", "base64": "%%%"})], r"\['base64'\]: the data URL's payload is not base64"),
        ([user({"type": "image_url", "image_url": {}})], r"\['image_url'\]: must be a PIL image"),
        ([user({"type": "image", "url": "https://a", "detail": 5})], r"\['url'\]: 'detail' must be a string"),
        ([user({"type": "input_audio"})], r"\[1\]: write \{'type': 'input_audio'"),
        ([user({"type": "input_audio", "input_audio": {"data": "é"}})], r"\[1\]: "),
        ([user({"type": "input_audio", "input_audio": {"data": "", "format": 5}})], "'format' must be a string"),
        ([user({"type": "file", "file": {"file_data": "x"}})], r"\[1\]: a data URL looks like"),
        ([user({"type": "file", "file": {}})], r"\[1\]: write \{'type': 'file'"),
    ],
)
def test_a_mistake_is_named_by_its_index_and_key(messages: Any, says: str) -> None:
    before = copy.deepcopy(messages)
    with pytest.raises(InvalidRequest, match=says) as raised:
        normalise_messages(messages)
    assert messages == before
    assert "\n" not in str(raised.value)


CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE
DEEP: dict[str, Any] = {}
for _ in range(5000):
    DEEP = {"in": DEEP}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"on": datetime.date(2020, 1, 1)}, "date is not JSON serializable"),
        ({"all": {1}}, "set is not JSON serializable"),
        ({"a": b""}, "bytes is not JSON serializable"),
        ({(1, 2): 3}, "keys must be str"),
        ({"a": math.nan}, "not JSON compliant"),
        ({"a": math.inf}, "not JSON compliant"),
        ({"a": 10**5000}, "4300 digits"),
        (CYCLE, "Circular reference"),
        (DEEP, "recursion"),
        ({"a": "\ud800"}, "half of a surrogate pair"),
        (object(), "object is not JSON serializable"),
    ],
)
@pytest.mark.parametrize("form", [dict, ChatMessage])
def test_a_call_whose_arguments_are_no_json_is_named(form: Any, arguments: Any, says: str) -> None:
    """Found before any backend has a hand in it: each would make another error of it, or none."""
    function = {"name": "f", "arguments": arguments}
    calls = [CALL, {"id": "c1", "type": "function", "function": function}]
    message = form(role="assistant", content=None, tool_calls=calls)
    with pytest.raises(InvalidRequest, match=r"messages\[1\]\['tool_calls'\]\[1\]\['function'\]\['argum.*" + says):
        normalise_messages([GOOD, message])


def test_a_list_without_parts_is_an_empty_text() -> None:
    assert one({"role": "user", "content": []}).content == ""


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_completion_tokens"])
def test_max_tokens_has_three_names(name: str) -> None:
    assert normalise_parameters({name: 5}) == {"max_tokens": 5}


def test_two_names_of_one_parameter_may_not_disagree() -> None:
    assert normalise_parameters({"max_tokens": 5, "max_new_tokens": 5}) == {"max_tokens": 5}
    with pytest.raises(InvalidRequest, match="two names of one parameter"):
        normalise_parameters({"max_tokens": 5, "max_new_tokens": 6})


def test_none_is_not_given_and_what_is_unknown_is_passed_on() -> None:
    assert normalise_parameters({"temperature": None, "mirostat": [1]}) == {"mirostat": [1]}
    assert normalise_parameters({"n": 1}) == {}


def test_top_logprobs_brings_logprobs() -> None:
    assert normalise_parameters({"top_logprobs": 3}) == {"top_logprobs": 3, "logprobs": True}
    with pytest.raises(InvalidRequest, match="top_logprobs needs logprobs=True"):
        normalise_parameters({"top_logprobs": 3, "logprobs": False})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_tokens", [0, -1, 1.5, "5", True, float("inf")]),
        ("temperature", [-0.1, "hot", float("nan"), float("inf"), True, []]),
        ("timeout", [0, -1, float("inf"), 10**400]),
        ("top_p", [0, 1.1, -1, None.__class__]),
        ("min_p", [-0.1, 1.1]),
        ("top_k", [-1, 0.5]),
        ("seed", ["x", 1.5, 10**400]),
        ("presence_penalty", [-2.1, 2.1]),
        ("frequency_penalty", [-2.1, 2.1]),
        ("repetition_penalty", [0]),
        ("logprobs", [1, "yes"]),
        ("top_logprobs", [-1, 21]),
        ("parallel_tool_calls", [0, "no"]),
        ("n", [2, 0]),
        ("stream", [True, "no"]),
        ("timeout", [0, -1, "1m"]),
        ("first_token_timeout", [0]),
        ("idle_timeout", [0]),
    ],
)
def test_a_parameter_out_of_its_range_is_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest, match=f"^{name}=") as raised:
            normalise_parameters({name: value})
        assert raised.value.parameter == name


@pytest.mark.parametrize("name", ["extra_body", "extra_headers", "extra_query"])
def test_what_is_added_to_a_request_is_a_dict_and_never_shown(name: str) -> None:
    for value in ([("Authorization", "hidden")], "hidden", 5, [], {1: "hidden"}):
        with pytest.raises(InvalidRequest, match=f"^{name} must be a dict whose keys are strings, not") as raised:
            normalise_parameters({name: value})
        assert "hidden" not in str(raised.value)


def test_a_parameter_at_the_edge_of_its_range_is_taken() -> None:
    given = {"max_tokens": 10**400, "temperature": 0, "top_p": 1, "seed": -(2**63), "timeout": 0.001}
    assert normalise_parameters(given) == given


@pytest.mark.parametrize(
    ("given", "result"),
    [(None, ()), ("END", ("END",)), (["a", "b", "a"], ("a", "b")), ((), ()), (iter(["a"]), ("a",)), ({"a": 1}, ("a",))],
)
def test_the_forms_of_stop_sequences(given: Any, result: tuple[str, ...]) -> None:
    assert normalise_stop(given) == result


@pytest.mark.parametrize("given", ["", [""], ["a", ""], 5, False, ["a", 5], [None], [["a"]], [{}]])
def test_a_stop_sequence_that_is_none_is_named(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="stop_sequences"):
        normalise_stop(given)


# --- the other way ----------------------------------------------------------------------------------------------------


def test_a_normal_message_in_openais_form() -> None:
    message = one({"role": "assistant", "content": "So:", "tool_calls": [CALL]})
    assert plain_dict(message) == {"role": "assistant", "content": "So:", "tool_calls": [CALL]}
    answer = one({"role": "tool", "content": [Text("a"), IMAGE], "tool_call_id": "c1", "name": "weather"})
    written = plain_dict(answer)
    assert json.loads(json.dumps(written)) == written
    assert one(written) == answer


def test_the_size_of_a_message_counts_bytes_of_text_and_calls() -> None:
    assert text_size(ChatMessage("user", "éé")) == 4
    assert text_size(one({"role": "assistant", "tool_calls": [CALL]})) == len("weather") + len('{"city": "Paris"}')


# --- anything ---------------------------------------------------------------------------------------------------------


class Answers(Model):
    """Takes whatever gets through."""

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        yield ChatMessageStreamDelta(content="{}", finish_reason="stop")


KEYS = st.sampled_from([
    "role", "content", "type", "text", "image", "image_url", "url", "path", "base64", "data", "detail", "tool_calls",
    "function", "name", "arguments", "id", "tool_call_id", "reasoning", "input_audio", "format", "file", "file_data",
    "filename", "value", "json_schema", "schema", "properties", "$ref", "enum", "anyOf", "items", "pattern", "x",
])  # fmt: skip
WORDS = st.sampled_from([
    "user", "assistant", "system", "tool", "text", "image", "image_url", "input_audio", "file", "function", "auto",
    "json", "required", "json_schema", "json_object", "regex", "object", "string", "data:image/png;base64,AAAA",
    "http://x", "~x", "(", "", "\0", "#/nowhere", "\ud800",
])  # fmt: skip
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": WORDS, "content": WORDS | st.lists(st.dictionaries(KEYS, JUNK, max_size=4), max_size=2)}
    )
    | st.dictionaries(KEYS, JUNK, max_size=5),
    max_size=3,
)
OPTIONS = st.dictionaries(
    st.sampled_from([
        "grammar", "response_format", "tools", "tools_to_call_from", "tool_choice", "stop", "stop_sequences",
        "max_tokens", "max_new_tokens", "temperature", "top_p", "seed", "logprobs", "top_logprobs", "timeout", "n",
        "idle_timeout", "parallel_tool_calls", "custom_role_conversions", "flatten_messages_as_text", "whatever",
    ]),
    JUNK,
    max_size=3,
)  # fmt: skip


@settings(max_examples=700, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(MESSAGES | JUNK, OPTIONS)
def test_junk_is_an_invalid_request_or_is_answered_and_nothing_else(messages: Any, options: dict[str, Any]) -> None:
    everything = {"text", "image", "audio", "file"}
    model = Answers(capabilities={"inputs": everything, "image_urls": True, "seed": True, "logprobs": True})
    before = copy.deepcopy((messages, options))
    try:
        model.generate_stream(messages, **options)  # Checked when it is made.
    except (InvalidRequest, UnsupportedFeature) as error:
        assert str(error)
    # repr, since a NaN is not equal to itself
    assert repr((messages, options)) == repr(before), "what the caller gave was changed"


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(OPTIONS)
def test_a_call_with_junk_beside_a_good_message_ends_in_an_answer_or_an_error_of_ours(options: dict[str, Any]) -> None:
    try:
        Answers(retry=False).generate("Hello", **options)
    except ModelError as error:
        assert str(error)
