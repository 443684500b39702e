"""Settings of LangChain's chat models, such as `base_url` and `model_kwargs`, as settings of modelport."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import SecretStr

from modelport.errors import InvalidRequest
from modelport.inputs.parameters import BY_ANY_NAME
from modelport.inputs.settings import check_kind
from modelport.registry import model_class
from modelport.saving import constructor_parameters
from modelport.secrets import HiddenStr

#: Names of LangChain's chat models for options of a call -> those of modelport. They are fields of `ChatOpenAI` and
#: `ChatAnthropic`: https://reference.langchain.com/python/integrations/langchain_openai/ChatOpenAI and
#: https://reference.langchain.com/python/integrations/langchain_anthropic/ChatAnthropic
_OPTIONS = {
    "request_timeout": "timeout", "default_request_timeout": "timeout", "max_tokens_to_sample": "max_tokens",
}  # fmt: skip
#: Their names for settings of the model -> those of modelport.
_MODEL_SETTINGS = {"base_url": "api_base", "max_retries": "retry", "use_responses_api": "api"}
#: Patterns of their other settings, which no service takes -> what to write.
_REFUSED = {
    "*_api_key": "write api_key",
    "*_api_base": "write base_url",
    "*_api_url": "write base_url",
    "openai_organization": "write organization",
    "http_client": "pass client to the model's class",
    "http_async_client": "pass client to the model's class",
    "http_socket_options": "leave it out",
    "openai_proxy": "set the environment variable HTTPS_PROXY",
    "stream_chunk_timeout": "write idle_timeout",
    "tiktoken_model_name": "pass custom_get_token_ids",
    "disabled_params": "leave it out: parameters that a service refuses are not sent again",
    "include_response_headers": "leave it out",
    "use_previous_response_id": "leave it out",
}


def options_from(settings: Mapping[str, Any], known: Collection[str] = ()) -> dict[str, Any]:
    """Return settings with the names of modelport for options of a call.

    Args:
        settings: The settings with names of modelport or of LangChain.
        known: Names that the model's class has itself, which are not changed.

    Raises:
        InvalidRequest: A setting is one of LangChain that modelport does not have, or two set the same.
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if name in known or name in BY_ANY_NAME:
            _set(result, name, value, name)
        elif name == "model_kwargs":  # Further parameters of the request.
            check_kind(Mapping, model_kwargs=value)
            for key, item in options_from(value or {}, known).items():
                _set(result, key, item, name)
        elif name == "stream_usage":
            if value is not None and value is not True:
                text = "modelport always asks for the token counts of a stream, if the service takes it: leave it out"
                raise InvalidRequest(f"stream_usage={value!r}: {text}")
        elif advice := next((text for pattern, text in _REFUSED.items() if fnmatchcase(name, pattern)), None):
            raise InvalidRequest(f"{name!r} is a setting of another chat model of LangChain: {advice}")
        else:
            _set(result, _OPTIONS.get(name, name), value, name)
    return result


def call_options_from(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call with the names of modelport; see `options_from`.

    Raises:
        InvalidRequest: A setting is one of the model, or see `options_from`.
    """
    if given := next((name for name in _MODEL_SETTINGS if name in kwargs), None):
        raise InvalidRequest(f"a call can't change {given!r}: pass it to the constructor")
    return options_from(kwargs)


def model_settings_from(spec: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings for `load_model(spec, …)`.

    Raises:
        InvalidRequest: No backend has this name, or a setting is wrong.
    """
    known = constructor_parameters(model_class(spec.partition("/")[0], spec))
    result: dict[str, Any] = {}
    for name, value in options_from(settings, known).items():
        if isinstance(value, SecretStr):
            value = HiddenStr(value.get_secret_value())
        if name == "max_retries":
            value = _attempts(value)
        elif name == "use_responses_api":
            if "api" not in known:
                if value:
                    raise InvalidRequest(f"use_responses_api={value!r}: models of {spec!r} have no Responses API")
                continue
            check_kind(bool, use_responses_api=value)
            value = "responses" if value else "chat"
        _set(result, _MODEL_SETTINGS.get(name, name), value, name)
    return result


def _attempts(max_retries: Any) -> int:
    if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
        raise InvalidRequest(f"max_retries={max_retries!r}: must be an integer of at least 0")
    return max_retries + 1


def _set(result: dict[str, Any], name: str, value: Any, given: str) -> None:
    if name in result:
        raise InvalidRequest(f"{given!r} and another setting both set {name!r}: pass one of them")
    result[name] = value
