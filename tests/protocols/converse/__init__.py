"""Tests of the Converse protocol: translation of requests and responses."""
