"""How a model is written to a dict, and restored from it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from modelport.capabilities import Capabilities
from modelport.errors import InvalidRequest
from modelport.secrets import Secret

if TYPE_CHECKING:
    from modelport.model import Model

#: Names of headers and settings that carry keys, `_` written `-`; they are neither stored nor guessed about.
SECRET_NAMES = frozenset({
    "authorization", "proxy-authorization", "api-key", "x-api-key", "cookie", "x-goog-api-key", "token", "access-token",
    "auth-token", "hf-token", "azure-ad-token", "password", "secret", "client-secret", "aws-secret-access-key",
    "aws-session-token",
})  # fmt: skip
_ATTRIBUTES = {"capabilities": "_given_capabilities"}


def settings_of(model: Model) -> dict[str, Any]:
    """The model's class and the settings it was made with, those left at their default excepted.

    Settings are the constructor's parameters; each is kept in an attribute of its name, and the open ones in `kwargs`.

    Raises:
        TypeError: A setting can't be written as JSON.
    """
    result: dict[str, Any] = {"class": type(model).__name__}
    for name, default in _constructor(type(model)).items():
        value = getattr(model, _ATTRIBUTES.get(name, name), default)
        if value is not default and value != default:
            result[name] = _stored(model, name, value)
    for name, value in model.kwargs.items():
        result[name] = _stored(model, name, value)
    return result


#: Settings with which an engine runs code that they name, or that lies beside the weights.
_RUNS_CODE = frozenset(
    {"trust_remote_code", "worker_cls", "worker_extension_cls", "logits_processors", "custom_generate"}
)


def restore(cls: type[Model], data: Mapping[str, Any], trust_remote_code: bool = False) -> Model:
    """The model that `settings_of` described.

    Args:
        cls: What it must be a kind of.
        data: Of `settings_of`; perhaps from a file that somebody else wrote.
        trust_remote_code: Whether settings may have code run that they name.

    Raises:
        InvalidRequest: The class is unknown, or is not one of `cls`; or code would run.
    """
    from modelport.registry import class_named, shared_limits_from

    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise InvalidRequest(f"a model is restored from the dict that to_dict gave, not from {type(data).__name__}")
    if not trust_remote_code and (found := _code_in(data)):
        raise InvalidRequest(
            f"{found}: the data has the engine run code that it names; if you trust who wrote it, say "
            "from_dict(data, trust_remote_code=True)"
        )
    settings = dict(data)
    name = settings.pop("class", cls.__name__)
    if name == "Model" or not isinstance(name, str):
        raise InvalidRequest("the data has no 'class', the name of a model's class: is it what to_dict gave?")
    target = cls if name == cls.__name__ else class_named(name)
    if not issubclass(target, cls):
        raise InvalidRequest(f"the data describes a {name}, which is no {cls.__name__}; use Model.from_dict")
    for key in target.secret_settings & set(settings):
        if isinstance(settings[key], Mapping):
            settings[key] = Secret(env=settings[key].get("env"))
    if trust_remote_code and isinstance(settings.get("models"), list):  # which the model would not trust by itself
        from modelport.model import Model

        settings["models"] = [restore(Model, m, True) if isinstance(m, Mapping) else m for m in settings["models"]]
    if isinstance(settings.get("shared_limits"), Mapping):
        settings["shared_limits"] = shared_limits_from(settings["shared_limits"])
    return target(**settings)


def _code_in(value: Any, place: str = "") -> str | None:
    """Where settings have code run, if anywhere."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        where = f"{place}.{key}" if place else str(key)
        if (key in _RUNS_CODE and item) or (where := _code_in(item, where) or ""):
            return where
    return None


def refuse_secrets(model: Model) -> None:
    """Holds a model's settings against the names of secrets, before they are pickled as they are.

    Raises:
        TypeError: A key stands in one in the open; a `Secret` pickles as the name of its environment variable.
    """
    settings = {name: getattr(model, _ATTRIBUTES.get(name, name), None) for name in _constructor(type(model))}
    for name, value in {**settings, **model.kwargs}.items():
        _refuse_secret(model, name, value)


def _refuse_secret(model: Model, name: str, value: Any) -> None:
    if isinstance(value, Secret) or value is None:
        return
    if name.rpartition(".")[2].lower().replace("_", "-") in SECRET_NAMES and not callable(value):
        raise TypeError(f"{model!r}: {name} is a secret, and can't be stored; give it at run time")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_secret(model, f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_secret(model, f"{name}[{number}]", item)


def _constructor(cls: type[Model]) -> dict[str, Any]:
    """The constructor's parameters and their defaults, those of the base classes it passes **kwargs on to included."""
    result: dict[str, Any] = {}
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if not inspect.isfunction(init):
            continue
        parameters = list(inspect.signature(init).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                default = None if parameter.default is parameter.empty else parameter.default
                result.setdefault(parameter.name, default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return result


def _stored(model: Model, name: str, value: Any) -> Any:
    if isinstance(value, Secret):
        return {"env": value.env}
    _refuse_secret(model, name, value)
    if isinstance(value, Capabilities) or callable(getattr(value, "to_dict", None)):
        return value.to_dict()  # what is built of other models too
    if isinstance(value, Mapping) and name == "capabilities":
        whole = Capabilities().but(**value).to_dict()
        return {key: whole[key] for key in value}
    if isinstance(value, Mapping):
        value = {str(key): _stored(model, f"{name}.{key}", item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        value = [_stored(model, f"{name}[{number}]", item) for number, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        value = {
            f.name: _stored(model, f"{name}.{f.name}", item)
            for f in fields(value)
            if (item := getattr(value, f.name)) != (f.default if f.default is not MISSING else None)
        }
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise TypeError(
            f"{model!r}: {name} is {type(value).__name__}, which can't be stored; give it at run time"
        ) from None
