"""The names of the backends and of their classes, and `load_model`. A class is imported when it is first used.

Other Python packages can add backends through entry points of the group `modelport.backends`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest
from modelport.providers import PROVIDER_NAMES, PROVIDERS, Provider
from modelport.secrets import Secret, hide_secrets

if TYPE_CHECKING:
    from modelport.model import Model

#: The entry points by which other packages add backends. Each is declared as `name = "package.module:ModelClass"`.
ENTRY_POINT_GROUP = "modelport.backends"

#: The name of a backend -> the module and the name of its class.
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
#: The name of a model class, or of an alias of it -> the name of its backend.
BACKENDS_BY_CLASS = {
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
#: Patterns of model names, each with the prefix that is missing. The error message suggests it to a user who wrote
#: `gpt-4o` instead of `openai/gpt-4o`.
_PREFIXES_BY_MODEL_NAME = (
    ("gpt-*", "openai"), ("o[1-9]*", "openai"), ("chatgpt-*", "openai"), ("claude-*", "anthropic"),
    ("gemini-*", "gemini"), ("grok-*", "xai"), ("*.gguf", "llamacpp"),
)  # fmt: skip
#: Classes of models that combine other models -> the module and the name of the class. They are not backends.
COMPOSED = {"FallbackModel": "modelport.combine.fallback:FallbackModel"}


def backends() -> dict[str, str]:
    """Return all backends, including those of other packages: name -> the module and the name of the class."""
    return {**{point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}, **BACKENDS}


def backend_class(name: str, spec: str = "") -> type[Model]:
    """Return the class of a backend.

    Args:
        name: The backend's name.
        spec: What the user wrote (`backend/model id`), from which the error message derives its suggestion.

    Raises:
        InvalidRequest: No backend has this name, or the backend's entry point names a class that does not exist.
        MissingDependency: The backend's client is not installed.
    """
    known = backends()
    if name not in known:
        raise _unknown_backend(name, spec or name, {*known, *PROVIDER_NAMES})
    return _import_class(known[name])


def _unknown_backend(name: str, spec: str, known: set[str]) -> InvalidRequest:
    """Return the error for a name that is neither that of a backend nor that of a provider."""
    close = get_close_matches(name.lower(), known, 3, cutoff=0.7)
    prefixes = [prefix for pattern, prefix in _PREFIXES_BY_MODEL_NAME if fnmatchcase(spec, pattern)]
    if prefixes:
        return InvalidRequest(
            f"backend {name!r} is unknown; did you mean '{prefixes[0]}/{spec}'? Write backend/model id, with a backend "
            f"of {', '.join(sorted(known))}"
        )
    before, colon, after = spec.partition(":")
    if colon and before in known:
        close = [f"{before}/{after}"]
    model_id = spec.partition("/")[2] or spec  # Without a slash, it can be the name of a model.
    ways = (
        f"For a model of LiteLLM, write 'litellm/{spec}'. For any server with OpenAI's API, write "
        f"'openai/{model_id}' and pass its address as api_base"
    )
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(sorted(known))}."
    return InvalidRequest(
        f"backend {name!r} is unknown; {hint} {ways}",
        hint=f"On the command line: -m openai/{model_id} --api-base URL.",
    )


def _import_class(path: str) -> type[Model]:
    """Return the class of an entry point, `package.module:Class`.

    Raises:
        InvalidRequest: The module or the class does not exist.
    """
    module, _, attribute = path.partition(":")
    try:
        cls = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # The module exists, but it imports another module, which is missing.
        raise InvalidRequest(f"the entry point {path!r} can't be loaded: there is no module {error.name!r}") from None
    if cls is None:
        raise InvalidRequest(f"the entry point {path!r} can't be loaded: the module {module!r} has no {attribute!r}")
    return cls  # type: ignore[no-any-return]


def class_named(name: str) -> type[Model]:
    """Return the model class with this name.

    Only modules of registered backends are imported, because the name may come from untrusted data (`from_dict`).

    Raises:
        InvalidRequest: The registry has no class of this name.
    """
    if name in BACKENDS_BY_CLASS:
        return backend_class(BACKENDS_BY_CLASS[name])
    if name in COMPOSED:
        return _import_class(COMPOSED[name])
    for backend, path in backends().items():
        if path.partition(":")[2] == name:
            return backend_class(backend)
    known = sorted({*BACKENDS_BY_CLASS, *COMPOSED})
    close = get_close_matches(name[:64], known, 1, cutoff=0.7)
    hint = f"did you mean {close[0]!r}? There" if close else "there"
    raise InvalidRequest(
        f"model class {name!r} is unknown; {hint} are {', '.join(known)}. A class of your own restores its models by "
        "its own from_dict"
    )


def load_model(spec: str, **settings: Any) -> Model:
    """Return a new model of the backend or the provider that the name starts with.

    Args:
        spec: `backend/model id`, such as `openai/gpt-4o`: the backend is the part before the first slash. The name of a
            backend alone, such as `llamacpp`, means the backend's default model. Instead of a backend, `spec` may name
            a provider, such as `groq` or `ollama`, also as LiteLLM's model strings do. `modelport models` lists both.
        **settings: Settings for the constructor of the backend's class. They override those of the provider.

    Raises:
        InvalidRequest: No backend and no provider has this name.
        AuthenticationError: The key's environment variable, which the message names, is not set.
        MissingDependency: The backend's client is not installed; the message holds the command that installs it.
    """
    hide_secrets(settings)
    if not isinstance(spec, str) or not spec:
        raise InvalidRequest("a model is named 'backend/model id', for example 'openai/gpt-4o' or 'llamacpp'")
    name, _, model_id = spec.partition("/")
    if model_id:
        if "model_id" in settings:
            raise InvalidRequest(f"the model id is given twice: {spec!r} and model_id={settings['model_id']!r}")
        settings["model_id"] = model_id
    if model_id:
        settings.update(_read_litellm_id(name, model_id, settings))
    provider = provider_named(name)
    if provider is None:
        return backend_class(name, spec)(**settings)
    if not settings.get("model_id"):
        raise InvalidRequest(
            f"{name!r} names no model: write '{name}/{provider.example}', for example",
            hint=f"'modelport models {name}' lists its models.",
        )
    return backend_class(provider.backend)(**_with_provider(provider, settings))


def _read_litellm_id(name: str, model_id: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that LiteLLM's model strings write into the model ID.

    See https://docs.litellm.ai/docs/response_api and https://docs.litellm.ai/docs/providers/huggingface
    """
    if name in ("openai", "azure") and model_id.startswith("responses/"):
        return {"model_id": model_id.removeprefix("responses/"), "api": settings.get("api", "responses")}
    if name == "huggingface" and model_id.count("/") == 2 and "://" not in model_id:
        provider, _, model_id = model_id.partition("/")
        return {"model_id": model_id, "provider": settings.get("provider", provider)}
    return {}


def model_class(name: str, spec: str = "") -> type[Model]:
    """Return the class of the models of a backend or a provider; see `backend_class`."""
    provider = provider_named(name)
    return backend_class(name, spec) if provider is None else backend_class(provider.backend)


def provider_named(name: str) -> Provider | None:
    """Return the provider of this name, or `None`. It takes precedence over a backend of another package."""
    return PROVIDERS[PROVIDER_NAMES[name]] if name in PROVIDER_NAMES else None


def _with_provider(provider: Provider, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a provider's model. Those of the caller override those of the provider."""
    result = {**provider.settings, **settings}
    if provider.model_prefix:
        result["model_id"] = provider.model_prefix + result["model_id"]
    if provider.api_base is None:  # The backend finds the address and the key by the model ID.
        return result
    result.setdefault("dialect", provider.dialect)
    if result.get("api_base") is None:
        result["api_base"] = provider.api_base
    key = result.get("api_key")
    if key is None or isinstance(key, str):  # A function or a `Secret` of the caller's is used as it is.
        result["api_key"] = Secret(key, provider.key_variable, optional=not provider.needs_key)
    return result
