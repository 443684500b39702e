"""For tests: a scripted model for users of models, and the conformance checks for authors of backends."""

from modelport.testing.conformance import CHECKS, Check, Outcome, Subject, run_check, run_checks
from modelport.testing.scripted import ScriptedModel

__all__ = ["CHECKS", "Check", "Outcome", "ScriptedModel", "Subject", "run_check", "run_checks"]
