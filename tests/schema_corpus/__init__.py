"""A sample of schemas of the kinds that people send: what JSONSchemaBench collects, written anew.

See https://github.com/guidance-ai/jsonschemabench. Deterministic: the same schemas in the same order, always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.schema_corpus import functions, github, keywords, kubernetes, packages

KINDS: dict[str, dict[str, dict[str, Any]]] = {
    "function calls": functions.SCHEMAS,
    "Kubernetes": kubernetes.SCHEMAS,
    "package manifests": packages.SCHEMAS,
    "GitHub configs": github.SCHEMAS,
    "keywords": keywords.SCHEMAS,
}


@dataclass(frozen=True, eq=False)
class Sampled:
    """One schema of the sample."""

    kind: str
    name: str
    schema: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


SAMPLE = [Sampled(kind, name, schema) for kind, schemas in KINDS.items() for name, schema in schemas.items()]
