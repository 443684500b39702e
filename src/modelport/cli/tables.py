"""The tables: what backends there are, and what a model can do."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modelport.cli.terminal import Failure, fits, is_terminal, is_utf8, rendered, write, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from modelport.model import Model
    from modelport.testing.conformance import Check, Outcome


@dataclass(frozen=True)
class Client:
    """What a backend needs to be installed.

    Args:
        modules: Top-level modules; they are looked for and not imported.
        extra: Of this package, which brings them.
        example: A model of the backend, as `-m` takes it.
    """

    modules: tuple[str, ...]
    extra: str | None
    example: str


#: By backend; those of other packages need only themselves.
CLIENTS = {
    "azure": Client(("aiohttp", "orjson"), "openai", "azure/my-deployment"),
    "huggingface": Client(("huggingface_hub", "aiohttp", "orjson"), "huggingface", "huggingface/openai/gpt-oss-20b"),
    "bedrock": Client(("boto3",), "bedrock", "bedrock/us.amazon.nova-pro-v1:0"),
    "litellm": Client(("litellm",), "litellm", "litellm/groq/llama-3.3-70b-versatile"),
    "litellm-router": Client(("litellm",), "litellm", "litellm-router/…"),
    "llamacpp": Client(("xllamacpp", "llguidance", "filelock"), "llamacpp", "llamacpp"),
    "transformers": Client(
        ("transformers", "torch", "llguidance"), "transformers", "transformers/HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    "mlx": Client(("mlx", "mlx_lm", "llguidance"), "mlx-lm", "mlx/mlx-community/Qwen3-4B-4bit"),
    "openai": Client(("aiohttp", "orjson"), "openai", "openai/gpt-4o"),
    "vllm": Client(("vllm",), "vllm", "vllm/HuggingFaceTB/SmolLM2-135M-Instruct"),
}
#: Status of an outcome: its symbol, the symbol where the terminal has only ASCII, its style.
SYMBOLS = {
    "works": ("✓", "+", "green"),
    "unsupported": ("–", "-", "dim"),
    "not checked": ("?", "?", "yellow"),
    "broken": ("✗", "x", "bold red"),
}
#: What a status means, for those that are not plain.
MEANINGS = {
    "unsupported": "the model says that it can't, and refuses a request for it",
    "not checked": "this model alone can't show it",
}
#: Where the first row ends in one of these, so would all others.
_OUT_OF_REACH = ("AuthenticationError:", "NotFoundError:", "ConnectionFailed:", "MissingDependency:")


def _client(name: str, where: str) -> Client:
    return CLIENTS.get(name) or Client((where.partition(".")[0].partition(":")[0],), None, f"{name}/…")


def backend_rows() -> list[dict[str, Any]]:
    """Every backend: its name and class, whether its client is installed, how to install it, and an example."""
    from modelport.registry import backends

    rows = []
    for name, where in sorted(backends().items()):
        client = _client(name, where)
        missing = [module for module in client.modules if find_spec(module) is None]
        rows.append(
            {
                "name": name,
                "class": where.partition(":")[2],
                "installed": not missing,
                "missing": missing,
                "install": f"pip install 'modelport[{client.extra}]'" if missing and client.extra else None,
                "example": client.example,
            }
        )
    return rows


def list_backends(as_json: bool) -> None:
    """Prints the backends."""
    rows = backend_rows()
    if as_json:
        write_json(rows)
        return
    table = _table("Backend", "Class", "Installed", "Example")
    lines = []
    for row in rows:
        found = "yes" if row["installed"] else f"no: {', '.join(row['missing'])}"
        table.add_row(row["name"], row["class"], found, f"-m {row['example']}")
        lines.append(f"{row['name']}: {row['class']}, installed: {found}\n  -m {row['example']}\n")
    if fits(table):
        write(rendered(table), styled=True)
    else:  # its cells would break in the middle of what is meant to be copied
        write("".join(lines))
    for row in rows:  # not in the table, which would break the line that is meant to be copied
        if row["install"]:
            write(f"For {row['name']}: {row['install']}\n")


def check_model(model: Model, spec: str, names: Sequence[str], form: str, settings: Iterable[str] = ()) -> bool:
    """Holds a model to the contract and prints what came of it, also where it is broken off.

    Args:
        model: The model.
        spec: What the user calls it.
        names: Of the rows to check; none for all.
        form: `table`, `json` or `report`.
        settings: The names of what the user set, for a report.

    Returns:
        Whether it broke no promise.

    Raises:
        Failure: The model can't be asked at all.
    """
    from modelport.secrets import Secret

    rows = _rows(names)
    values = (getattr(model, name, None) for name in model.secret_settings)
    keys = tuple(key.reveal() for key in values if isinstance(key, Secret) and key)
    outcomes: list[Outcome] = []
    try:
        for outcome in _watched(model, spec, rows, keys):
            outcomes.append(outcome)
            if len(outcomes) == 1 and outcome.detail.startswith(_OUT_OF_REACH):
                raise Failure(f"{spec} can't be asked. {outcome.detail}")
    finally:
        if outcomes and not outcomes[0].detail.startswith(_OUT_OF_REACH):
            _print_outcomes(model, spec, rows, form, settings, outcomes, keys)
    return all(outcome.status != "broken" for outcome in outcomes)


def _print_outcomes(
    model: Model, spec: str, rows: Sequence[Check], form: str, settings: Iterable[str], outcomes: list[Outcome],
    keys: tuple[str, ...],
) -> None:  # fmt: skip
    from modelport.cli.report import facts, markdown
    from modelport.registry import backends

    if form != "table":
        backend = spec.partition("/")[0]
        client = _client(backend, backends().get(backend, ""))
        report = facts(model, spec, client.extra, settings, outcomes, keys)
        if form == "json":
            write_json(report)
        else:
            write(markdown(report))
        return
    write(rendered(_outcome_table(outcomes)), styled=True)
    promises = {row.name: row.promise for row in rows}
    for outcome in outcomes:
        if outcome.status == "broken":
            write(f"\nBroken: {outcome.check}. {promises[outcome.check]}\n  {outcome.detail}\n")
    seen = {outcome.status for outcome in outcomes}
    if notes := [f"{status}: {meaning}" for status, meaning in MEANINGS.items() if status in seen]:
        write("\n".join(["", *notes]) + "\n")
    counts = Counter(outcome.status for outcome in outcomes)
    of = "" if len(outcomes) == len(rows) else f" ({len(outcomes)} of {len(rows)} rows)"
    write(f"{spec}: " + ", ".join(f"{status} {counts[status]}" for status in SYMBOLS if counts[status]) + f"{of}\n")


def _rows(names: Sequence[str]) -> tuple[Check, ...]:
    from modelport.testing.conformance import CHECKS

    known = {row.name: row for row in CHECKS}
    if unknown := [name for name in names if name not in known]:
        raise Failure(f"--row {unknown[0]!r} is no row of the contract; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) or CHECKS


def _watched(model: Model, spec: str, rows: tuple[Check, ...], keys: tuple[str, ...]) -> Iterable[Outcome]:
    """The outcomes as they come, with a line on standard error that says how far it is."""
    from modelport.testing.conformance import Subject, run_checks

    outcomes = run_checks(Subject(make=lambda: model, secrets=keys), rows)
    if not is_terminal(sys.stderr):
        yield from outcomes
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        for number, row in enumerate(rows, 1):
            status.update(f"{spec}: {row.name} ({number} of {len(rows)})")
            yield next(outcomes)


def _outcome_table(outcomes: Iterable[Outcome]) -> Table:
    from rich.text import Text

    table = _table("", "Promise", "Outcome", "Seconds", "Detail")
    for outcome in outcomes:
        symbol, ascii_symbol, style = SYMBOLS.get(outcome.status, ("?", "?", ""))
        table.add_row(
            Text(symbol if is_utf8(sys.stdout) else ascii_symbol, style),
            Text(outcome.check),
            Text(outcome.status, style),
            Text(f"{outcome.seconds:.1f}"),
            Text(" ".join(outcome.detail.split())),
        )
    return table


def _table(*columns: str) -> Table:
    from rich.box import ASCII, HEAVY_HEAD
    from rich.table import Table

    table = Table(header_style="bold", box=HEAVY_HEAD if is_utf8(sys.stdout) else ASCII)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column == "Seconds" else "left")
    return table
