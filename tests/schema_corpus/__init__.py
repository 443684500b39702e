"""A sample of schemas like those that people send, written for this project on the model of JSONSchemaBench.

See https://github.com/guidance-ai/jsonschemabench. The sample always has the same schemas in the same order.
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
class SampleSchema:
    """One schema of the sample."""

    kind: str
    name: str
    schema: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


SAMPLE = [SampleSchema(kind, name, schema) for kind, schemas in KINDS.items() for name, schema in schemas.items()]
