"""The fault matrix: a table from which the tests of every remote backend are generated, and its page in the docs.

    python -m tests.remote.matrix     # writes the table into docs/reliability.md

A line of the table is a fault with its expected outcomes (`fault_cases`). They hold for every backend and for the four
ways to call a model, unless the line says why not. The docs list these exceptions too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from modelport.errors import ServerError
from tests.remote.fault_cases import FAULT_CASES, TRUNCATED
from tests.remote.fault_cases import TOOL as TOOL
from tests.remote.outcomes import ANSWER as ANSWER
from tests.remote.outcomes import BEGINNING as BEGINNING
from tests.remote.outcomes import Backend, Fails, FaultCase, Interrupted, NotApplicable, Outcome, Succeeds
from tests.servers.bedrock import ConverseFault
from tests.servers.responses import ResponsesFault

#: The four ways to call a model.
WAYS = ("sync", "sync streamed", "async", "async streamed")
#: Seconds after which every call of the matrix ends, whatever goes wrong.
DEADLINE = 20.0
#: Seconds within which a call ends that does not wait for the service.
FAST = 5.0

_IGNORES_BROKEN_EVENTS = "LiteLLM's own HTTP client ignores a broken event"
#: The exceptions of LiteLLM, and of the providers that LiteLLM calls through its own HTTP client.
_LITELLM: dict[str, tuple[Outcome, str]] = {
    "11: error in an event of type error": (
        TRUNCATED, "LiteLLM ignores an event whose data has no `error`, so that the stream looks truncated",
    ),
}  # fmt: skip
_LITELLM_HTTP: dict[str, tuple[Outcome, str]] = {
    **_LITELLM,
    "9: no finish reason": (Succeeds(1), "LiteLLM's own HTTP client takes [DONE] for a finish reason"),
    "10: malformed (half JSON, bad CRC)": (Succeeds(1, text=ANSWER[:8] + ANSWER[16:]), _IGNORES_BROKEN_EVENTS),
    "10: malformed before a delta": (Succeeds(1, text=ANSWER[8:]), _IGNORES_BROKEN_EVENTS),
    "10: bad UTF-8": (Succeeds(1, text=ANSWER[:8] + "caf\ufffd" + ANSWER[16:]), _IGNORES_BROKEN_EVENTS),
    "11: error event of a rate limit": (
        Interrupted(ServerError), "LiteLLM's own HTTP client drops the code of an error event",
    ),
}  # fmt: skip
#: Azure through the SDK has no cells: it differs from `openai-sdk` in address and key alone, as `azure` differs from
#: `openai`.
BACKENDS: dict[str, Backend] = {
    "openai": Backend(),
    "openai-sdk": Backend(),
    "openai-responses": Backend(ResponsesFault),
    "azure": Backend(),
    "huggingface": Backend(),
    "bedrock": Backend(ConverseFault),
    "litellm": Backend(litellm=True, exceptions=_LITELLM),
    "litellm-router": Backend(litellm=True, exceptions=_LITELLM),
    "litellm-http": Backend(litellm=True, exceptions=_LITELLM_HTTP),
}


def expected(case: FaultCase, backend: str, way: str) -> Outcome:
    """Return the expected outcome of a fault on a backend, in one of the four ways to call a model."""
    if BACKENDS[backend].wire not in case.wires:
        return NotApplicable("this wire format has no such fault")
    if case.special == "abandon_calls" and way == "sync":
        return NotApplicable("the caller of a synchronous, non-streaming call can't leave")
    if "streamed" not in way:
        return case.non_streaming
    return BACKENDS[backend].exceptions.get(case.name, (case.streamed, ""))[0]


def cells(litellm: bool) -> list[tuple[str, FaultCase, str]]:
    """Return every cell as backend, fault and way, either of LiteLLM's backends or of the others."""
    return [
        (name, case, way)
        for name, backend in BACKENDS.items()
        if backend.litellm is litellm
        for case in FAULT_CASES
        for way in WAYS
        if not isinstance(expected(case, name, way), NotApplicable)
    ]


# --- the page in the docs ---------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- matrix: made by python -m tests.remote.matrix -->", "<!-- end of matrix -->"


def summary(outcome: Outcome) -> str:
    """Return an outcome as the page writes it."""
    if isinstance(outcome, Succeeds):
        return f"OK{outcome.attempts}" if outcome.attempts < 10 else "nothing left"
    if isinstance(outcome, Fails):
        return f"{outcome.error.__name__}{f' after {outcome.attempts}' if outcome.attempts > 1 else ''}"
    if isinstance(outcome, Interrupted):
        return f"INT, {outcome.cause.__name__}"
    return "–"


def table() -> str:
    """Return the table as Markdown, with the number of cells, and the reasons why some cells do not exist."""
    names = list(BACKENDS)
    lines = ["| fault | non-streaming | streamed | " + " | ".join(names) + " |"]
    lines.append("| --- | --- | --- |" + " --- |" * len(names))
    missing: dict[str, int] = {}
    existing = 0
    for case in FAULT_CASES:
        counts = []
        for name in names:
            outcomes = [expected(case, name, way) for way in WAYS]
            reasons = [outcome.reason for outcome in outcomes if isinstance(outcome, NotApplicable)]
            for reason in reasons:
                missing[reason] = missing.get(reason, 0) + 1
            count = len(outcomes) - len(reasons)
            existing += count
            counts.append(f"{count or '–'}{'*' if case.name in BACKENDS[name].exceptions else ''}")
        outcomes_shown = f"{summary(case.non_streaming)} | {summary(case.streamed)}"
        lines.append(f"| {case.name} | {outcomes_shown} | {' | '.join(counts)} |")
    exceptions: dict[tuple[str, str], list[str]] = {}
    for name, backend in BACKENDS.items():
        for case_name, (outcome, reason) in backend.exceptions.items():
            exceptions.setdefault((f"{case_name}: {summary(outcome)}", reason), []).append(name)
    return "\n".join([
        f"{existing} cells are tested. A number counts the ways to call a model: sync and async, streamed and not.",
        "", *lines, "",
        f"{sum(missing.values())} cells do not exist:", "",
        *[f"- {count} cells: {reason}." for reason, count in sorted(missing.items(), key=lambda item: -item[1])], "",
        "Cells with * have another outcome if the call streams:", "",
        *[f"- {outcome} ({', '.join(names)}): {reason}." for (outcome, reason), names in exceptions.items()],
    ])  # fmt: skip


def with_table(page: str) -> str:
    """Return the page with the current table."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    sys.stdout.write(f"{PAGE.name} holds {len(cells(False)) + len(cells(True))} cells\n")
