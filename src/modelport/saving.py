"""`Storable`: converts a model to a dict of its settings, and restores a model from such a dict.

`to_dict` returns the name of the model's class and the settings that differ from their defaults. API keys are never in
this dict. `from_dict` calls the class with the settings. Since the dict may come from an untrusted source, `from_dict`
imports nothing that the dict names, and refuses settings that could make an engine run code, listen on the network or
read a file: what is passed to an engine or a client as a whole has a list of the names that are accepted.
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
from modelport.inputs.parameters import BY_ANY_NAME
from modelport.inputs.spelling import did_you_mean, similar_names
from modelport.secrets import SCHEMA_SETTINGS, Secret, hides_secrets, names_secret
from modelport.types.capabilities import Capabilities
from modelport.types.output_types import JSONSchema

#: What `from_dict` and `to_dict` say about a setting that is not in the list of its class.
_REFUSED = (
    "{}: this is not among the settings that data may have; others could run code, listen on the network, switch off "
    "TLS or read a file. Is it misspelt? If you trust whoever wrote the data, pass from_dict(data, "
    "trust_remote_code=True)"
)
#: Constructor parameters -> the attribute with their value, where its name differs from the parameter's.
_ATTRIBUTES = {"capabilities": "_given_capabilities"}


class Storable:
    """The base class of `Model` with the methods that save a model's settings and restore a model from them.

    The settings are the named parameters of the constructor, whose values are attributes of the same name, and all
    other keyword arguments of the constructor, which are in `kwargs`.
    """

    #: The constructor's keyword arguments (`**parameters`) that are not named parameters. `Model.__init__` sets it.
    kwargs: Mapping[str, Any] = {}
    #: The settings that are API keys. `to_dict` writes `{"env": <name of the environment variable>}` for them.
    secret_settings: ClassVar[frozenset[str]] = frozenset()
    #: Settings, at any depth, that may name code to run: a pattern of the setting's name (see `fnmatch`) -> a function
    #: that returns whether a value names code. `from_dict` refuses such values. The patterns of a class are checked in
    #: addition to those of its base classes.
    code_settings: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "*_class": bool, "*_cls": bool, "*_module_path": bool, "*_plugin": bool, "*trust_remote_code": bool,
    }  # fmt: skip

    #: Settings that are passed to an engine or a client as a whole -> the names in them that `from_dict` accepts. Names
    #: that could run code, import it, listen on the network or name a path are not among them. The path of a setting
    #: may have several parts (`model_list.litellm_params`), of which `*` means all values of a dict; a list on the way
    #: stands for all its items.
    saved_fields: ClassVar[Mapping[str, frozenset[str]]] = {}
    #: Paths of settings at which saved data may only have strings, the names of models, although the constructor
    #: accepts dicts of settings too. The paths of a class are checked in addition to those of its base classes.
    saved_names: ClassVar[frozenset[str]] = frozenset()
    #: Paths of settings that saved data may only have as `{"env": <name of an environment variable>}`. The paths of a
    #: class are checked in addition to those of its base classes.
    saved_variables: ClassVar[frozenset[str]] = frozenset({"shared_limits.url"})
    #: The keyword arguments (`**parameters`) that `from_dict` accepts beside known options; `None` for all, because
    #: they are only sent to a service.
    saved_parameters: ClassVar[frozenset[str] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isfunction(cls.__dict__.get("__init__")):
            # A traceback with local variables would otherwise show a key that was passed to a constructor that raises.
            cls.__init__ = hides_secrets(cls.__init__)  # type: ignore[method-assign]

    def to_dict(self, *, trust_remote_code: bool = False) -> dict[str, Any]:
        """Return the name of the class and its settings as a dict of JSON types; see `Model.to_dict`."""
        result: dict[str, Any] = {"class": type(self).__name__}
        for name, default in constructor_parameters(type(self)).items():
            value = getattr(self, _ATTRIBUTES.get(name, name), default)
            if value is not default and value != default:
                result[name] = _as_json(self, name, value, trust_remote_code)
        for name, value in self.kwargs.items():
            result[name] = _as_json(self, name, value, trust_remote_code)
        if not trust_remote_code:
            try:
                _refuse_untrusted({name: value for name, value in result.items() if name != "class"}, type(self))
            except InvalidRequest as error:
                raise TypeError(f"{self!r}: {error.message}, and to_dict(trust_remote_code=True)") from None
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust_remote_code: bool = False) -> Self:
        """Return a model with the settings in the dict that `to_dict` returned.

        Args:
            data: The dict. Its `class` is the name of a model class that modelport or an installed backend has; without
                `class`, the class is the one on which `from_dict` is called. Check a dict from another person before
                you use it, because its `api_base` decides to which server your API key is sent.
            trust_remote_code: Whether the dict may have settings that make an engine run code, such as the code in a
                model's repository, and other settings of an engine or a client that could do harm. By default such a
                dict is refused.

        Raises:
            InvalidRequest: The dict does not describe a model of this class, or it has a setting that runs code and is
                not trusted.
            AuthenticationError: The model needs its API key when it is made, and there is none.
        """
        from modelport.registry import class_named  # It is imported here, because few programs restore models.

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
        try:
            if not trust_remote_code:
                _refuse_untrusted(settings, target)
        except RecursionError:
            raise InvalidRequest("the data is nested too deeply") from None
        for key in target.secret_settings & set(settings):
            if isinstance(settings[key], Mapping):
                settings[key] = _saved_secret(key, settings[key])
        try:
            return target._restore(settings, trust_remote_code)
        except RecursionError:
            raise InvalidRequest("the data is nested too deeply") from None
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            why = error if isinstance(error, TypeError) else type(error).__name__  # Other errors may quote an API key.
            raise InvalidRequest(f"the data does not describe a {name}: {why}") from error

    @classmethod
    def _restore(cls, settings: dict[str, Any], trust_remote_code: bool) -> Self:
        """Return a model with these settings, which `from_dict` has checked. Subclasses may override it."""
        return cls(**settings)

    def _refuse_secrets(self) -> None:
        """Check that no setting contains a secret as plain text, before the model is pickled.

        A `Secret` is allowed, because only the name of its environment variable is pickled.

        Raises:
            TypeError: A setting contains a secret as plain text.
        """
        names = constructor_parameters(type(self))
        settings = {name: getattr(self, _ATTRIBUTES.get(name, name), None) for name in names}
        for name, value in {**settings, **self.kwargs}.items():
            _refuse_secret(self, name, value)


def _saved_secret(name: str, value: Mapping[str, Any]) -> Secret:
    env, optional = value.get("env"), value.get("optional", False)
    if not _names_variable(value) or not isinstance(env, str | None) or not isinstance(optional, bool):
        raise InvalidRequest(f"{name}: the data must name an environment variable here, as {{'env': 'MY_KEY'}}")
    return Secret.restored(env, optional)


def _names_variable(value: Mapping[str, Any]) -> bool:
    """Return whether a dict is the form in which a `Secret` is saved; see `Secret.to_dict`."""
    return {"env"} <= set(value) <= {"env", "optional"}


def _refuse_untrusted(settings: Mapping[str, Any], cls: type[Storable]) -> None:
    """Check that a stranger may have written these settings of a class.

    Raises:
        InvalidRequest: A setting could do harm.
    """
    _refuse_code(settings, _code_settings(cls))
    if cls.saved_parameters is not None:
        known = constructor_parameters(cls).keys() | BY_ANY_NAME.keys() | cls.saved_parameters
        if unknown := sorted(settings.keys() - known):
            if similar := similar_names(unknown[0], known):
                raise InvalidRequest(f"{cls.__name__} has no setting {unknown[0]!r}; {did_you_mean(similar)}")
            raise InvalidRequest(_REFUSED.format(unknown[0]))
    for path, accepted in cls.saved_fields.items():
        for full_path, value in _values_at(path, settings):
            if not isinstance(value, Mapping):  # `dict()` accepts lists of pairs too.
                raise InvalidRequest(f"{full_path}: the data must have a dict here")
            if other := sorted(map(str, value.keys() - accepted)):
                raise InvalidRequest(_REFUSED.format(f"{full_path}.{other[0]}"))
    for path in _of_all_bases(cls, "saved_names"):
        for full_path, value in _values_at(path, settings):
            if not isinstance(value, str):
                raise InvalidRequest(
                    f"{full_path}: the data may only have the name of a model here, because its settings are not "
                    "checked. If you trust whoever wrote the data, pass from_dict(data, trust_remote_code=True)"
                )
    for path in _of_all_bases(cls, "saved_variables"):
        for full_path, value in _values_at(path, settings):
            if not isinstance(value, Mapping) or set(value) != {"env"} or not isinstance(value["env"], str | None):
                raise InvalidRequest(
                    f"{full_path}: the data must name an environment variable here, as {{'env': 'MY_URL'}}"
                )


def _of_all_bases(cls: type[Storable], name: str) -> list[str]:
    """Return the paths in an attribute of the class and of its base classes, sorted."""
    return sorted(frozenset().union(*(vars(base).get(name, ()) for base in cls.__mro__)))


def _values_at(path: str, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the values at a path of `saved_fields`, without `None`, each with its own path, as `model_list[0].x`.

    Raises:
        InvalidRequest: On the way to the path is a value that is neither a dict nor a list.
    """
    found: list[tuple[str, Any]] = [("", settings)]
    for part in path.split("."):
        parents, found = found, []
        for parent_path, parent in parents:
            if not isinstance(parent, Mapping):
                raise InvalidRequest(f"{parent_path}: the data must have a dict here")
            for name in parent if part == "*" else (part,):
                found += _items(f"{parent_path}.{name}" if parent_path else str(name), parent.get(name))
    return found


