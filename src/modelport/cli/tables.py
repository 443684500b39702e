"""The tables of the command line: the backends (`modelport models`) and the outcomes of `modelport check`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modelport.cli.terminal import (
    CommandError,
    fits_terminal,
    is_terminal,
    is_utf8,
    print_json,
    print_output,
    printable,
    render_table,
)

if TYPE_CHECKING:
    from rich.table import Table

    from modelport.model import Model
    from modelport.testing import Check, Outcome


@dataclass(frozen=True)
class Requirements:
    """What must be installed for a backend.

    Args:
        modules: Top-level modules. They are searched for, but not imported, because some need seconds for it.
        extra: The extra that installs the modules, as `openai` in `modelport[openai]`; `None` if there is none.
        example: The name of a model of the backend, for the option `-m`.
    """

    modules: tuple[str, ...]
    extra: str | None
    example: str


#: The requirements of modelport's own backends. Backends that other Python packages register are not in it.
REQUIREMENTS = {
    "azure": Requirements(("aiohttp", "orjson"), "openai", "azure/my-deployment"),
    "huggingface": Requirements(
        ("huggingface_hub", "aiohttp", "orjson"), "huggingface", "huggingface/openai/gpt-oss-20b"
    ),
    "bedrock": Requirements(("boto3",), "bedrock", "bedrock/us.amazon.nova-pro-v1:0"),
    "litellm": Requirements(("litellm",), "litellm", "litellm/groq/llama-3.3-70b-versatile"),
    "litellm-router": Requirements(("litellm",), "litellm", "litellm-router/…"),
    "llamacpp": Requirements(("xllamacpp", "llguidance", "filelock"), "llamacpp", "llamacpp"),
    "transformers": Requirements(
        ("transformers", "torch", "llguidance"), "transformers", "transformers/HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    "mlx": Requirements(("mlx", "mlx_lm", "llguidance"), "mlx-lm", "mlx/mlx-community/Qwen3-4B-4bit"),
    "openai": Requirements(("aiohttp", "orjson"), "openai", "openai/gpt-4o"),
    "vllm": Requirements(("vllm",), "vllm", "vllm/HuggingFaceTB/SmolLM2-135M-Instruct"),
}


@dataclass(frozen=True)
class _Symbol:
    """How the table shows the status of an outcome."""

    utf8: str
    ascii: str
    style: str


#: The symbol of each status, in the order in which the counts are printed.
_SYMBOLS = {
    "passed": _Symbol("✓", "+", "green"),
    "unsupported": _Symbol("–", "-", "dim"),
    "not checked": _Symbol("?", "?", "yellow"),
    "failed": _Symbol("✗", "x", "bold red"),
}
#: Explanations of statuses, which are printed below the table.
_EXPLANATIONS = {
    "unsupported": "the model declares that it lacks the feature, and refuses a request for it if a call can make one",
    "not checked": "the check can't be decided: this command lacks something that the check needs, or the model did "
    "not do what the check needs, such as calling a tool that only the prompt describes",
}
#: How the detail of an outcome begins if the model can't be called. Every other check would fail in the same way.
_UNREACHABLE_ERRORS = ("AuthenticationError:", "NotFoundError:", "ConnectionFailed:", "MissingDependency:")


# --- backends ---------------------------------------------------------------------------------------------------------


def requirements_of(backend: str, entry_point: str) -> Requirements:
    """Return the requirements of a backend. A backend of another package requires only that package.

    Args:
        backend: The name of the backend.
        entry_point: Where the backend's class is, as `package.module:Class`.
    """
    package = entry_point.partition(".")[0].partition(":")[0]
    return REQUIREMENTS.get(backend) or Requirements((package,), None, f"{backend}/…")


def _missing_of_other_package(backend: str, entry_point: str) -> list[str]:
    """Import the class of another package's backend, and return what is missing: a module or the entry point."""
    from modelport.registry import backend_class

    try:
        backend_class(backend)
    except ModuleNotFoundError as error:
        return [error.name or entry_point]
    except Exception:  # The import may raise any exception, but the other backends must be listed.
        return [entry_point]
    return []


