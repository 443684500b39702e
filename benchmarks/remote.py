"""Measures the overhead of modelport's remote models, compared with other clients.

    python benchmarks/remote.py                  # the table of the README: clients on one OpenAI-compatible server
    python benchmarks/remote.py --group vendors  # the other backends, each compared with its vendor's client
    python benchmarks/remote.py --write          # both, into docs/benchmarks.md, its plot and the README
    python benchmarks/remote.py --before REF --only modelport   # this tree beside an earlier commit

Each client ("peer") gets an environment of its own (made once, in the user's cache) and a process of its own. All use
one fast loopback server (`server.py`), which runs on another core. Cases are interleaved: in every round each peer runs
each case once, so that other load on the machine affects all peers alike. The figures are processor time of the client,
which other processes disturb less than wall time: the median of the rounds, and the range.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import report
from peers import IMPORTS, PEERS
from vendors import ALL

HERE = Path(__file__).parent
PROJECT = HERE.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelport-benchmarks"
_THIS_TREE = f"-e {PROJECT}"
#: The pinned packages of each environment. modelport is installed from this tree.
ENVIRONMENTS = {
    "aiohttp": ["aiohttp==3.14.5"],
    "openai": ["openai==3.54.0"],
    "smolagents": ["smolagents[openai]==1.26.0"],
    "any-llm": ["any-llm-sdk[openai]==1.40.2"],
    "langchain": ["langchain-openai==1.7.3"],
    "pydantic-ai": ["pydantic-ai-slim[openai]==2.68.0"],
    "litellm": ["litellm==1.104.5"],
    "modelport": [f"{_THIS_TREE}[openai]"],
    "vendors": [f"{_THIS_TREE}[openai,huggingface,bedrock]", "openai==3.54.0"],
    "modelport-litellm": [f"{_THIS_TREE}[litellm]", "litellm==1.104.5"],
}
GROUPS = {
    "peers": {
        "raw socket + json": "aiohttp", "raw aiohttp + json": "aiohttp", "openai SDK": "openai",
        "smolagents": "smolagents", "any-llm": "any-llm", "LangChain": "langchain", "pydantic-ai": "pydantic-ai",
        "LiteLLM": "litellm", "modelport": "modelport",
    },
    "vendors": {
        "responses: openai SDK": "vendors", "responses: modelport": "vendors",
        "azure: openai SDK": "vendors", "azure: modelport": "vendors", "huggingface: hub client": "vendors",
        "huggingface: modelport": "vendors", "bedrock: boto3": "vendors", "bedrock: modelport": "vendors",
        "litellm: LiteLLM": "modelport-litellm", "litellm: modelport": "modelport-litellm",
    },
}  # fmt: skip
#: By name: the shape of the stream (see `server.py`), and the work of the worker. `size` is the bytes of a message.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "call": ("1", {"what": "calls"}),
    "call, agent's size": ("1", {"what": "calls", "messages": 61, "size": 1000}),
    "chunk, parse alone": ("1000", {"what": "chunks"}),
    "chunk, 1 ms apart": ("200x1", {"what": "chunks"}),
    "async chunk, 1 ms apart": ("200x1", {"what": "chunks", "async": True, "width": 1}),
    "async call, 200 at once": ("1", {"what": "calls", "async": True, "width": 200}),
    "async chunk, 100 streams": ("50x0", {"what": "chunks", "async": True, "width": 100}),
}
#: What follows the name of a peer that is modelport of the commit that `--before` names.
BEFORE = " before"
#: Seconds within which 1,000 streams must start.
STREAMS_TIMEOUT = 30
#: The numbers of messages for which the cost of a call is measured.
GROWTH = (10, 30, 100, 300, 1000)


def environment(name: str) -> Path:
    """Return the Python of an environment, which is made on first use."""
    requirements = ENVIRONMENTS[name]
    key = hashlib.sha256(repr((requirements, sys.version)).encode()).hexdigest()[:10]
    folder = CACHE / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making {folder} with {', '.join(requirements)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        arguments = [part for requirement in requirements for part in requirement.split(" ", 1)]
        if (uv := shutil.which("uv")) is not None:
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
            subprocess.run([uv, "pip", "install", "-q", "--python", python, *arguments], check=True)
        else:
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "-q", *arguments], check=True)
        (folder / "complete").touch()
    return python


def add_peers_of(commit: str) -> None:
    """Add modelport of an earlier commit to the peers of each group, in environments of its own."""
    git = ["git", "-C", str(PROJECT)]
    sha = subprocess.check_output([*git, "rev-parse", "--short", f"{commit}^{{commit}}"], text=True).strip()
    tree = CACHE / f"tree-{sha}"
    if not tree.exists():
        subprocess.run([*git, "worktree", "prune"], check=True)
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), sha], check=True)
    for group in GROUPS.values():
        for peer, name in list(group.items()):
            if "modelport" in peer:
                requirements = [item.replace(str(PROJECT), str(tree)) for item in ENVIRONMENTS[name]]
                ENVIRONMENTS[f"{name}-before"] = requirements
                group[peer + BEFORE] = f"{name}-before"


def command(peer: str, environment: Path, mode: str, *more: str) -> list[str]:
    return [str(environment), str(HERE / "worker.py"), mode, peer.removesuffix(BEFORE), *more]


def plain_environ() -> dict[str, str]:
    """Return the environment variables without those that slow a cold start down or redirect requests."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {k: v for k, v in os.environ.items() if k.upper() not in dropped}


