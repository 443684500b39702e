"""Loads saved agents of smolagents that have a model of modelport.

Import this module before the agent is loaded. Nothing else is needed: agents can use and save such models anyway.

Examples:
    >>> import modelport.integrations.smolagents
    >>> from smolagents import CodeAgent
    >>> agent = CodeAgent.from_folder("my_agent")

A model class of your own has to be added to smolagents' table of classes, as smolagents requires it for its own
subclasses: `smolagents.models.MODEL_REGISTRY["MyModel"] = MyModel`.
"""

from __future__ import annotations

from typing import Any

import smolagents.models
from smolagents.agents import MultiStepAgent

from modelport.model import Model

#: The name under which smolagents finds `Model`. A saved agent has the name of the model's class, which smolagents does
#: not know, or which is a class of its own.
_NAME = "ModelOfModelport"
#: The classes by name. The table exists since smolagents 1.25. Older versions look a name up in the module.
_CLASSES: dict[str, Any] = getattr(smolagents.models, "MODEL_REGISTRY", vars(smolagents.models))
_from_dict = MultiStepAgent.from_dict.__func__
_from_dict = getattr(_from_dict, "original", _from_dict)  # If this module is loaded again, as in a notebook.


def _load_agent(cls: type[Any], /, agent_dict: dict[str, Any], **kwargs: Any) -> Any:
    """Do the same as smolagents' `from_dict`, also if the agent has a model of modelport."""
    # Only data that `Model.to_dict` of modelport returned has the name of the class.
    data = agent_dict["model"]["data"]
    if isinstance(data, dict) and isinstance(data.get("class"), str):
        own = _CLASSES.get(data["class"])
        is_own = isinstance(own, type) and issubclass(own, Model)
        agent_dict = {**agent_dict, "model": {"class": data["class"] if is_own else _NAME, "data": data}}
    return _from_dict(cls, agent_dict, **kwargs)


_load_agent.original = _from_dict  # type: ignore[attr-defined]
_CLASSES[_NAME] = Model
MultiStepAgent.from_dict = classmethod(_load_agent)
