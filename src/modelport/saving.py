"""How a model is written to a dict, and restored from it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from modelport.errors import InvalidRequest
from modelport.secrets import Secret, names_secret
from modelport.types.capabilities import Capabilities

if TYPE_CHECKING:
    from modelport.model import Model

#: Where JSON schemas stand: a property that is named `token` is none.
_SCHEMAS = frozenset({"grammar", "response_format", "tools", "tools_to_call_from"})
#: Settings of engines that name code to import, or let weights be pickles: vLLM's classes, plugins and connectors,
#: kernels of the Hub.
_CODE = re.compile(
    r"(_cls|_class|_plugin|_module_path|_backend_cls|logits_processors|custom_generate|use_kernels|trust_remote_code)$"
)
#: Those that take some values which name no code.
_CODE_VALUES: dict[str, Callable[[Any], bool]] = {
    "hf_overrides": lambda value: not isinstance(value, Mapping),
    "distributed_executor_backend": lambda value: "." in str(value),
    "backend": lambda value: "." in str(value),  # of a compilation
    "attn_implementation": lambda value: "/" in str(value),
    "weights_only": lambda value: value is False,
}
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


def restore(cls: type[Model], data: Mapping[str, Any], trust_remote_code: bool = False) -> Model:
    """The model that `settings_of` described.

    Args:
        cls: The class, or one that it comes from.
        data: Of `settings_of`, or from who knows where.
        trust_remote_code: Whether code that the data names may run.

    Raises:
        InvalidRequest: The class is unknown, or is not one of `cls`; the data names code; it describes no model.
    """
    from modelport.model import Model
    from modelport.registry import class_named, shared_limits_from

    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise InvalidRequest(f"the data must be a dict such as to_dict gave, not {type(data).__name__}")
    settings = dict(data)
    name = settings.pop("class", cls.__name__)
    if not isinstance(name, str):
        raise InvalidRequest(f"the data's 'class' must be the name of a model's class, not {type(name).__name__}")
    if name == "Model":
        raise InvalidRequest("the data has no 'class', the name of a model's class: is it what to_dict gave?")
    target = cls if name == cls.__name__ else class_named(name)
    if not issubclass(target, cls):
        raise InvalidRequest(f"the data describes a {name}, which is no {cls.__name__}; use Model.from_dict")
    if not trust_remote_code:
        _refuse_code(settings, "")
    for key in target.secret_settings & set(settings):
        if isinstance(settings[key], Mapping):
            settings[key] = Secret(env=settings[key].get("env"))
    try:
        if isinstance(settings.get("shared_limits"), Mapping):
            settings["shared_limits"] = shared_limits_from(settings["shared_limits"])
        if trust_remote_code and isinstance(models := settings.get("models"), list | tuple):
            settings["models"] = [restore(Model, one, True) if isinstance(one, Mapping) else one for one in models]
        return target(**settings)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        why = error if isinstance(error, TypeError) else type(error).__name__  # others may quote a setting
        raise InvalidRequest(f"the data does not describe a {name}: {why}") from error


def _refuse_code(value: Any, place: str) -> None:
    """Holds settings from a file against the names of what would run code that they name.

    Raises:
        InvalidRequest: One would.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            where = f"{place}.{key}" if place else str(key)
            risky = _CODE_VALUES.get(str(key))
            # `{}`, `False` and `None` ask for nothing.
            if (item and _CODE.search(str(key))) or (item is not None and risky is not None and risky(item)):
                raise InvalidRequest(
                    f"{where}: the data names code to run, which is not done for a file by itself; if you know what it "
                    "is, pass from_dict(data, trust_remote_code=True)"
                )
            _refuse_code(item, where)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_code(item, f"{place}[{number}]")


def refuse_secrets(model: Model) -> None:
    """Holds a model's settings against the names of secrets, before they are pickled as they are.

    Raises:
        TypeError: A key stands in one in the open; a `Secret` pickles as the name of its environment variable.
    """
    settings = {name: getattr(model, _ATTRIBUTES.get(name, name), None) for name in _constructor(type(model))}
    for name, value in {**settings, **model.kwargs}.items():
        _refuse_secret(model, name, value)


def _refuse_secret(model: Model, name: str, value: Any, inside: bool = False) -> None:
    """Refuses text under the name of a secret; `inside` says that it stands in a dict or a list of such a name."""
    last = name.rpartition(".")[2]
    inside = inside or names_secret(last)
    if isinstance(value, str | bytes):
        if value and inside:
            raise TypeError(f"{model!r}: {name} is a secret, and can't be stored; give it at run time")
        if isinstance(value, str) and "@" in value:
            _refuse_password(model, name, value)
    elif isinstance(value, Mapping):
        # Where a secret is found is none, nor is what a schema says of one.
        inside = inside and set(value) != {"env"} and _SCHEMAS.isdisjoint(re.split(r"[.\[]", name))
        for key, item in value.items():
            _refuse_secret(model, f"{name}.{key}", item, inside)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_secret(model, f"{name}[{number}]", item, inside)


def _refuse_password(model: Model, name: str, value: str) -> None:
    from urllib.parse import urlsplit  # Few models are saved.

    try:
        found = urlsplit(value).password
    except ValueError:
        return
    if found:
        raise TypeError(f"{model!r}: {name} holds a password, and can't be stored; give it at run time")


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
        whole = Capabilities().replace(**value).to_dict()
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