def list_backends() -> list[dict[str, Any]]:
    """Return a dict for each backend, with its requirements and whether they are installed."""
    from modelport.registry import backends

    entries = []
    for name, entry_point in sorted(backends().items()):
        needed = requirements_of(name, entry_point)
        missing = [module for module in needed.modules if find_spec(module) is None]
        if not missing and name not in REQUIREMENTS:
            missing = _missing_of_other_package(name, entry_point)
        entries.append(
            {
                "name": name,
                "class": entry_point.partition(":")[2],
                "installed": not missing,
                "missing": missing,
                "install": f"pip install 'modelport[{needed.extra}]'" if missing and needed.extra else None,
                "example": needed.example,
            }
        )
    return entries


def list_providers(backends: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a dict for each provider, with its key's variable and its address.

    Args:
        backends: What `list_backends` returns.
    """
    from modelport.providers import PROVIDERS

    by_name = {entry["name"]: entry for entry in backends}
    return [
        {
            **{key: by_name[provider.backend][key] for key in ("class", "installed", "missing", "install")},
            "name": name,
            "example": f"{name}/{provider.example}",
            "key_variable": provider.key_variable,
            "needs_key": provider.needs_key,
            "api_base": provider.api_base,
            "litellm_names": list(provider.litellm_names),
        }
        for name, provider in PROVIDERS.items()
        if provider.backend in by_name
    ]


def print_backends(as_json: bool) -> None:
    """Print the backends and the providers as tables, or as JSON."""
    entries = list_backends()
    providers = list_providers(entries)
    if as_json:
        print_json([*entries, *providers])
        return
    _print_backend_table(entries)
    _print_provider_table(providers)
    for entry in entries:  # The table would wrap these commands, so they are printed below it.
        if entry["install"]:
            print_output(f"For {entry['name']}: {entry['install']}\n")


def _print_provider_table(providers: Iterable[dict[str, Any]]) -> None:
    table = new_table("Provider", "Class", "Key", "Example")
    lines = []
    for entry in providers:
        key = f"{entry['key_variable']}{'' if entry['needs_key'] else ' (optional)'}"
        table.add_row(entry["name"], entry["class"], key, f"-m {entry['example']}")
        lines.append(f"{entry['name']}: key in {key}\n  -m {entry['example']}\n")
    if lines:
        print_output(render_table(table) if fits_terminal(table) else "".join(lines), styled=True)


def _print_backend_table(entries: Iterable[dict[str, Any]]) -> None:
    table = new_table("Backend", "Class", "Installed", "Example")
    lines = []
    for entry in entries:
        installed = "yes" if entry["installed"] else f"no: {', '.join(entry['missing'])}"
        table.add_row(entry["name"], entry["class"], installed, f"-m {entry['example']}")
        lines.append(f"{entry['name']}: {entry['class']}, installed: {installed}\n  -m {entry['example']}\n")
    if fits_terminal(table):
        print_output(render_table(table), styled=True)
    else:  # In a narrow table, the examples would be wrapped and could not be copied.
        print_output("".join(lines))


# --- conformance checks -----------------------------------------------------------------------------------------------


def check_model(
    model: Model, spec: str, names: Sequence[str], output_format: str, settings: Iterable[str] = ()
) -> bool:
    """Run conformance checks on a model and print the outcomes. After an interruption, print those so far.

    Args:
        model: The model.
        spec: The model's name, as `backend/id`.
        names: The names of the checks to run. If it is empty, all checks run.
        output_format: `table`, `json` or `report`.
        settings: The names of the settings that the user gave, for a report.

    Returns:
        Whether no check failed.

    Raises:
        CommandError: A name is unknown, or the model can't be called at all.
    """
    from modelport.secrets import Secret

    checks = _select_checks(names)
    values = (getattr(model, name, None) for name in model.secret_settings)
    secrets = tuple(key.reveal() for key in values if isinstance(key, Secret) and key)
    outcomes: list[Outcome] = []
    try:
        for outcome in _run_with_progress(model, spec, checks, secrets):
            outcomes.append(outcome)
            if len(outcomes) == 1 and outcome.detail.startswith(_UNREACHABLE_ERRORS):
                raise CommandError(f"{spec} can't be called. {outcome.detail}")
    finally:
        if outcomes and not outcomes[0].detail.startswith(_UNREACHABLE_ERRORS):
            if output_format == "table":
                _print_outcomes(spec, checks, outcomes)
            else:
                _print_report(model, spec, output_format, settings, outcomes, secrets)
    return all(outcome.status != "failed" for outcome in outcomes)


def _select_checks(names: Sequence[str]) -> tuple[Check, ...]:
    from modelport.testing import CHECKS

    known = {check.name: check for check in CHECKS}
    if unknown := [name for name in names if name not in known]:
        raise CommandError(f"--only {unknown[0]!r} is not the name of a check; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names)) or CHECKS


def _run_with_progress(
    model: Model, spec: str, checks: tuple[Check, ...], secrets: tuple[str, ...]
) -> Iterable[Outcome]:
    """Yield the outcomes. If standard error is a terminal, show there which check is running."""
    from modelport.testing import Subject, run_checks

    outcomes = run_checks(Subject(make=lambda: model, secrets=secrets), checks)
    if not is_terminal(sys.stderr):
        yield from outcomes
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        for number, check in enumerate(checks, 1):
            status.update(f"{spec}: {check.name} ({number} of {len(checks)})")
            yield next(outcomes)


def _print_report(
    model: Model, spec: str, output_format: str, settings: Iterable[str], outcomes: Sequence[Outcome],
    secrets: tuple[str, ...],
) -> None:  # fmt: skip
    from modelport.cli.report import build_report, render_markdown
    from modelport.registry import backends, provider_named

    name = spec.partition("/")[0]
    provider = provider_named(name)
    backend = name if provider is None else provider.backend
    extra = requirements_of(backend, backends().get(backend, "")).extra
    report = build_report(model, spec, extra, settings, outcomes, secrets)
    if output_format == "json":
        print_json(report)
    else:
        print_output(render_markdown(report))


def _print_outcomes(spec: str, checks: Sequence[Check], outcomes: Sequence[Outcome]) -> None:
    print_output(render_table(_outcome_table(outcomes)), styled=True)
    descriptions = {check.name: check.description for check in checks}
    for outcome in outcomes:
        if outcome.status == "failed":
            print_output(f"\nFailed: {outcome.check}. {descriptions[outcome.check]}\n  {outcome.detail}\n")
    counts = Counter(outcome.status for outcome in outcomes)
    if explanations := [f"{status}: {text}" for status, text in _EXPLANATIONS.items() if counts[status]]:
        print_output("\n".join(["", *explanations]) + "\n")
    of_all = "" if len(outcomes) == len(checks) else f" ({len(outcomes)} of {len(checks)} checks)"
    summary = ", ".join(f"{status} {counts[status]}" for status in _SYMBOLS if counts[status])
    print_output(f"{spec}: {summary}{of_all}\n")


def _outcome_table(outcomes: Iterable[Outcome]) -> Table:
    from rich.text import Text

    table = new_table("", "Check", "Outcome", "Seconds", "Detail")
    for outcome in outcomes:
        symbol = _SYMBOLS.get(outcome.status, _Symbol("?", "?", ""))
        table.add_row(
            Text(symbol.utf8 if is_utf8(sys.stdout) else symbol.ascii, symbol.style),
            Text(outcome.check),
            Text(outcome.status, symbol.style),
            Text(f"{outcome.seconds:.1f}"),
            Text(printable(" ".join(outcome.detail.split()))),
        )
    return table


def new_table(*headers: str) -> Table:
    """Return an empty table. Columns of numbers are aligned to the right."""
    from rich.box import ASCII, HEAVY_HEAD
    from rich.table import Table

    table = Table(header_style="bold", box=HEAVY_HEAD if is_utf8(sys.stdout) else ASCII)
    for header in headers:
        table.add_column(header, overflow="fold", justify="right" if header in ("Seconds", "Context") else "left")
    return table
