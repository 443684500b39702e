"""`ChatModelport`, a chat model of LangChain."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, field_serializer, model_validator

from modelport.errors import InvalidOutput, InvalidRequest, UnsupportedFeature
from modelport.inputs.options import normalise_options
from modelport.inputs.parameters import BY_ANY_NAME, EXCLUSIVE
from modelport.integrations.langchain.errors import shared_errors
from modelport.integrations.langchain.messages import messages_from_langchain
from modelport.integrations.langchain.responses import PROVIDER, ChunkReader, result_from
from modelport.integrations.langchain.settings import call_options_from, model_settings_from, options_from
from modelport.integrations.langchain.structured_output import KEEP_INVALID_OUTPUT, structured_output
from modelport.model import Model
from modelport.registry import load_model
from modelport.runtime.portal import SyncIteration, run
from modelport.schema.python_types import forbid_additional_properties
from modelport.secrets import HiddenStr, hide_secrets
from modelport.types.messages import ChatMessage

#: Options that LangChain reads itself.
_NOT_SENT = {"stream", KEEP_INVALID_OUTPUT}


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _hides_secrets(method: _Method) -> _Method:
    """Return a method whose options have their secrets hidden, because tracebacks may show local variables."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        hide_secrets(kwargs)
        return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


class ChatModelport(BaseChatModel):
    """A chat model of LangChain on a model of modelport.

    `bind(…)` and the methods of LangChain take the options of a call of modelport, such as `grammar` or
    `reasoning_effort`. Errors are those of modelport; where LangChain has a class of its own, they have this class too.

    Args:
        model: The model: a `Model`, or a name for `load_model`, such as `openai/gpt-4o`.
        streaming: Whether `invoke` streams the response, for callbacks that receive tokens.
        **settings: Default options of every call, such as `temperature`, `max_tokens`, `timeout` and `stop`;
            `model_kwargs` is a dict of further ones. If `model` is a name, also the settings of its class, under the
            names of modelport or of LangChain (`api_key`, `base_url`, `max_retries`, `use_responses_api`). LangChain's
            own settings, such as `callbacks`, `cache`, `rate_limiter` and `output_version`.

    Raises:
        InvalidRequest: A setting is wrong, or it is one of the model and `model` is not a name.

    Examples:
        >>> chat = ChatModelport(model="openai/gpt-4o", temperature=0)
        >>> chat.invoke("What is the capital of France?").text
    """

    model: Any
    options: dict[str, Any] = Field(default_factory=dict)
    streaming: bool = False

    def __init__(self, **settings: Any) -> None:
        hide_secrets(settings)  # In this frame and in those of pydantic, which a traceback may show.
        super().__init__(**settings)

    @model_validator(mode="before")
    @classmethod
    def _collect_settings(cls, values: Any) -> Any:
        """Load a model that is given by name; otherwise collect the settings that are options of each call."""
        if not isinstance(values, dict):
            return values
        fields = {name: value for name, value in values.items() if name in cls.model_fields}
        settings = {name: value for name, value in values.items() if name not in fields and value is not None}
        settings |= fields.pop("options", None) or {}
        model = fields.get("model")
        if "model_name" in settings and model is None:
            model = settings.pop("model_name")
        if isinstance(model, str):
            return {**fields, "model": load_model(model, **model_settings_from(model, settings))}
        if isinstance(model, Mapping):  # As `to_json` writes it.
            model = Model.from_dict(model)
        if not isinstance(model, Model):
            raise InvalidRequest(f"model must be a name or a Model of modelport, not {type(model).__name__}")
        settings = options_from(settings)
        if others := sorted(settings.keys() - BY_ANY_NAME.keys()):
            raise InvalidRequest(f"{others[0]!r} is no option of a call: pass it to the constructor of the model")
        if secret := next((name for name, value in settings.items() if _redacted(value) != value), None):
            raise InvalidRequest(f"{secret!r} contains a secret: pass it to the constructor of the model")
        return {**fields, "model": model, "options": normalise_options(settings)}

    # --- calls --------------------------------------------------------------------------------------------------------

    @_hides_secrets
    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return run(self._agenerate(messages, stop, run_manager, **kwargs))

    @_hides_secrets
    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with shared_errors():
            chat, warnings = messages_from_langchain(messages)
            problem = None
            try:
                message = await self.model.agenerate(chat, **self._call_options(stop, kwargs))
            except InvalidOutput as error:
                message, problem = _invalid_output(error, kwargs), error
            return result_from(message, warnings, problem)

    @_hides_secrets
    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        chunks = SyncIteration(self._astream(messages, stop, run_manager, **kwargs))
        try:
            yield from iter(chunks.next, None)
        finally:
            chunks.close()

    @_hides_secrets
    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        reader = ChunkReader()
        with shared_errors():
            chat, warnings = messages_from_langchain(messages)
            problem = None
            async with self.model.agenerate_stream(chat, **self._call_options(stop, kwargs)) as stream:
                try:
                    async for delta in stream:
                        if (chunk := reader.chunk_from(delta)) is not None:
                            yield chunk
                    message = stream.message
                except InvalidOutput as error:
                    message, problem = _invalid_output(error, kwargs), error
            yield reader.last_chunk(message, warnings, problem, bool(kwargs.get(KEEP_INVALID_OUTPUT)))

    def _call_options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a call: those of the call override those of the constructor."""
        if "model" in kwargs:
            raise InvalidRequest("a call can't change the model: make another ChatModelport")
        given = call_options_from({name: value for name, value in kwargs.items() if name not in _NOT_SENT})
        if stop is not None:
            given["stop_sequences"] = stop
        call = normalise_options(given, self.options)
        result = {**self.options, **call}
        if not result.get("tools") and "tool_choice" not in call:
            result.pop("tool_choice", None)  # The constructor's tool choice is that of calls with tools.
        for name, excluded in EXCLUSIVE.items():
            if name in call and excluded not in call:
                result.pop(excluded, None)
        if result.get("tools") and "tool_errors" not in {**self.model.kwargs, **result}:
            result["tool_errors"] = "return"  # LangChain's agents tell the model what is wrong with a call.
        return result

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any],
        *,
        tool_choice: str | Mapping[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """Return this model with tools that it may call.

        Args:
            tools: Tools of LangChain, functions, pydantic models, TypedDicts, dicts in the formats of services, and
                every other tool that modelport accepts.
            tool_choice: `auto`, `none`, `any` (also `required` and `True`), the name of a tool, or a dict with it.
            strict: Whether the service must enforce the schemas of the arguments, if it can.
            **kwargs: Further options of the calls, such as `parallel_tool_calls`.
        """
        if tool_choice is True:
            tool_choice = "required"
        options = {"tool_choice": tool_choice} if tool_choice else {}
        return self.bind(tools=[_tool_from(tool, strict) for tool in tools], **options, **kwargs)

    def with_structured_output(
        self,
        schema: Any,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, Any]:
        """Return this model with an output type: it returns objects instead of messages.

        Args:
            schema: A pydantic model, a TypedDict, a JSON schema, or any other output type of modelport, such as a
                dataclass, an Enum, a Literal, `Regex` or `Choice`. The result is an instance of a pydantic model or a
                dataclass, and a dict for a TypedDict or a JSON schema.
            method: `json_schema` (the option `grammar` of modelport), `function_calling` (a forced tool call), or
                `json_mode` (any JSON object, which is validated afterwards).
            include_raw: Whether the result is a dict with `raw` (the message), `parsed` and `parsing_error`. Otherwise
                an output that is not valid raises an error.
            strict: With `json_schema`, `True` refuses the call unless the schema is enforced by constrained decoding.
                With `function_calling`, it asks the service to enforce the schema, if it can.
            **kwargs: Further options of the calls.
        """
        return structured_output(self, schema, method, include_raw, strict, kwargs)

    def configurable_fields(self, **kwargs: Any) -> Any:
        """Return a model whose fields a call's config can set.

        Raises:
            InvalidRequest: The field is `model`: LangChain would make the new model without the settings of this one.
        """
        if "model" in kwargs:
            raise InvalidRequest(
                "configurable_fields(model=…) would lose the settings of the model, such as base_url, api_key and "
                "temperature: use configurable_alternatives, with a ChatModelport for each model"
            )
        return super().configurable_fields(**kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, as `custom_get_token_ids` returns them.

        Raises:
            UnsupportedFeature: There is no `custom_get_token_ids`. LangChain would download the tokenizer of GPT-2.
        """
        if self.custom_get_token_ids is None:
            raise UnsupportedFeature(f"{self.model!r} returns no token ids: pass custom_get_token_ids=…")
        return list(self.custom_get_token_ids(text))

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text.

        Raises:
            UnsupportedFeature: The model has no tokenizer here, as remote models.
        """
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        if not hasattr(self.model, "count_tokens"):
            raise UnsupportedFeature(f"{self.model!r} can't count tokens: pass custom_get_token_ids=…")
        with shared_errors():
            return int(self.model.count_tokens(text))

    @property
    def model_name(self) -> str | None:
        """The name of the model (`model_id`)."""
        return self.model.model_id  # type: ignore[no-any-return]

    # --- what traces and saved files have -----------------------------------------------------------------------------

    @field_serializer("model", when_used="json")
    def _saved_model(self, model: Model) -> dict[str, Any]:
        return model.to_dict()

    @property
    def _llm_type(self) -> str:
        return PROVIDER

    @property
    def _identifying_params(self) -> dict[str, Any]:
        options = _redacted({**self.model.kwargs, **self.options})
        return {"model": self.model.model_id, "class": type(self.model).__name__, **options}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        options = {**self.model.kwargs, **self.options, **kwargs}
        params = {
            "ls_provider": PROVIDER,
            "ls_model_name": options.get("model") or self.model.model_id or type(self.model).__name__,
            "ls_model_type": "chat",
            "ls_temperature": options.get("temperature"),
            "ls_max_tokens": options.get("max_tokens"),
            "ls_stop": stop or list(options.get("stop_sequences") or options.get("stop") or ()) or None,
        }
        return {name: value for name, value in params.items() if value is not None}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The key of LangChain's cache. Calls with different secrets, such as headers with the user, are different.
        digests = _redacted(kwargs, lambda secret: hashlib.sha256(secret.encode()).hexdigest())
        if (name := _name_of_unsaved(self.model)) is not None:  # LangChain leaves its settings out.
            digests["constructor"] = (name, self.options)
        return super()._get_llm_string(stop=stop, **digests)  # type: ignore[no-any-return]

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        params: dict[str, Any] = super()._get_invocation_params(stop=stop, **kwargs)
        hide_secrets(params)
        return _redacted(params)  # type: ignore[no-any-return]

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return `True`: LangChain can save this model. API keys are not saved."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return the module in which LangChain finds this class."""
        return ["modelport", "integrations", "langchain"]

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The model as `Model.to_dict` returns it, without API keys."""
        return {"model": self.model.to_dict()}

    def to_json(self) -> Any:
        """Return the class and its settings for LangChain's `dumps`; if they can't be saved, only the name."""
        try:
            return super().to_json()
        except TypeError:  # From `Model.to_dict`: a setting is an object, such as a client.
            return self.to_json_not_implemented()


#: Models that can't be saved -> their names in the keys of caches, which no other model has.
_NAMES_OF_UNSAVED: WeakKeyDictionary[Model, str] = WeakKeyDictionary()


def _name_of_unsaved(model: Model) -> str | None:
    """Return a name for a model that can't be saved, such as one with a client; `None` for other models."""
    try:
        model.to_dict()
    except TypeError:
        return _NAMES_OF_UNSAVED.setdefault(model, uuid4().hex)
    return None


