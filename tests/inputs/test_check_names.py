"""Names of options that modelport does not know: misspelt ones are refused, others are refused or reported."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelport import (
    AmazonBedrockServerModel,
    AzureOpenAIServerModel,
    CallWarning,
    Capabilities,
    ChatMessage,
    ChatMessageStreamDelta,
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    FallbackModel,
    InferenceClientModel,
    Model,
    OpenAIServerModel,
    Request,
)
from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.inputs.check_names import check_parameter_names
from modelport.inputs.parameters import BY_ANY_NAME, KNOWN_PARAMETERS
from modelport.inputs.vendor_parameters import SERVICES, services_by_parameter
from modelport.remote.services import service_at
from modelport.testing import ScriptedModel
from tests.inputs.test_spelling import LONG, MIDDLE, edited
from tests.properties import examples

TOOL = {"name": "now", "description": "", "parameters": {"type": "object"}}


def openai(**settings: Any) -> OpenAIServerModel:
    return OpenAIServerModel("gpt-4o", api_key="k", **settings)


def warned(message: ChatMessage) -> list[tuple[str, str | None]]:
    return [(warning.type, warning.feature) for warning in message.warnings]


@pytest.mark.parametrize("method", ["generate", "generate_stream", "__call__"])
def test_misspelt_option_of_a_call_is_refused_before_anything_is_sent(method: str) -> None:
    model = ScriptedModel("x")
    with pytest.raises(InvalidRequest, match=r"'tempratur' is no option: did you mean 'temperature'\?") as raised:
        list(getattr(model, method)("?", tempratur=0))
    assert raised.value.parameter == "tempratur"
    assert model.requests == []


def test_misspelt_time_limit_is_refused_and_not_sent() -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'timeout'"):
        openai(retry=False)("?", timout=3)  # type: ignore[call-overload]


def test_misspelt_setting_of_a_constructor_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"^OpenAIServerModel\(api_bse=…\): did you mean 'api_base'\?$"):
        openai(api_bse="http://127.0.0.1:1/v1")
    with pytest.raises(InvalidRequest, match="did you mean 'requests_per_minute'"):
        ScriptedModel("x", request_per_minute=3)
    with pytest.raises(InvalidRequest, match="did you mean 'temperature'"):
        FallbackModel([ScriptedModel("x")], temprature=0)


@pytest.mark.parametrize(
    ("cls", "name", "setting"),
    [
        (OpenAIServerModel, "openai_api_base", "api_base"),
        (OpenAIServerModel, "token", "api_key"),
        (OpenAIServerModel, "model", "model_id"),
        (OpenAIServerModel, "max_retries", "retry"),
        (InferenceClientModel, "model_name", "model_id"),
        (FallbackModel, "model", "models"),
        (ScriptedModel, "model", "model_id"),
    ],
)
def test_setting_under_its_name_in_another_package_is_refused(cls: type[Model], name: str, setting: str) -> None:
    first = [ScriptedModel("x")] if cls is FallbackModel else "x"
    create: Any = cls
    with pytest.raises(InvalidRequest, match=rf"^{cls.__name__}\({name}=…\): did you mean '{setting}'\?$"):
        create(first, **{name: "x"})


def test_setting_under_its_name_in_another_package_is_no_option_of_a_call() -> None:
    with pytest.raises(InvalidRequest, match=r"'base_url' is no option of a call: pass it to .*\(api_base=…\)"):
        openai()("?", base_url="http://127.0.0.1:1")  # type: ignore[call-overload]


def test_misspelt_option_of_a_fallback_model_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="did you mean 'temperature'"):
        FallbackModel([ScriptedModel("x"), ScriptedModel("y")])("?", temprature=0)  # type: ignore[call-overload]


@examples(100)
@given(st.sampled_from(MIDDLE + LONG), st.sampled_from([1, 2]), st.data())
def test_each_edited_option_is_refused_with_a_suggestion(name: str, edits: int, data: Any) -> None:
    misspelt = name
    for _ in range(edits if len(name) >= 10 else 1):
        misspelt = edited(misspelt, data.draw)
    if misspelt in BY_ANY_NAME or misspelt in services_by_parameter():
        return
    for capabilities in (Capabilities(), Capabilities(forwards_unknown=False)):
        with pytest.raises(InvalidRequest, match="did you mean"):
            check_parameter_names({misspelt: 1}, capabilities)


@pytest.mark.parametrize("name", sorted(services_by_parameter()))
def test_documented_name_is_never_taken_for_a_misspelling(name: str) -> None:
    (warning,) = check_parameter_names({name: 1}, Capabilities())
    assert warning.type == "forwarded" and warning.feature == name
    assert services_by_parameter()[name][0] in warning.text
    with pytest.raises(UnsupportedFeature, match=f"'{name}' is not a parameter of this backend"):
        check_parameter_names({name: 1}, Capabilities(forwards_unknown=False))
    assert check_parameter_names({name: 1}, Capabilities(extra_parameters=frozenset({name}))) == []
    assert check_parameter_names({name: 1}, Capabilities(extra_parameters=None)) == []


@pytest.mark.parametrize("name", sorted(KNOWN_PARAMETERS))
def test_parameter_that_every_backend_has_needs_no_warning(name: str) -> None:
    assert check_parameter_names({name: 1}, Capabilities()) == []


def test_unknown_option_is_sent_with_a_warning_that_names_extra_body() -> None:
    capabilities = Capabilities(extra_parameters=frozenset({"extra_body"}))
    (warning,) = check_parameter_names({"frobnicate": 1}, capabilities)
    assert (warning.type, warning.feature) == ("forwarded", "frobnicate")
    assert str(warning) == (
        "'frobnicate' was sent unchanged, but modelport knows no such option. If the service has a parameter of this "
        "name, pass extra_body={'frobnicate': …}."
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("options", [{}, {"tools": [TOOL]}, {"grammar": {"type": "object"}}], ids=lambda o: str([*o]))
def test_warning_about_a_forwarded_option_reaches_the_message(stream: bool, options: dict[str, Any]) -> None:
    model = ScriptedModel("{}", repeat=True)
    if stream:
        with model.generate_stream("?", frobnicate=1, **options) as deltas:  # type: ignore[call-overload]
            list(deltas)
        message = deltas.message
    else:
        message = model.generate("?", frobnicate=1, **options)  # type: ignore[call-overload]
    assert warned(message) == [("forwarded", "frobnicate")]
    assert model.requests[-1].parameters == {"frobnicate": 1}


def test_setting_of_the_constructor_is_no_option_of_a_call() -> None:
    """Otherwise a key would be sent in the body of the request."""
    for name in ("api_key", "api_base", "organization", "model_id", "requests_per_minute"):
        with pytest.raises(InvalidRequest, match=rf"^'{name}' is no option of a call: pass it to OpenAIServerModel"):
            openai()("?", **{name: "sk-secret"})  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["apikey", "api_keys", "organisation", "requests_per_minut"])
def test_name_like_a_setting_is_no_option_of_a_call(name: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"^'{name}' is no option of a call: pass it to OpenAIServerModel\("):
        openai()("?", **{name: "sk-secret"})  # type: ignore[call-overload]


def test_settings_are_no_options_of_a_call_through_other_classes() -> None:
    class Company(OpenAIServerModel):
        def __init__(self, model_id: str = "m") -> None:
            super().__init__(model_id, api_key="sk-x")

    with pytest.raises(InvalidRequest, match="'api_key' is no option of a call: pass it to Company"):
        Company()("?", api_key="sk-secret")
    for model in (FallbackModel([openai(), openai()]), FallbackModel([openai()]).with_layers(lambda r, next: next(r))):
        with pytest.raises(InvalidRequest, match="'api_key' is no option of a call: pass it to OpenAIServerModel"):
            model("?", api_key="sk-secret")


class WithOwnParameter(Model):
    """A backend with a parameter whose name is similar to an option, and one that it computes."""

    declared_capabilities = Capabilities(extra_parameters=frozenset({"top_n"}))

    async def deltas(self, request: Request) -> AsyncGenerator[ChatMessageStreamDelta, None]:
        yield ChatMessageStreamDelta(content=str(dict(request.parameters)), finish_reason="stop")


class WithComputedParameter(WithOwnParameter):
    declared_capabilities = Capabilities()

    def _declare(self) -> Capabilities:
        return self.declared_capabilities.replace(extra_parameters={"top_n"})


@pytest.mark.parametrize("cls", [WithOwnParameter, WithComputedParameter])
def test_parameter_of_a_backend_is_no_misspelling(cls: type[Model]) -> None:
    for message in (cls()("?", top_n=3), cls(top_n=3)("?"), FallbackModel([cls()])("?", top_n=3)):  # type: ignore[call-overload]
        assert (message.text, message.warnings) == ("{'top_n': 3}", [])
    assert FallbackModel([ScriptedModel("x"), cls()])("?", top_n=3).text == "{'top_n': 3}"  # type: ignore[call-overload]
    assert FallbackModel([WithOwnParameter()], top_n=3)("?").text == "{'top_n': 3}"


@pytest.mark.parametrize("name", ["extra_body", "extra_headers", "extra_query"])
def test_addition_that_a_backend_does_not_accept_is_refused(name: str) -> None:
    """Otherwise a key in a header would be sent in the body."""
    with pytest.raises(UnsupportedFeature, match=f"this backend does not accept {name}"):
        WithOwnParameter()("?", **{name: {"Authorization": "Bearer sk-1"}})  # type: ignore[call-overload]
    fallback = FallbackModel([WithOwnParameter(), ScriptedModel("second")])
    assert fallback("?", **{name: {"a": "b"}}).text == "second"  # type: ignore[call-overload]


def test_name_that_is_too_long_to_compare_is_forwarded_quickly() -> None:
    (warning,) = check_parameter_names({"temperatur" * 1000: 1}, Capabilities())
    assert warning.type == "forwarded"


def test_name_in_a_warning_is_escaped() -> None:
    (warning,) = check_parameter_names({"a\n\x1b[31m": 1}, Capabilities())
    assert "\n" not in warning.text and "\x1b" not in warning.text


def test_parameter_that_was_left_out_is_not_reported_as_sent() -> None:
    left_out = CallWarning("left_out", "frobnicate", "It was left out.")
    model = ScriptedModel([ChatMessageStreamDelta(content="x", finish_reason="stop", warnings=[left_out])])
    assert model("?", frobnicate=1).warnings == [left_out]  # type: ignore[call-overload]


def test_warning_is_on_an_interrupted_response() -> None:
    with ScriptedModel("one two three").generate_stream("?", frobnicate=1) as stream:  # type: ignore[call-overload]
        next(iter(stream))
    assert warned(stream.message) == [("forwarded", "frobnicate")]


def test_own_generate_accepts_every_name() -> None:
    class Own(Model):
        def __init__(self, model_id: str = "own", *, path: str = "", **settings: Any) -> None:
            super().__init__(model_id, **settings)

        def generate(self, messages: Any, stop_sequences: Any = None, **options: Any) -> ChatMessage:
            return ChatMessage("assistant", str(options))

    Own(top_n=3)
    with Own().generate_stream("?", path="p") as stream:  # type: ignore[call-overload]
        list(stream)
    assert "path" in stream.message.text
    with Own().generate_stream("?", tempratur=0) as stream:  # type: ignore[call-overload]
        list(stream)
    assert "tempratur" in stream.message.text and stream.message.warnings == []


@pytest.mark.parametrize(
    ("model", "service"),
    [
        (lambda: openai(), "openai"),
        (lambda: openai(api_base="https://openrouter.ai/api/v1"), "openrouter"),
        (lambda: openai(api_base="https://api.groq.com/openai/v1"), "groq"),
        (lambda: AzureOpenAIServerModel("m", "https://x.openai.azure.com", "k", "2024-10-21"), "azure"),
        (lambda: AzureOpenAIServerModel("m", "https://gateway.example", "k"), "azure"),
        (lambda: openai(api_base="http://127.0.0.1:8000/v1", dialect="vllm"), "vllm"),
        (lambda: InferenceClientModel("m", provider="together", token="k"), "together"),
        (lambda: InferenceClientModel("m", token="hf_k"), "huggingface"),
        (lambda: InferenceClientModel("m", base_url="http://127.0.0.1:1", dialect="tgi", token="k"), "tgi"),
    ],
)
def test_parameters_of_the_service_need_no_warning(model: Any, service: str) -> None:
    parameters = dict.fromkeys(SERVICES[service].parameters, 1)
    assert parameters and check_parameter_names(parameters, model().capabilities) == []


def test_parameter_of_another_service_is_reported() -> None:
    warnings = check_parameter_names({"provider": {}, "top_k": 3}, openai().capabilities)
    assert [(one.type, one.feature) for one in warnings] == [("forwarded", "provider"), ("forwarded", "top_k")]
    assert "OpenRouter" in str(warnings[0])
    unknown_server = openai(api_base="http://127.0.0.1:1/v1")
    assert len(check_parameter_names({"enable_thinking": True}, unknown_server.capabilities)) == 1


def test_unknown_parameter_of_bedrock_is_refused() -> None:
    model = AmazonBedrockServerModel("amazon.nova-pro-v1:0", region_name="us-east-1", api_key="bedrock-key")
    with pytest.raises(UnsupportedFeature, match=r"'provider' is not a parameter of this backend.*OpenRouter"):
        model("?", provider={})


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://NAME.openai.azure.com/openai/v1/", "azure"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://api.openai.com.evil.example/v1", None),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://127.0.0.1:8080/v1", None),
        ("http://[", None),
        (None, None),
    ],
)
def test_service_is_recognised_by_its_host(url: str | None, service: str | None) -> None:
    assert service_at(url) == service


CAPABILITIES = st.builds(
    Capabilities,
    stop=st.booleans(),
    tools=st.booleans(),
    grammars=st.sampled_from([frozenset(), frozenset({"json_schema"})]),
    grammar_with_tools=st.booleans(),
    logprobs=st.booleans(),
    seed=st.booleans(),
    reasoning=st.booleans(),
    reasoning_efforts=st.sampled_from([frozenset(), frozenset({"low", "high"})]),
    reasoning_budget=st.booleans(),
    refused=st.frozensets(st.sampled_from(["temperature", "top_p", "presence_penalty"]), max_size=2),
    extra_parameters=st.frozensets(st.sampled_from(["top_k", "provider", "extra_body"])),
    forwards_unknown=st.booleans(),
)
OPTIONS: dict[str, Any] = {
    "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "presence_penalty": 1, "logprobs": True,
    "top_logprobs": 2, "max_tokens": 9, "reasoning_effort": "low", "reasoning_budget": 2000, "provider": {"a": 1},
    "enable_thinking": True, "frobnicate": 1, "extra_body": {"b": 1}, "parallel_tool_calls": False,
    "stop_sequences": ["END"],
}  # fmt: skip


def valid_response(request: Request) -> Any:
    """Return a tool call if the request has tools, and otherwise a text that is a prompted call and a JSON object."""
    if not request.tools or request.tool_choice == "none":
        return '{"name": "now", "arguments": {}}'
    function = ChatMessageToolCallFunction({}, request.tools[0].name)
    return ChatMessage("assistant", tool_calls=[ChatMessageToolCall(function, "c1")])


@examples(100)
@given(CAPABILITIES, st.sets(st.sampled_from(sorted(OPTIONS)), max_size=5), st.sampled_from([None, "tools", "grammar"]))
def test_no_option_vanishes(capabilities: Capabilities, names: set[str], more: str | None) -> None:
    """Each option is refused by an error, or sent, or replaced as documented, or named by a warning."""
    options: dict[str, Any] = {name: OPTIONS[name] for name in names - {"reasoning_budget"}}
    given_options = dict(options)
    if more == "tools":
        given_options["tools"] = [TOOL]
        given_options["tool_choice"] = "required"
    elif more == "grammar":
        given_options["grammar"] = {"type": "object"}
    model = ScriptedModel(valid_response, repeat=True, capabilities=capabilities, retry=False)
    try:
        with model.generate_stream("?", **given_options) as stream:
            list(stream)
    except (InvalidRequest, UnsupportedFeature):
        assert model.requests == []
        return
    warned_of = {warning.feature for warning in stream.message.warnings}
    sent = model.requests[0]
    for name, value in options.items():
        if name == "stop_sequences":
            applied = sent.stop_sequences == ("END",)
        elif name == "reasoning_effort":  # It is sent as a budget where the model knows only budgets.
            applied = sent.parameters.get(name) == value or "reasoning_budget" in sent.parameters
        elif name == "parallel_tool_calls":  # Without tools of the service, modelport itself drops further calls.
            applied = sent.parameters.get(name) == value or not sent.tools
        else:
            applied = sent.parameters.get(name) == value
        assert applied or name in warned_of, f"{name} vanished"
        if name in {"frobnicate", "enable_thinking", "min_p", "top_k", "provider", "extra_body"}:
            assert name in capabilities.extra_parameters or name in warned_of  # type: ignore[operator]