def _items(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return the items of a list, of lists in it, or else the value, each with its path, and without `None`."""
    if isinstance(value, list | tuple):
        return [item for n, inner in enumerate(value) for item in _items(f"{path}[{n}]", inner)]
    return [] if value is None else [(path, value)]


def _code_settings(cls: type[Storable]) -> dict[str, Callable[[Any], bool]]:
    """Return the `code_settings` of the class and of its base classes."""
    result: dict[str, Callable[[Any], bool]] = {}
    for base in reversed(cls.__mro__):
        result |= vars(base).get("code_settings", {})
    return result


def _refuse_code(value: Any, code_settings: Mapping[str, Callable[[Any], bool]], path: str = "") -> None:
    """Check that no setting, at any depth, names code to run.

    Args:
        value: The settings, or a value in them.
        code_settings: See `Storable.code_settings`.
        path: The path of `value` in the settings, for the error.

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


def _refuse_secret(model: Storable, path: str, value: Any, in_secret: bool = False) -> None:
    """Check that a value, at any depth, contains no secret as plain text. Secrets are recognised by their names.

    Args:
        model: The model, for the error.
        path: The name of the setting, followed by the path of the value in it.
        value: The value.
        in_secret: Whether the value is in a dict or a list that has the name of a secret.

    Raises:
        TypeError: The value contains a secret.
    """
    is_secret = in_secret or names_secret(path.rpartition(".")[2])
    if isinstance(value, str | bytes):
        if value and is_secret:
            raise TypeError(f"{model!r}: {path} is a secret, and can't be stored; give it at run time")
        if isinstance(value, str) and "@" in value:
            _refuse_password(model, path, value)
    elif isinstance(value, Mapping):
        # `{"env": <name>}` is how a `Secret` is stored; it contains no secret. Neither does a JSON schema, although a
        # property in it may be named `token`.
        is_secret = is_secret and not _names_variable(value) and SCHEMA_SETTINGS.isdisjoint(re.split(r"[.\[]", path))
        for key, item in value.items():
            _refuse_secret(model, f"{path}.{key}", item, in_secret=is_secret)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_secret(model, f"{path}[{number}]", item, in_secret=is_secret)


def _refuse_password(model: Storable, path: str, value: str) -> None:
    """Raise `TypeError` if the value is a URL that contains a password."""
    from urllib.parse import urlsplit  # It is imported here, because few programs save models.

    try:
        password = urlsplit(value).password
    except ValueError:
        return
    if password:
        raise TypeError(f"{model!r}: {path} holds a password, and can't be stored; give it at run time")


def constructor_parameters(cls: type[Storable], of_all_bases: bool = False) -> dict[str, Any]:
    """Return the named parameters of the constructor with their defaults.

    If the constructor has `**kwargs`, it passes them to that of its base class, whose parameters are included.

    Args:
        cls: The class.
        of_all_bases: Whether to include the parameters of all base classes, even if they can't be passed.
    """
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
        if not of_all_bases and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return result


def _as_json(model: Storable, path: str, value: Any, trust_remote_code: bool) -> Any:
    """Return the value of a setting as JSON types.

    Args:
        model: The model, for the error.
        path: The name of the setting, followed by the path of the value in it.
        value: The value.
        trust_remote_code: See `Model.to_dict`.

    Raises:
        TypeError: The value contains a secret, or an object that has no JSON form.
    """
    if isinstance(value, Secret):
        return value.to_dict()
    _refuse_secret(model, path, value)
    if isinstance(value, Storable):  # A model of a `FallbackModel`.
        return value.to_dict(trust_remote_code=trust_remote_code)
    if isinstance(value, JSONSchema) and value.type is not None:
        raise _not_stored(model, path, value.type)
    if not isinstance(value, type) and callable(getattr(value, "to_dict", None)):
        return value.to_dict()
    if isinstance(value, Mapping) and path == "capabilities":
        all_capabilities = Capabilities().replace(**value).to_dict()
        return {key: all_capabilities[key] for key in value}
    if isinstance(value, Mapping):
        value = {str(key): _as_json(model, f"{path}.{key}", item, trust_remote_code) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        value = [_as_json(model, f"{path}[{number}]", item, trust_remote_code) for number, item in enumerate(value)]
    elif is_dataclass(value) and not isinstance(value, type):
        value = {
            f.name: _as_json(model, f"{path}.{f.name}", item, trust_remote_code)
            for f in fields(value)
            if (item := getattr(value, f.name)) != (f.default if f.default is not MISSING else None)
        }
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise _not_stored(model, path, value) from None


def _not_stored(model: Storable, path: str, value: Any) -> TypeError:
    """Return the error for the value of a setting that has no JSON form."""
    shown = f"the type {value.__name__}" if isinstance(value, type) else f"of the type {type(value).__name__}"
    fix = f"pass {path}= to the calls" if path in BY_ANY_NAME else "give it at run time"
    return TypeError(f"{model!r}: {path} is {shown}, which can't be stored; {fix}")
