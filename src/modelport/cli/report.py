"""What came of a check, for machines and for a bug report: versions, capabilities, outcomes, and no secret."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from modelport import __version__

if TYPE_CHECKING:
    from modelport.model import Model
    from modelport.testing.conformance import Outcome

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def facts(
    model: Model,
    spec: str,
    extra: str | None,
    settings: Iterable[str],
    outcomes: Sequence[Outcome],
    hidden: Iterable[str],
) -> dict[str, Any]:
    """All that a report says, as JSON can hold it.

    Args:
        model: The model that was checked.
        spec: What the user calls it.
        extra: Of this package, that the backend needs.
        settings: The names of what the user set; values may be private.
        outcomes: Of the rows.
        hidden: Keys that must not be in it, wherever they come from.
    """
    report = {
        "model": spec,
        "class": type(model).__name__,
        "settings": sorted(settings),
        "modelport": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(extra),
        "capabilities": model.capabilities.to_dict(),
        "counts": dict(Counter(outcome.status for outcome in outcomes)),
        "outcomes": [{**asdict(outcome), "seconds": round(outcome.seconds, 3)} for outcome in outcomes],
    }
    cleaned = _cleaned(report, [key for key in hidden if key])
    assert isinstance(cleaned, dict)
    return cleaned


def markdown(report: Mapping[str, Any]) -> str:
    """The report as an issue's text; what works is not listed."""
    import json

    counts = ", ".join(f"{status} {count}" for status, count in report["counts"].items())
    packages = ", ".join(f"{name} {version}" for name, version in report["packages"].items())
    lines = [
        f"### modelport check {report['model']}",
        "",
        f"- modelport {report['modelport']}, Python {report['python']}, {report['platform']}",
        f"- {report['class']}, settings given: {', '.join(report['settings']) or 'none'}",
        f"- packages: {packages or 'none'}",
        f"- {counts}",
    ]
    rest = [outcome for outcome in report["outcomes"] if outcome["status"] != "works"]
    if rest:
        lines += ["", "| promise | outcome | detail |", "| --- | --- | --- |"]
        lines += [f"| {o['row']} | {o['status']} | {_cell(o['detail'])} |" for o in rest]
    declared = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in report["capabilities"].items()
    )
    lines += [
        "",
        "<details><summary>Capabilities</summary>",
        "",
        "```json",
        "{",
        declared,
        "}",
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _versions(extra: str | None) -> dict[str, str]:
    """The versions of what is installed of this package's own requirements and the extra's."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        wanted = requires("modelport") or []
    except PackageNotFoundError:  # the sources alone
        return {}
    found: dict[str, str] = {}
    for requirement in wanted:
        name, _, marker = requirement.partition(";")
        if "extra" in marker and (extra is None or not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker)):
            continue
        matched = _NAME.match(name.strip())
        try:
            if matched and matched[0] != "modelport":
                found[matched[0]] = version(matched[0])
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))


def _cleaned(value: Any, hidden: Sequence[str]) -> Any:
    if isinstance(value, str):
        for key in hidden:
            value = value.replace(key, "[a key]")
        return _USER_IN_URL.sub("", value)
    if isinstance(value, Mapping):
        return {key: _cleaned(item, hidden) for key, item in value.items()}
    return [_cleaned(item, hidden) for item in value] if isinstance(value, list) else value


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
