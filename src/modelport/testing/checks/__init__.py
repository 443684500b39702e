"""The conformance checks, grouped by topic."""