def _tool_from(tool: Any, strict: bool | None) -> Any:
    """Return a tool as a dict in OpenAI's format; a tool that LangChain does not know is returned unchanged."""
    try:
        result = convert_to_openai_tool(tool, strict=strict)
    except (ValueError, TypeError, AttributeError):
        return tool
    if not isinstance(tool, dict) and isinstance(function := result.get("function"), dict):
        parameters = forbid_additional_properties(function.get("parameters"))
        return {**result, "function": {**function, "parameters": parameters}}
    return result


def _invalid_output(error: InvalidOutput, kwargs: Mapping[str, Any]) -> ChatMessage:
    """Return the message whose output is not valid, if the caller wants it (`include_raw=True`)."""
    if kwargs.get(KEEP_INVALID_OUTPUT) and error.partial is not None:
        return error.partial
    raise error


def _redacted(value: Any, replacement: Callable[[str], str] = lambda _: "***") -> Any:
    """Return the value with `***`, or what the function returns, for each secret."""
    if isinstance(value, HiddenStr):
        return replacement(value)
    if isinstance(value, dict):
        return {key: _redacted(item, replacement) for key, item in value.items()}
    return [_redacted(item, replacement) for item in value] if isinstance(value, list) else value


# The methods of LangChain that take options of a call. Their local variables have these options.
for _name in ("bind", "invoke", "ainvoke", "stream", "astream", "batch", "abatch", "generate", "agenerate"):
    setattr(ChatModelport, _name, _hides_secrets(getattr(BaseChatModel, _name)))
