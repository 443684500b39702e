"""Records which parameters a service rejects, so that later requests do without them.

A backend whose class extends `ObservingModel` does the following:

1. Before it sends a request, it asks `_left_out_of` which parameters to leave out, and removes them by `_without`.
2. If the service refuses the request, it passes the error to `_observe_rejection`, and stores the result in the error's
   `profile_updated`. `Model` then runs the call once more from the start, with the changed capabilities.
3. It adds the warnings of `_add_warnings` to the last delta.

What is recorded depends on the parameter. Stop sequences, output schemas and token usage have substitutes, so the
capability is switched off. `max_tokens` gets its other name. Any other parameter is left out, with a warning. If the
service accepts two parameters, but not both, one is left out of requests that have both. The second one may also be the
tools of the request.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar

from modelport.errors import ModelError, UnsupportedFeature
from modelport.inputs.settings import ClientSetting
from modelport.model import Model
from modelport.protocols.parameter_phrases import snake_case
from modelport.remote.rejected_combinations import parameters_of_request, rejected_beside
from modelport.types.capabilities import Capabilities
from modelport.types.deltas import ChatMessageStreamDelta
from modelport.types.output_types import JSONSchema
from modelport.types.request import Request
from modelport.types.warnings import CallWarning

#: Names of parameters in the errors of services -> modelport's names.
_OTHER_NAMES = {"stop_sequences": "stop", "max_output_tokens": "max_tokens", "max_new_tokens": "max_tokens"}
_NEW_NAME = "max_completion_tokens"


class ObservingModel(Model):
    """The base class of backends that observe what their service rejects."""

    #: Whether the service may accept `max_tokens` under its new name, `max_completion_tokens`.
    has_two_names_for_max_tokens: ClassVar[bool] = True
    #: The caller's own client, set by backends that accept one.
    client: Any = ClientSetting()
    #: The capabilities after the rejections of the service; `None` before the first of them. A copy keeps them.
    _observed: Capabilities | None = None
    #: The parameters that the service has rejected. Later requests leave them out.
    _rejected_parameters: frozenset[str] = frozenset()
    #: Pairs of parameters that the service accepts only one by one. Requests with both leave the first one out.
    _rejected_pairs: frozenset[tuple[str, str]] = frozenset()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._capabilities = self._observed

    def _left_out_of(self, request: Request) -> frozenset[str]:
        """Return the parameters that a request is sent without, because the service has rejected them."""
        left_out = self._rejected_parameters
        if self._rejected_pairs:
            sent = parameters_of_request(request) - left_out
            left_out |= {name for name, other in self._rejected_pairs if {name, other} <= sent}
        return left_out

    def _without(self, request: Request, left_out: frozenset[str]) -> Request:
        """Return a request without some parameters."""
        if not left_out:
            return request
        parameters = {name: value for name, value in request.parameters.items() if name not in left_out}
        if parameters != request.parameters:
            request = request.replace(parameters=parameters)
        # "auto" is the default, which is never sent.
        return request.replace(tool_choice="auto") if "tool_choice" in left_out else request

    def _add_warnings(self, last: ChatMessageStreamDelta, request: Request, left_out: frozenset[str]) -> None:
        """Add a warning to the last delta for each parameter of the request that was left out."""
        requested = left_out & {*request.parameters, "tool_choice" if request.tools else ""}
        if requested:
            last.warnings = [*(last.warnings or ()), *(self._left_out_warning(name) for name in sorted(requested))]

    def _left_out_warning(self, name: str) -> CallWarning:
        other = next((other for pair_name, other in self._rejected_pairs if pair_name == name), None)
        together = f" together with {other}" if other and name not in self._rejected_parameters else ""
        return CallWarning(
            "left_out", name, f"{name} was left out, because {self.model_id} does not accept it{together}."
        )

    def _observe_rejection(self, error: ModelError, request: Request, left_out: frozenset[str]) -> bool:
        """Record that the service rejected a parameter, in this model's capabilities or in `_rejected_parameters`.

        If the service rejects the parameter in several concurrent calls, only the first rejection changes anything. The
        other requests were made before that change too, so the result is also `True` for them.

        Args:
            error: The rejection; its `parameter` names what the service rejected.
            request: The rejected request.
            left_out: The parameters that were left out of the request.

        Returns:
            Whether another run of the call will send the parameter no more, or send it under another name.
        """
        # The request was made for the capabilities `planned`. Another call may have changed this model's capabilities
        # since then, to `current`.
        planned, current = request.capabilities, self.capabilities
        name, sent = _own_name(error.parameter or "", planned), request.parameters.keys() - left_out
        before = current, self._rejected_parameters, self._rejected_pairs
        consequence = "later requests do not send it"
        others = rejected_beside(name, error.message, request)
        other = _own_name(error.incompatible_with, planned) if error.incompatible_with else None
        if other is not None:
            if not {name, other} <= sent:
                return False
            self._rejected_pairs |= {(name, other)}
            consequence = f"later requests do not send it together with {other!r}"
        elif name == "stop" and planned.stop and request.stop_sequences:
            self._set_observed(current.replace(stop=False))
        elif name == _NEW_NAME and planned.renamed.get("max_tokens") == _NEW_NAME and "max_tokens" in sent:
            self._rejected_parameters |= {_NEW_NAME}
            renamed = {own: wire for own, wire in current.renamed.items() if own != "max_tokens"}
            self._set_observed(current.replace(renamed=renamed))
            consequence = "later requests send it as 'max_tokens'"
        elif name == "max_tokens" and self._may_rename_max_tokens(planned):
            self._set_observed(current.replace(renamed={**current.renamed, "max_tokens": _NEW_NAME}))
            consequence = f"later requests send it as {_NEW_NAME!r}"
        elif name == "stream_options" and name not in planned.refused:
            self._set_observed(current.replace(refused=current.refused | {name}))
        elif name == "response_format" and "tools" in others and planned.grammar_with_tools:
            self._set_observed(current.replace(grammar_with_tools=False))
            consequence = "later requests do not send it together with 'tools'"
        elif name == "response_format" and request.grammar is not None and JSONSchema in planned.grammars:
            self._set_observed(current.replace(grammars=current.grammars - {JSONSchema}))
        elif isinstance(error, UnsupportedFeature):
            return False  # A library refused it before sending, as modelport does, and there is no substitute.
        elif name in sent and others:
            self._rejected_pairs |= {(name, other) for other in others}
            consequence = f"later requests do not send it together with {', '.join(map(repr, sorted(others)))}"
        elif name in sent or (name == "tool_choice" and request.tools and name not in left_out):
            self._rejected_parameters |= {name}
        else:
            return False
        if (self.capabilities, self._rejected_parameters, self._rejected_pairs) != before:
            warnings.warn(f"{self.model_id} rejects {name!r}; {consequence}", stacklevel=2)
        return True

    def _may_rename_max_tokens(self, planned: Capabilities) -> bool:
        is_tried = "max_tokens" in planned.renamed or _NEW_NAME in self._rejected_parameters
        return self.has_two_names_for_max_tokens and not is_tried

    def _declare_again(self, change: Callable[[], None]) -> None:
        """Declare the capabilities again after a change of what is known. What has been observed before still holds."""
        before, observed = self._declare().merged_with(self._given_capabilities), self.capabilities
        values = ((item.name, getattr(observed, item.name)) for item in fields(Capabilities))
        differing = {name: value for name, value in values if value != getattr(before, name)}
        change()
        self._set_observed(self._declare().merged_with(self._given_capabilities).replace(**differing))

    def _set_observed(self, capabilities: Capabilities) -> None:
        self._observed = self._capabilities = capabilities


def _own_name(name: str, capabilities: Capabilities) -> str:
    """Return modelport's name of a parameter that an error names, as `stop` for `inferenceConfig.stopSequences`."""
    if name == _NEW_NAME:
        return name
    parts = [snake_case(part) for part in name.split("[")[0].split(".")]
    if parts[0] in ("inference_config", "additional_model_request_fields") and len(parts) > 1:
        parts = parts[1:]
    for own, path in capabilities.renamed.items():
        if snake_case(path.rpartition(".")[2]) == parts[-1] and path != _NEW_NAME:
            return own
    return _OTHER_NAMES.get(parts[0], parts[0])
