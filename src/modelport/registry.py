"""The backends by name. Each is imported when it is first used.

No other module knows the backends. Other packages add backends through entry points of the group `modelport.backends`.
"""

from __future__ import annotations

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

#: Backend name -> the module and name of its class.
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
#: Names of the backends' classes -> the backend's name.
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
#: Patterns of model names -> the backend that serves such models: a hint for a user who leaves out the backend.
_MODEL_FAMILIES = (
    ("gpt-*", "openai"), ("o[1-9]*", "openai"), ("chatgpt-*", "openai"), ("claude-*", "litellm/anthropic"),
    ("gemini-*", "litellm/gemini"), ("*.gguf", "llamacpp"),
)  # fmt: skip
#: Models that are made of other models.
COMPOSED = {"FallbackModel": "modelport.combine.fallback:FallbackModel"}


def backends() -> dict[str, str]:
    """Return the name of every backend, also of other packages, with the module and name of its class."""
    return {**{point.name: point.value for point in entry_points(group=GROUP)}, **BACKENDS}


def backend_class(name: str, spec: str = "") -> type[Model]:
    """Return the class of a backend.

    Args:
        name: The backend's name.
        spec: What the user wrote, `backend/model id`; for the hint in the error.

    Raises:
        InvalidRequest: No backend has this name.
        MissingDependency: The backend's client is not installed.
    """
    known = backends()
    if name not in known:
        close = get_close_matches(name, known, 1, cutoff=0.7)
        for_family = [backend for pattern, backend in _MODEL_FAMILIES if fnmatchcase(spec or name, pattern)]
        if for_family:
            hint = f"did you mean '{for_family[0]}/{spec or name}'? Write backend/model id, with a backend of"
        else:
            hint = f"did you mean {close[0]!r}? There are" if close else "write backend/model id, with a backend of"
        raise InvalidRequest(f"backend {name!r} is unknown; {hint} {', '.join(sorted(known))}")
    return _import_class(known[name])


def _import_class(path: str) -> type[Model]:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def class_named(name: str) -> type[Model]:
    """Return the model class of this name. Nothing outside of the registry is imported.

    Raises:
        InvalidRequest: The registry has no class of this name.
    """
    if name in CLASSES:
        return backend_class(CLASSES[name])
    if name in COMPOSED:
        return _import_class(COMPOSED[name])
    for backend, path in backends().items():
        if path.partition(":")[2] == name:
            return backend_class(backend)
    raise InvalidRequest(f"model class {name!r} is unknown; there are {', '.join(sorted(CLASSES))}")


def load_model(spec: str, **settings: Any) -> Model:
    """Make a model by name.

    Args:
        spec: `backend/model id`, split at the first "/", as `openai/gpt-4o`; or a backend alone for its default model,
            as `llamacpp`.
        **settings: Settings for the constructor of the backend's class.

    Raises:
        InvalidRequest: No backend has this name.
        MissingDependency: The backend's client is not installed; the message holds the command that installs it.
    """
    if not isinstance(spec, str) or not spec:
        raise InvalidRequest("a model is named 'backend/model id', for example 'openai/gpt-4o' or 'llamacpp'")
    name, _, model_id = spec.partition("/")
    if model_id:
        if "model_id" in settings:
            raise InvalidRequest(f"the model id is given twice: {spec!r} and model_id={settings['model_id']!r}")
        settings["model_id"] = model_id
    return backend_class(name, spec)(**settings)
