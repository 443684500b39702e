"""Checks the names of the options that modelport does not know: misspelt ones are refused, others reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.inputs.parameters import BY_ANY_NAME, KNOWN_PARAMETERS
from modelport.inputs.spelling import did_you_mean, similar_names
from modelport.inputs.vendor_parameters import services_by_parameter
from modelport.inputs.vendor_settings import NAMES_OF_OTHER_PACKAGES, setting_meant
from modelport.types.capabilities import Capabilities
from modelport.types.warnings import CallWarning

#: Options for whatever a service has beyond modelport's options. A backend accepts them, or not; it forwards none.
_ADDITIONS = frozenset({"extra_body", "extra_headers", "extra_query"})


def check_setting_names(
    class_name: str, options: Mapping[str, Any], settings: Iterable[str], capabilities: Capabilities
) -> None:
    """Check the keyword arguments of a constructor that are neither settings of the class nor known options.

    Args:
        class_name: The name of the class, for the error.
        options: The keyword arguments that are not settings, under their main names.
        settings: The names of the settings of the class.
        capabilities: What the class can do.

    Raises:
        InvalidRequest: A name is probably a misspelt setting or option.
        UnsupportedFeature: The backend accepts only known names, and this is none.
    """
    extra = capabilities.extra_parameters
    if extra is None:
        return
    for name in options:
        if name in BY_ANY_NAME or name in extra:
            continue
        if meant := setting_meant(name, settings):
            raise InvalidRequest(f"{class_name}({name}=…): {did_you_mean(meant)}", parameter=name)
        known = {*BY_ANY_NAME, *settings, *extra}
        if name not in services_by_parameter() and (similar := similar_names(name, known)):
            raise InvalidRequest(f"{class_name}({name}=…): {did_you_mean(similar)}", parameter=name)
        if not capabilities.forwards_unknown:
            raise UnsupportedFeature(
                f"{class_name}({name}=…): {name!r} is neither a setting of {class_name} nor a parameter of its engine"
                f"{_documented_by(name)}",
                parameter=name,
            )


def check_not_settings(
    class_name: str, options: Mapping[str, Any], settings: Iterable[str], capabilities: Capabilities
) -> None:
    """Check that no option of a call is a setting of the constructor, such as `api_key`.

    Args:
        class_name: The name of the class, for the error.
        options: The options of the call, under their main names.
        settings: The names of the settings of the class.
        capabilities: What the class can do.

    Raises:
        InvalidRequest: An option is a setting, and would otherwise be sent to the service.
    """
    extra = capabilities.extra_parameters
    if extra is None:
        return
    own = {*settings} - BY_ANY_NAME.keys()
    for name in options.keys() - BY_ANY_NAME.keys() - extra:
        meant = (name,) if name in own else setting_meant(name, own)
        if not meant and name not in services_by_parameter():
            meant = similar_names(name, own)
        if (
            meant
            and name not in own
            and name not in NAMES_OF_OTHER_PACKAGES
            and similar_names(name, {*BY_ANY_NAME, *extra, *own}) != meant
        ):
            continue  # It is as similar to an option, or more: `check_parameter_names` says so.
        if meant:
            raise InvalidRequest(
                f"{name!r} is no option of a call: pass it to {class_name}({meant[0]}=…)", parameter=name
            )


def check_parameter_names(parameters: Mapping[str, Any], capabilities: Capabilities) -> list[CallWarning]:
    """Check the names of a request's parameters.

    Args:
        parameters: `Request.parameters`.
        capabilities: What the backend can do.

    Returns:
        A warning for each parameter that is sent although modelport does not know whether the service uses it.

    Raises:
        InvalidRequest: A name is probably a misspelt option.
        UnsupportedFeature: The backend accepts only known names, and this is none.
    """
    extra = capabilities.extra_parameters
    if extra is None:
        return []
    warnings = []
    for name in parameters:
        if name in KNOWN_PARAMETERS or name in extra:
            continue
        if name in _ADDITIONS:
            raise UnsupportedFeature(f"this backend does not accept {name}", parameter=name)
        documented = name in BY_ANY_NAME or name in services_by_parameter()
        if not documented and (similar := similar_names(name, {*BY_ANY_NAME, *extra})):
            error = InvalidRequest(
                f"{name!r} is no option: {did_you_mean(similar)}{_advice(name, capabilities)}", parameter=name
            )
            error.other_models_may_accept = True
            raise error
        if not capabilities.forwards_unknown:
            raise UnsupportedFeature(
                f"{name!r} is not a parameter of this backend{_documented_by(name)}", parameter=name
            )
        if documented:
            text = f"{name!r} was sent, but this service is not known to accept it{_documented_by(name)}."
        else:
            text = f"{name!r} was sent unchanged, but modelport knows no such option."
        warnings.append(CallWarning("forwarded", name, f"{text}{_advice(name, capabilities)}"))
    return warnings


def _documented_by(name: str) -> str:
    titles = services_by_parameter().get(name, ())
    return f" (it is a parameter of {', '.join(titles)})" if titles else ""


def _advice(name: str, capabilities: Capabilities) -> str:
    """Return how to send a parameter that the service has, but modelport does not know."""
    if "extra_body" not in (capabilities.extra_parameters or ()):
        return ""
    return f" If the service has a parameter of this name, pass extra_body={{{name!r}: …}}."
