"""The Responses API behind `OpenAIServerModel`: `api="auto"`, what a service refuses, and tool loops."""

from __future__ import annotations

import json
import pickle
import warnings
from typing import Any

import pytest

from modelport import ChatMessage, Model, NotFoundError, OpenAIServerModel
from modelport.types.messages import ChatMessageToolCall, ChatMessageToolCallFunction
from modelport.types.provider_data import ProviderData
from tests.remote.chat_backends import module_server as module_server
from tests.remote.chat_backends import server as server
from tests.remote.fault_cases import TOOL
from tests.remote.matrix import WAYS
from tests.remote.matrix_runner import KEY, SDK, ask
from tests.servers.faults import Call, Fault, FaultServer
from tests.servers.responses import ENCRYPTED, ResponsesFault

pytestmark = pytest.mark.server

TOOLS_TEXT = "Function tools with reasoning_effort are not supported for m in /v1/chat/completions. "
USE = TOOLS_TEXT + "Please use /v1/responses instead."
USE_OR_NONE = TOOLS_TEXT + "To use function tools, use /v1/responses or set reasoning_effort to 'none'."
ONLY = "This model is only supported in v1/responses and not in v1/chat/completions."


def refuses_tools(with_effort: bool = False, text: str = USE_OR_NONE, answers: str = "calls") -> Any:
    """Return a server that refuses tools on chat completions, as OpenAI's does for its newer models."""

    def respond(request: Any) -> Fault:
        body = request.json
        if request.target.endswith("/responses"):
            calls = "tools" in body and not any(item.get("type") == "function_call_output" for item in body["input"])
            return ResponsesFault.tools(Call(), reasoning="") if calls else ResponsesFault.ok("fine")
        if "tools" in body and (body.get("reasoning_effort") or not with_effort):
            return Fault.status(400, message=text, param="reasoning_effort")
        return Fault.ok("fine")

    return respond


def model_for(server: FaultServer, model_id: str = "gpt-5.6", **settings: Any) -> Model:
    return OpenAIServerModel(model_id, server.base_url, KEY, timeout=20, retry=False, **settings)


def targets(server: FaultServer) -> list[str]:
    return [request.target.removeprefix("/v1/") for request in server.requests]


CHAT = "chat/completions"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", [{}, SDK], ids=["http", "sdk"])
def test_refused_tools_are_sent_to_responses_and_the_model_remembers(
    server: FaultServer, way: str, settings: dict[str, Any]
) -> None:
    server.script(then=refuses_tools())
    model = model_for(server, **settings)
    with pytest.warns(UserWarning, match="needs the Responses API for requests with tools"):
        message = ask(model, way, tools=[TOOL])
    assert message.tool_calls and message.tool_calls[0].function.arguments == {"city": "Paris", "unit": "celsius"}
    assert targets(server) == [CHAT, "responses"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(model, way, tools=[TOOL]).tool_calls
        assert ask(model, way).content == "fine"
    assert targets(server) == [CHAT, "responses", "responses", CHAT]


@pytest.fixture
def own_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every address for OpenAI's."""
    monkeypatch.setattr("modelport.remote.openai.model.service_at", lambda url: "openai")


@pytest.mark.usefixtures("own_service")
@pytest.mark.parametrize("way", WAYS)
def test_known_model_is_never_refused(server: FaultServer, way: str) -> None:
    server.script(then=refuses_tools())
    message = ask(model_for(server), way, tools=[TOOL], reasoning_effort="high")
    assert message.tool_calls and targets(server) == ["responses"]
    assert server.requests[0].json["reasoning"] == {"effort": "high"}


@pytest.mark.usefixtures("own_service")
def test_effort_is_sent_with_tools_and_without_them(server: FaultServer) -> None:
    """gpt-5.4 with an effort and tools goes by Responses; without tools, chat completions get the effort."""
    server.script(then=refuses_tools(with_effort=True))
    model = model_for(server, "gpt-5.4")
    model.generate("hello", reasoning_effort="high", tools=[TOOL])
    model.generate("hello", reasoning_effort="high")
    model.generate("hello", tools=[TOOL])
    assert targets(server) == ["responses", CHAT, CHAT]
    assert server.requests[0].json["reasoning"] == {"effort": "high"}
    assert server.requests[1].json["reasoning_effort"] == "high"


@pytest.mark.parametrize("way", WAYS)
def test_combination_alone_is_left_out_on_chat_completions(server: FaultServer, way: str) -> None:
    """With api='chat', the effort is left out beside tools, and sent without them."""
    server.script(then=refuses_tools(with_effort=True, text=USE))
    model = model_for(server, "m", api="chat")
    with pytest.warns(UserWarning, match="'reasoning_effort'; later requests do not send it together with 'tools'"):
        message = ask(model, way, tools=[TOOL], reasoning_effort="high")
    assert [warning.feature for warning in message.warnings] == ["reasoning_effort"]
    message = ask(model, way, reasoning_effort="high")
    assert message.warnings == []
    efforts = [request.json.get("reasoning_effort") for request in server.requests]
    assert efforts == ["high", None, "high"]
    assert set(targets(server)) == {CHAT}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "the request is not accepted"), (405, ""), (404, "The path /v1/responses does not exist")],
)
def test_missing_responses_path_goes_back_to_chat(server: FaultServer, way: str, status: int, text: str) -> None:
    """A service names the Responses API, but does not have it; or a history comes from elsewhere."""

    def respond(request: Any) -> Fault:
        return Fault.status(status, message=text) if request.target.endswith("/responses") else Fault.ok("fine")

    server.script(then=respond)
    model = model_for(server, "m")
    history = ChatMessage("assistant", "x", provider_data=ProviderData("responses", ({"type": "reasoning"},)))
    with pytest.warns(UserWarning, match="has no Responses API"):
        message = model.generate([history, {"role": "user", "content": "y"}])
    assert (message.content, targets(server)) == ("fine", ["responses", CHAT])
    assert [warning.type for warning in message.warnings] == ["left_out"]
    assert ask(model, way).content == "fine"
    assert targets(server) == ["responses", CHAT, CHAT]


