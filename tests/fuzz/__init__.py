"""Fuzzing: what callers write and what services answer, made wrong in every way that a generator can think of."""
