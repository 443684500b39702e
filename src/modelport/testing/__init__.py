"""Tools for tests: a scripted model for users of models, and the conformance checks for authors of backends.

`ScriptedModel` returns prepared responses, which pass through all layers of a real model. The conformance checks
(`CHECKS`) run on a `Subject`: the model under test, and what its tester knows about it. Each check that is run has an
`Outcome`.
"""

from modelport.testing.check import Check, Outcome
from modelport.testing.conformance import CHECKS, run_check, run_checks
from modelport.testing.scripted import ScriptedModel
from modelport.testing.subject import Subject

__all__ = ["CHECKS", "Check", "Outcome", "ScriptedModel", "Subject", "run_check", "run_checks"]