def test_missing_item_is_not_a_missing_path(server: FaultServer) -> None:
    text = "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false."
    server.script(then=Fault.status(404, message=text))
    history = ChatMessage("assistant", "x", provider_data=ProviderData("responses", ({"type": "reasoning"},)))
    with pytest.raises(NotFoundError, match="rs_1"):
        model_for(server, "m").generate([history, {"role": "user", "content": "y"}])
    assert targets(server) == ["responses"]


def test_fixed_responses_api_advises_chat_if_the_path_is_missing(server: FaultServer) -> None:
    server.script(then=Fault.status(404))
    with pytest.raises(NotFoundError, match="pass api='chat'"):
        model_for(server, api="responses").generate("hello")
    assert targets(server) == ["responses"]


def test_fixed_chat_api_never_uses_responses(server: FaultServer) -> None:
    server.script(then=Fault.status(404, message=ONLY))
    with pytest.raises(NotFoundError, match="only supported in v1/responses"):
        model_for(server, "m", api="chat").generate("hello")
    assert targets(server) == [CHAT]


@pytest.mark.parametrize("rejected", ["store", "include"])
def test_field_that_modelport_adds_is_left_out_if_rejected(server: FaultServer, rejected: str) -> None:
    text = "Encrypted content is not supported with this model." if rejected == "include" else "Unknown parameter: "
    text = text if rejected == "include" else f"{text}'{rejected}'."

    def respond(request: Any) -> Fault:
        refused = rejected in request.json
        return Fault.status(400, message=text, param=rejected) if refused else ResponsesFault.ok("fine")

    server.script(then=respond)
    assert model_for(server, api="responses").generate("hello").content == "fine"
    assert [rejected in request.json for request in server.requests] == [True, False]


@pytest.mark.parametrize("way", WAYS)
def test_rejected_parameter_of_responses_is_left_out(server: FaultServer, way: str) -> None:
    text = "Unsupported parameter: 'reasoning.effort' is not supported with this model."

    def respond(request: Any) -> Fault:
        if "reasoning" in request.json:
            return Fault.status(400, message=text, param="reasoning.effort", code="unsupported_parameter")
        return ResponsesFault.ok("fine")

    server.script(then=respond)
    with pytest.warns(UserWarning, match="reasoning_effort"):
        message = ask(model_for(server, api="responses"), way, reasoning_effort="high")
    assert [warning.feature for warning in message.warnings] == ["reasoning_effort"]


def test_renamed_parameter_is_not_said_to_be_left_out(server: FaultServer) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."

    def respond(request: Any) -> Fault:
        rejected = "max_tokens" in request.json
        return (
            Fault.status(400, message=text, param="max_tokens", code="unsupported_parameter") if rejected else Fault()
        )

    server.script(then=respond)
    with pytest.warns(UserWarning, match="later requests send it as 'max_completion_tokens'") as caught:
        model_for(server, "m").generate("hello", max_tokens=5)
    assert not any("do not send" in str(warning.message) for warning in caught)


# --- a tool loop ------------------------------------------------------------------------------------------------------


