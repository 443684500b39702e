"""The conformance checks, one module for each topic.

Each module ends with its tuple `CHECKS`; `modelport.testing.conformance` joins the tuples and runs the checks.
"""
