"""How a model is written to a dict, and restored from it.

`to_dict` writes the class of a model and those settings that differ from their defaults. `from_dict` checks such a
dict, which may come from anybody, and passes the settings to the class that it names (`_restore`). No key is ever
written, nothing that the data names is imported, and data that could make an engine run code is refused.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

from modelport.errors import InvalidRequest
from modelport.secrets import Secret, names_secret
from modelport.types.capabilities import Capabilities

#: Settings that hold JSON schemas. A property of a schema that is named `token` is not a secret.
_SCHEMA_SETTINGS = frozenset({"grammar", "response_format", "tools", "tools_to_call_from"})
#: Settings that are stored in an attribute of another name.
_ATTRIBUTES = {"capabilities": "_given_capabilities"}


class Storable:
    """The part of `Model` that writes its settings and restores a model from them.

    The settings are the parameters of the constructor, each stored in an attribute of the same name, and the open
    parameters, which are stored in `kwargs`.
    """

    kwargs: Mapping[str, Any] = {}
    #: Settings that are keys. `to_dict` writes the name of an environment variable instead of a key.
    secret_settings: ClassVar[frozenset[str]] = frozenset()
    #: Settings, also inside of others, that may name code to run: a pattern of the name (as for `fnmatch`) -> whether a
    #: value names code. `from_dict` refuses such data. The table of each class is added to those of its base classes.
    code_settings: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "*_class": bool, "*_cls": bool, "*_module_path": bool, "*_plugin": bool, "*trust_remote_code": bool,
    }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the model's class and settings as a dict from which `from_dict` restores the model.

        JSON can hold the dict. Settings that have their default are left out. Keys are written as the names of
        environment variables.

        Raises:
            TypeError: A setting can't be stored, such as a client object; the message names it.
        """
        result: dict[str, Any] = {"class": type(self).__name__}
        for name, default in _constructor_parameters(type(self)).items():
            value = getattr(self, _ATTRIBUTES.get(name, name), default)
            if value is not default and value != default:
                result[name] = _as_json(self, name, value)
        for name, value in self.kwargs.items():
            result[name] = _as_json(self, name, value)
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust_remote_code: bool = False) -> Self:
        """Restore a model from the dict that `to_dict` wrote. Nothing that the data names is imported.

        Args:
            data: The dict. Its `class` is the name of a class of the registry; without it, the model is of this class.
                Whoever wrote the data chooses where your keys are sent (`api_base`), so read the data of others first.
            trust_remote_code: Whether the data may make an engine run code, such as the code of a model's repository.
                By default such data is refused.

        Raises:
            InvalidRequest: The data describes no model, or a model of another class, or would run code.
        """
        from modelport.registry import class_named  # Few programs restore models.

        if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
            raise InvalidRequest(f"the data must be a dict that to_dict wrote, not {type(data).__name__}")
        settings = dict(data)
        name = settings.pop("class", cls.__name__)
        if not isinstance(name, str):
            raise InvalidRequest(f"the data's 'class' must be the name of a model class, not {type(name).__name__}")
        if name == "Model":
            raise InvalidRequest("the data has no 'class', the name of a model class: did to_dict write it?")
        target = cls if name == cls.__name__ else class_named(name)
        if not issubclass(target, cls):
            raise InvalidRequest(f"the data describes a {name}, which is no {cls.__name__}; use Model.from_dict")
        if not trust_remote_code:
            _refuse_code(settings, _code_settings(target))
        for key in target.secret_settings & set(settings):
            if isinstance(settings[key], Mapping):
                settings[key] = Secret(env=settings[key].get("env"))
        try:
            return target._restore(settings, trust_remote_code)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            why = error if isinstance(error, TypeError) else type(error).__name__  # The text of others may hold a key.
            raise InvalidRequest(f"the data does not describe a {name}: {why}") from error

    @classmethod
    def _restore(cls, settings: dict[str, Any], trust_remote_code: bool) -> Self:
        """Return a model with these settings, which `from_dict` has checked."""
        return cls(**settings)

    def _refuse_secrets(self) -> None:
        """Refuse to pickle settings that hold a key as plain text.

        A `Secret` pickles as the name of its environment variable.

        Raises:
            TypeError: A setting holds a key.
        """
        names = _constructor_parameters(type(self))
        settings = {name: getattr(self, _ATTRIBUTES.get(name, name), None) for name in names}
        for name, value in {**settings, **self.kwargs}.items():
            _refuse_secret(self, name, value)