def strict_server(request: Any) -> Any:
    """Answer as OpenAI does: reasoning must come back with its call, without ids, and before the next turn."""
    items = request.json["input"]
    if request.json.get("store") is not False or "reasoning.encrypted_content" not in request.json.get("include", ()):
        return Fault.status(400, message="this conversation is not stored", param="store")
    for number, item in enumerate(items):
        if "id" in item:
            return Fault.status(404, message=f"Item with id '{item['id']}' not found.")
        if item.get("type") == "reasoning" and items[number + 1].get("type") != "function_call":
            return Fault.status(400, message="reasoning was provided without its required following item.")
    turns = sum(item.get("type") == "function_call_output" for item in items)
    thoughts = [item["encrypted_content"] for item in items if item.get("type") == "reasoning"]
    if thoughts != [ENCRYPTED] * turns:
        return Fault.status(400, message="function_call was provided without its required reasoning item.")
    return ResponsesFault.tools(Call(id=f"call_{turns}"), reasoning="") if turns < 3 else ResponsesFault.ok("done")


def run_loop(model: Model, way: str, copy: Any = lambda message: message) -> ChatMessage:
    messages: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    for _ in range(4):
        message = ask_with(model, way, messages)
        messages.append(copy(message))
        if not message.tool_calls:
            return message
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    raise AssertionError("the loop does not end")


def ask_with(model: Model, way: str, messages: list[Any]) -> ChatMessage:
    if "streamed" in way:
        with model.generate_stream(messages, tools=[TOOL]) as stream:
            for _ in stream:
                pass
            return stream.message
    return model.generate(messages, tools=[TOOL])


COPIES = {
    "same object": lambda message: message,
    "dict": lambda message: message.to_dict(),
    "JSON": lambda message: json.loads(message.model_dump_json()),
    "from_dict": lambda message: ChatMessage.from_dict(message.to_dict()),
    "pickle": lambda message: pickle.loads(pickle.dumps(message)),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("way", ["sync", "sync streamed"])
def test_tool_loop_of_three_turns_sends_reasoning_back(server: FaultServer, way: str, copy: Any) -> None:
    server.script(then=strict_server)
    assert run_loop(model_for(server, api="responses"), way, copy).content == "done"
    assert targets(server) == ["responses"] * 4


@pytest.mark.parametrize("length", [45, 69])
def test_reasoning_goes_back_with_calls_that_have_long_ids(server: FaultServer, length: int) -> None:
    """Chat completions of OpenAI's models refuse IDs of more than 40 characters, and this API those of more than 64."""

    def respond(request: Any) -> Fault:
        answer = strict_server(request)
        if any(len(item.get("call_id", "")) > 64 for item in request.json["input"]):
            return Fault.status(400, message="Invalid 'input[1].call_id': string too long.")
        if answer.status_code != 200 or not answer.response.calls:
            return answer
        return ResponsesFault.tools(Call(id=answer.response.calls[0].id.ljust(length, "x")), reasoning="")

    server.script(then=respond)
    assert run_loop(model_for(server, "gpt-5", api="responses"), "sync").content == "done"
    assert targets(server) == ["responses"] * 4


def test_mistral_models_get_ids_that_their_chat_template_accepts(server: FaultServer) -> None:
    """The template is the same on every API of vLLM's and llama.cpp's servers."""

    def respond(request: Any) -> Fault:
        ids = [item["call_id"] for item in request.json["input"] if "call_id" in item]
        if not all(len(one) == 9 and one.isalnum() for one in ids):
            return Fault.status(400, message="Tool call IDs should be alphanumeric strings with length 9!")
        return strict_server(request)

    server.script(then=respond)
    model = model_for(server, "mistralai/Magistral-Small-2509", api="responses", dialect="openai")
    assert run_loop(model, "sync").content == "done"
    assert targets(server) == ["responses"] * 4


def test_calls_of_another_service_are_sent_as_plain_items(server: FaultServer) -> None:
    server.script(then=ResponsesFault.ok("fine"))
    call = ChatMessageToolCall(ChatMessageToolCallFunction({"city": "Paris"}, "get_weather"), "c1")
    data = ProviderData("responses", ({"type": "reasoning", "encrypted_content": "x"},), "openai")
    history = [ChatMessage("user", "?"), ChatMessage("assistant", None, [call], provider_data=data)]
    history.append(ChatMessage("tool", "sunny", tool_call_id="c1"))
    message = model_for(server, api="responses").generate(history, tools=[TOOL])
    assert [item.get("type") for item in server.requests[0].json["input"]] == [
        "message", "function_call", "function_call_output",
    ]  # fmt: skip
    assert [warning.type for warning in message.warnings] == ["left_out"]
