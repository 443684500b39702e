"""Servers to test against, each on a free port of the loopback interface. See README.md."""
