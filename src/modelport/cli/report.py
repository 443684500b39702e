"""Builds the report of `modelport check`, as JSON for programs or as Markdown for bug reports.

A report contains versions, capabilities and the outcomes of the checks. It contains no secret, and of the settings only
their names.
"""

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
    from modelport.testing import Outcome

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_PACKAGE_NAME = re.compile(r"[A-Za-z0-9._-]+")


def build_report(
    model: Model,
    spec: str,
    extra: str | None,
    settings: Iterable[str],
    outcomes: Sequence[Outcome],
    secrets: Iterable[str],
) -> dict[str, Any]:
    """Return the report as a dict that JSON can represent.

    Args:
        model: The model that was checked.
        spec: The model's name, as `backend/id`.
        extra: The extra that installs what the backend needs, as `openai` in `modelport[openai]`; `None` for none.
        settings: The names of the settings that the user gave. Their values may be private.
        outcomes: The outcomes of the checks.
        secrets: API keys, each of which is redacted wherever it occurs in the report.
    """
    report = {
        "model": spec,
        "class": type(model).__name__,
        "settings": sorted(settings),
        "modelport": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _installed_versions(extra),
        "capabilities": model.capabilities.to_dict(),
        "counts": dict(Counter(outcome.status for outcome in outcomes)),
        "outcomes": [{**asdict(outcome), "seconds": round(outcome.seconds, 3)} for outcome in outcomes],
    }
    redacted = _redact(report, [secret for secret in secrets if secret])
    assert isinstance(redacted, dict)
    return redacted


def render_markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown, without the checks that passed."""
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
    listed = [outcome for outcome in report["outcomes"] if outcome["status"] != "passed"]
    if listed:
        lines += ["", "| check | outcome | detail |", "| --- | --- | --- |"]
        lines += [f"| {o['check']} | {o['status']} | {_table_cell(o['detail'])} |" for o in listed]
    capabilities = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in report["capabilities"].items()
    )
    lines += [
        "",
        "<details><summary>Capabilities</summary>",
        "",
        "```json",
        "{",
        capabilities,
        "}",
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _installed_versions(extra: str | None) -> dict[str, str]:
    """Return the versions of the installed packages that modelport, or this extra of modelport, requires."""
    from importlib.metadata import PackageNotFoundError, requires, version

    try:
        requirements = requires("modelport") or []
    except PackageNotFoundError:  # modelport runs from its sources, without being installed.
        return {}
    versions: dict[str, str] = {}
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        if "extra" in marker and (extra is None or not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker)):
            continue
        matched = _PACKAGE_NAME.match(name.strip())
        try:
            if matched and matched[0] != "modelport":
                versions[matched[0]] = version(matched[0])
        except PackageNotFoundError:
            continue
    return dict(sorted(versions.items()))


def _redact(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "[a key]")
        return _USER_IN_URL.sub("", value)
    if isinstance(value, Mapping):
        return {key: _redact(item, secrets) for key, item in value.items()}
    return [_redact(item, secrets) for item in value] if isinstance(value, list) else value


def _table_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
