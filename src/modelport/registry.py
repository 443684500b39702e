"""The only place that knows the backends by name; each is imported on first use."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest

if TYPE_CHECKING:
    from modelport.model import Model

#: Entry points of this group add the backends of other packages: `name = "package.module:ModelClass"`.
GROUP = "modelport.backends"

#: Backend name -> where its class is.
BACKENDS = {
    "azure": "modelport.remote.openai.azure:AzureOpenAIServerModel",
    "huggingface": "modelport.remote.huggingface.model:InferenceClientModel",
    "bedrock": "modelport.remote.bedrock.model:AmazonBedrockServerModel",
    "litellm": "modelport.remote.litellm.model:LiteLLMModel",
    "litellm-router": "modelport.remote.litellm.router:LiteLLMRouterModel",
    "llamacpp": "modelport.local.llamacpp.model:LlamaCppModel",
    "mlx": "modelport.local.mlx.model:MLXModel",
    "transformers": "modelport.local.transformers.model:TransformersModel",
    "openai": "modelport.remote.openai.model:OpenAIServerModel",
    "vllm": "modelport.local.vllm.model:VLLMModel",
}
#: Other names of a backend's class.
CLASSES = {
    "AmazonBedrockServerModel": "bedrock",
    "AmazonBedrockModel": "bedrock",
    "LiteLLMModel": "litellm",
    "LiteLLMRouterModel": "litellm-router",
    "LlamaCppModel": "llamacpp",
    "MLXModel": "mlx",
    "TransformersModel": "transformers",
    "OpenAIServerModel": "openai",
    "OpenAIModel": "openai",
    "AzureOpenAIServerModel": "azure",
    "AzureOpenAIModel": "azure",
    "InferenceClientModel": "huggingface",
    "VLLMModel": "vllm",
}
#: Names of models that tell who has them, for a user who forgets the backend.
_FAMILIES = (
    ("gpt-*", "openai"), ("o[1-9]*", "openai"), ("chatgpt-*", "openai"), ("claude-*", "litellm/anthropic"),
    ("gemini-*", "litellm/gemini"), ("*.gguf", "llamacpp"),
)  # fmt: skip
#: Models that are made of other models.
COMPOSED = {"FallbackModel": "modelport.combine.fallback:FallbackModel"}


def backends() -> dict[str, str]:
    """Every backend by name, those of other packages included, and where its class is."""
    return {**{point.name: point.value for point in entry_points(group=GROUP)}, **BACKENDS}


def backend_class(name: str, spec: str = "") -> type[Model]:
    """The class of a backend.

    Args:
        name: Of the backend.
        spec: What the user wrote, of which it is the beginning.

    Raises:
        InvalidRequest: There is none of this name.
        MissingDependency: Its client is not installed.
    """
    known = backends()
    if name not in known:
        close = get_close_matches(name, known, 1, cutoff=0.7)
        family = next((of for pattern, of in _FAMILIES if fnmatchcase(spec or name, pattern)), None)
        if family:
            hint = f"did you mean '{family}/{spec or name}'? Write backend/model id, with a backend of"
        else:
            hint = f"did you mean {close[0]!r}? There are" if close else "write backend/model id, with a backend of"
        raise InvalidRequest(f"backend {name!r} is unknown; {hint} {', '.join(sorted(known))}")
    return _imported(known[name])


def _imported(where: str) -> type[Model]:
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def class_named(name: str) -> type[Model]:
    """The backend class of this name; nothing outside the registry is imported for it.

    Raises:
        InvalidRequest: The registry holds none.
    """
    if name in CLASSES:
        return backend_class(CLASSES[name])
    if name in COMPOSED:
        return _imported(COMPOSED[name])
    for backend, where in backends().items():
        if where.partition(":")[2] == name:
            return backend_class(backend)
    raise InvalidRequest(f"model class {name!r} is unknown; there are {', '.join(sorted(CLASSES))}")


def shared_limits_from(settings: Mapping[str, Any]) -> Any:
    """The `shared_limits` of a model that was saved."""
    from modelport.layers.redis_limits import RedisLimits

    return RedisLimits(**settings)


def load_model(spec: str, **settings: Any) -> Model:
    """A model by name.

    Args:
        spec: `backend/model id`, split at the first "/", as `openai/gpt-4o`; or a backend alone for its default model,
            as `llamacpp`.
        **settings: For the class's constructor.

    Raises:
        InvalidRequest: There is no such backend.
        MissingDependency: The backend's client is not installed; the message holds the command.
    """
    if not isinstance(spec, str) or not spec:
        raise InvalidRequest("a model is named 'backend/model id', for example 'openai/gpt-4o' or 'llamacpp'")
    name, _, model_id = spec.partition("/")
    if model_id:
        if "model_id" in settings:
            raise InvalidRequest(f"the model is named twice: {spec!r} and model_id={settings['model_id']!r}")
        settings["model_id"] = model_id
    return backend_class(name, spec)(**settings)
