"""Target: tool objects of other libraries, whose attributes are wrong, raise, or exist whatever their name."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from modelport.errors import InvalidRequest
from modelport.testing import ScriptedModel
from tests.fuzz.junk import junk, mutated
from tests.fuzz.target import Target

_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
_ATTRIBUTES = {
    "name": "get_weather", "description": "d", "inputs": {"a": {"type": "string", "nullable": True}},
    "inputSchema": _SCHEMA, "input_schema": _SCHEMA, "args_schema": _SCHEMA, "tool_call_schema": _SCHEMA,
    "__signature__": None, "__name__": "f", "__doc__": "Args:\n    a: What.", "__annotations__": {"a": "int"},
}  # fmt: skip
_NAMES = st.sets(st.sampled_from(sorted(_ATTRIBUTES)), min_size=1)
_OTHERS = st.sampled_from(("missing", "missing", "raise", "exist", "recurse"))


class HostileTool:
    """An object with these attributes.

    Args:
        values: Attributes and their values. A value that is an exception is raised.
        others: What other attributes do: they are `missing`, `raise`, `exist`, or `recurse`.
    """

    def __init__(self, values: dict[str, Any], others: str) -> None:
        self.values, self.others = values, others

    def __getattribute__(self, name: str) -> Any:
        values, others = object.__getattribute__(self, "__dict__").values()
        if name in values:
            if isinstance(values[name], Exception):
                raise values[name]
            return values[name]
        if others == "raise":
            raise RuntimeError(name)
        if others == "recurse":
            return getattr(self, name)
        if others == "exist":
            return self
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        return "a hostile tool"


class _CallableTool(HostileTool):
    def __call__(self, a: int) -> None: ...


#: Placeholders for attributes whose values hypothesis could not print.
_RAISES = {"@raises@": RuntimeError("no"), "@recurses@": RecursionError("no"), "@hostile@": HostileTool({}, "raise")}


@st.composite
def _tools(draw: st.DrawFn) -> tuple[str, Any, str]:
    """Draw a kind of a tool, its attributes, and what other attributes do."""
    values = draw(mutated(_ATTRIBUTES))
    if draw(st.integers(0, 9)) == 0 or not isinstance(values, dict):
        return "value", draw(junk), "missing"
    kept = draw(_NAMES)
    attributes = {name: value for name, value in values.items() if name in kept}
    for name in draw(st.sets(st.sampled_from(sorted(kept)), max_size=1)):
        attributes[name] = draw(st.sampled_from(sorted(_RAISES)))
    return draw(st.sampled_from(("object", "function", "value"))), attributes, draw(_OTHERS)


def _play(drawn: tuple[str, Any, str]) -> Any:
    kind, attributes, others = drawn
    tool: Any = attributes
    if kind != "value":
        values = {name: _RAISES.get(value, value) if isinstance(value, str) else value
                  for name, value in attributes.items()}  # fmt: skip
        tool = (HostileTool if kind == "object" else _CallableTool)(values, others)
    model = ScriptedModel("The answer.", retry=False)
    try:
        return model.generate("hi", tools=[tool])
    except InvalidRequest as error:
        assert "tools[0]" in str(error), "an error does not name the tool"
        raise


TOOL_OBJECTS = {"callers: tools of other libraries": Target(_tools(), _play)}
