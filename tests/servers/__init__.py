"""Servers for tests, each on a free port of the loopback interface. README.md lists them."""
