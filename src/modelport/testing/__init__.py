"""Tools for tests: a scripted model for users of models, and the conformance checks for authors of backends.

`ScriptedModel` returns prepared responses through all layers of a real model. The conformance checks (`CHECKS`) run on
a `Subject`, which is a model with what its tester knows about it; each returns an `Outcome`.
"""

from modelport.testing.check import Check, Outcome
from modelport.testing.conformance import CHECKS, run_check, run_checks
from modelport.testing.scripted import ScriptedModel
from modelport.testing.subject import Subject

__all__ = ["CHECKS", "Check", "Outcome", "ScriptedModel", "Subject", "run_check", "run_checks"]
