"""For tests: a scripted model for users of models, and the contract for authors of backends."""

from modelport.testing.conformance import ROWS, Outcome, Row, Subject, check, check_all
from modelport.testing.scripted import ScriptedModel

__all__ = ["ROWS", "Outcome", "Row", "ScriptedModel", "Subject", "check", "check_all"]
