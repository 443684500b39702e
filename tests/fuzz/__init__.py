"""Fuzzing: generated inputs of callers and generated responses of services, with random mistakes.

`junk.py` and `inputs.py` generate inputs. Each target in `targets.py` plays an input; it must return a message or raise
a `ModelError`; anything else is a defect. `running.py` runs a target on many inputs.
"""