def _code_settings(cls: type[Storable]) -> dict[str, Callable[[Any], bool]]:
    """Return the `code_settings` of the class and of its base classes."""
    result: dict[str, Callable[[Any], bool]] = {}
    for base in reversed(cls.__mro__):
        result |= vars(base).get("code_settings", {})
    return result


def _refuse_code(value: Any, code_settings: Mapping[str, Callable[[Any], bool]], path: str = "") -> None:
    """Refuse settings that name code to run, at any depth.

    Raises:
        InvalidRequest: A setting names code.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            item_path = f"{path}.{key}" if path else str(key)
            if any(
                fnmatchcase(str(key), pattern) and names_code(item) for pattern, names_code in code_settings.items()
            ):
                raise InvalidRequest(
                    f"{item_path}: the data names code to run, which is refused by default; if you trust whoever wrote "
                    "the data, pass from_dict(data, trust_remote_code=True)"
                )
            _refuse_code(item, code_settings, item_path)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_code(item, code_settings, f"{path}[{number}]")


def _refuse_secret(model: Storable, path: str, value: Any, secret: bool = False) -> None:
    """Refuse text under the name of a secret.

    Args:
        model: The model, for the error.
        path: The setting, and where in it the value is.
        value: The value.
        secret: Whether the value is in a dict or a list whose name is that of a secret.
    """
    secret = secret or names_secret(path.rpartition(".")[2])
    if isinstance(value, str | bytes):
        if value and secret:
            raise TypeError(f"{model!r}: {path} is a secret, and can't be stored; give it at run time")
        if isinstance(value, str) and "@" in value:
            _refuse_password(model, path, value)
    elif isinstance(value, Mapping):
        # The name of an environment variable is no secret, and neither are the properties of a schema.
        secret = secret and set(value) != {"env"} and _SCHEMA_SETTINGS.isdisjoint(re.split(r"[.\[]", path))
        for key, item in value.items():
            _refuse_secret(model, f"{path}.{key}", item, secret)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_secret(model, f"{path}[{number}]", item, secret)


def _refuse_password(model: Storable, path: str, value: str) -> None:
    """Refuse a URL with a password."""
    from urllib.parse import urlsplit  # Few programs save models.

    try:
        password = urlsplit(value).password
    except ValueError:
        return
    if password:
        raise TypeError(f"{model!r}: {path} holds a password, and can't be stored; give it at run time")


def _constructor_parameters(cls: type[Storable]) -> dict[str, Any]:
    """Return the parameters of the constructor with their defaults, also of the base classes that get its **kwargs."""
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


def _as_json(model: Storable, path: str, value: Any) -> Any:
    """Return a setting in a form that JSON can hold.

    Raises:
        TypeError: The setting holds a secret, or an object that can't be written.
    """
    if isinstance(value, Secret):
        return {"env": value.env}
    _refuse_secret(model, path, value)
    if isinstance(value, Capabilities) or callable(getattr(value, "to_dict", None)):
        return value.to_dict()  # Inner models have a `to_dict` too.
    if isinstance(value, Mapping) and path == "capabilities":
        all_capabilities = Capabilities().replace(**value).to_dict()
        return {key: all_capabilities[key] for key in value}
    if isinstance(value, Mapping):
        value = {str(key): _as_json(model, f"{path}.{key}", item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        value = [_as_json(model, f"{path}[{number}]", item) for number, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        value = {
            f.name: _as_json(model, f"{path}.{f.name}", item)
            for f in fields(value)
            if (item := getattr(value, f.name)) != (f.default if f.default is not MISSING else None)
        }
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise TypeError(
            f"{model!r}: {path} is {type(value).__name__}, which can't be stored; give it at run time"
        ) from None