@contextmanager
def process(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=plain_environ(), cwd=CACHE
    )
    try:
        yield child
    finally:
        child.stdin.close()  # type: ignore[union-attr]
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Worker:
    """A process of `worker.py` that runs cases for one peer."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def measure(self, case: dict[str, Any]) -> float:
        """Run a case, and return the microseconds of processor time for one operation."""
        self._child.stdin.write(json.dumps({"async": False, "seconds": 0.25, **case}) + "\n")  # type: ignore[union-attr]
        self._child.stdin.flush()  # type: ignore[union-attr]
        result = json.loads(self._child.stdout.readline())  # type: ignore[union-attr]
        return float(result["cpu"]) * 1e6


def processor_time(arguments: list[str]) -> float:
    """Run a process, and return its processor time in milliseconds."""
    child = subprocess.Popen(arguments, env=plain_environ(), cwd=CACHE)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} failed")
    return (usage.ru_utime + usage.ru_stime) * 1e3


def measure(group: str, rounds: int, only: list[str] | None, cases: list[str] | None) -> dict[str, Any]:
    peers = {p: environment(e) for p, e in GROUPS[group].items() if only is None or any(o in p for o in only)}
    selected = {name: case for name, case in CASES.items() if cases is None or any(c in name for c in cases)}
    results: dict[str, dict[str, list[float]]] = {}

    def note(case: str, peer: str, value: float) -> None:
        results.setdefault(case, {}).setdefault(peer, []).append(value)
        print(f"{case:28} {peer:26} {value:12.1f}", file=sys.stderr)

    with ExitStack() as stack:
        server = stack.enter_context(process([sys.executable, str(HERE / "server.py")]))
        port = int(server.stdout.readline())  # type: ignore[union-attr]

        def url(shape: str) -> str:
            # The shape is the first part of the path, because Azure's client appends to the path.
            return f"http://127.0.0.1:{port}/{shape}/v1"

        workers = {
            peer: Worker(stack.enter_context(process(command(peer, python, "serve")))) for peer, python in peers.items()
        }
        for _ in range(rounds):
            for case, (shape, work) in selected.items():
                for peer, worker in workers.items():
                    kind = ALL[peer.removesuffix(BEFORE)]
                    possible = kind.asynchronous if work.get("async") else kind.synchronous
                    if possible or (work.get("width", 1) > 1 and kind is not PEERS["raw socket + json"]):
                        note(case, peer, worker.measure({"url": url(shape), **work}))
            if group != "peers":
                continue
            if cases is None or "growth" in cases:
                for peer in {"openai SDK", "modelport", "modelport" + BEFORE} & workers.keys():
                    for count in GROWTH:
                        work = {"what": "calls", "messages": count, "size": 1000}
                        note(f"growth {count}", peer, workers[peer].measure({"url": url("1"), **work}))
            for peer, python in peers.items():
                if cases is None or "cold" in cases:
                    note("cold process, ms", peer, processor_time(command(peer, python, "cold", url("1"))))
                if cases is None or "import" in cases:
                    bare = processor_time([str(python), "-c", ""])
                    imported = [str(python), "-c", IMPORTS[peer.removesuffix(BEFORE)]]
                    note("import, ms", peer, processor_time(imported) - bare)
                if (cases is None or "memory" in cases) and peer != "raw socket + json":
                    arguments = command(peer, python, "memory", url("2x3600000"))
                    try:
                        out = subprocess.check_output(
                            arguments, env=plain_environ(), cwd=CACHE, timeout=STREAMS_TIMEOUT
                        )
                    except subprocess.TimeoutExpired:
                        print(f"{peer} does not open 1,000 streams at once", file=sys.stderr)
                        continue
                    resident = json.loads(out)
                    note("RSS after a call, MB", peer, resident["call"] / 1e6)
                    note("RSS, 1,000 streams, MB", peer, resident["streams"] / 1e6)
    return {"rounds": rounds, "cases": results, "machine": report.machine(), "versions": versions(peers)}


def versions(peers: dict[str, Path]) -> dict[str, str]:
    """Return the versions of the compared packages."""
    names = (
        "openai", "smolagents", "any-llm-sdk", "langchain-openai", "pydantic-ai-slim", "litellm", "aiohttp", "boto3",
        "huggingface_hub", "orjson",
    )  # fmt: skip
    code = (
        "import importlib.metadata as m, json\n"
        f"print(json.dumps({{d: m.version(d) for d in {names!r} if list(m.distributions(name=d))}}))"
    )
    found: dict[str, str] = {}
    for python in dict.fromkeys(peers.values()):
        found |= json.loads(subprocess.check_output([str(python), "-c", code], cwd=CACHE))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=[*GROUPS], default="peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="PEER", help="peers whose names contain one of these words")
    parser.add_argument(
        "--cases",
        nargs="+",
        metavar="CASE",
        help="cases whose names contain one of these words; also cold, import, memory, growth",
    )
    parser.add_argument("--before", metavar="REF", help="also measure modelport of an earlier commit, as another peer")
    parser.add_argument("--write", action="store_true", help="measure everything and write the figures into the pages")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    if options.before:
        add_peers_of(options.before)
    begin = time.time()
    if options.write:
        results = {}
        for group in GROUPS:
            results[group] = measure(group, options.rounds, None, None)
            report.write({group: results[group]})
    else:
        results = {options.group: measure(options.group, options.rounds, options.only, options.cases)}
    for group, result in results.items():
        print(report.table(group, result))
    print(f"{time.time() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
