"""`modelport models BACKEND`: the models that a service offers."""

from __future__ import annotations

from typing import Any

from modelport.cli.options import open_model
from modelport.cli.tables import new_table
from modelport.cli.terminal import CommandError, fits_terminal, print_json, print_output, printable, render_table

#: A model ID for the constructor, which needs one. It is not sent.
_NO_MODEL = "none"


def print_service_models(spec: str, settings: dict[str, Any], api_base: str | None, as_json: bool) -> None:
    """Ask a service for its models, and print them by their names for `-m`, sorted.

    Args:
        spec: The name of the backend or the provider. A model ID behind it is ignored.
        settings: Arguments for the model's constructor.
        api_base: The base URL of the service; `None` for the backend's default.
        as_json: Whether to print JSON instead of a table.

    Raises:
        CommandError: The backend has no service that could list models.
        ModelError: The service does not list its models, or the request failed.
    """
    from modelport.registry import model_class
    from modelport.runtime.portal import run

    name = spec.partition("/")[0]
    cls = model_class(name)
    if not hasattr(cls, "list_models"):
        raise CommandError(
            f"{name} can't list its models: {cls.__name__} asks no service for them"
            + (". See https://huggingface.co/models" if cls.__module__.startswith("modelport.local") else "")
        )
    with open_model(f"{name}/{_NO_MODEL}", settings, api_base) as model:
        listed = sorted(run(model.list_models()), key=lambda one: one.id)  # type: ignore[attr-defined]
    if as_json:
        print_json([{"id": m.id, "owner": m.owner, "context_length": m.context_length} for m in listed])
        return
    if not listed:
        print_output(f"{name} lists no models.\n")
        return
    table = new_table("Model", "Owner", "Context")
    lines = []
    for one in listed:
        length = "" if one.context_length is None else f"{one.context_length:,}"
        table.add_row(f"{name}/{printable(one.id)}", printable(one.owner or ""), length)
        lines.append(f"{name}/{printable(one.id)}\n")
    # In a narrow table, the names would be wrapped and could not be copied.
    print_output(render_table(table) if fits_terminal(table) else "".join(lines), styled=True)
