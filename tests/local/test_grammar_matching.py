"""The cache of compiled grammars: each is compiled once, and few are kept."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelport.errors import InvalidRequest
from modelport.local import grammar_matching
from modelport.local.grammar_matching import GrammarCache


def test_grammar_is_compiled_once_by_threads_at_the_same_time() -> None:
    """A batch of calls has one grammar, and compiling it may take seconds."""
    compiled, released = [], threading.Event()

    def compile_grammar(lark: str) -> str:
        compiled.append(lark)
        released.wait(60)
        return lark.upper()

    cache = GrammarCache(compile_grammar)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(cache.get, "a") for _ in range(8)]
        released.set()
        assert [result.result() for result in results] == ["A"] * 8
    assert compiled == ["a"]


def test_failed_compilation_is_not_cached() -> None:
    def compile_grammar(lark: str) -> str:
        raise InvalidRequest(f"{lark}: {len(calls)}")

    calls: list[int] = []
    cache = GrammarCache(compile_grammar)
    for _ in range(2):
        with pytest.raises(InvalidRequest, match=f"a: {len(calls)}"):
            cache.get("a")
        calls.append(1)


def test_cached_grammars_are_bounded_in_number_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_matching, "MAX_CACHED_GRAMMARS", 3)
    monkeypatch.setattr(grammar_matching, "MAX_CACHED_CHARACTERS", 100)
    compiled: list[str] = []
    cache = GrammarCache(compiled.append)
    for lark in ("a", "b", "c", "a", "d", "a", "b"):
        cache.get(lark)
    assert compiled == ["a", "b", "c", "d", "b"]  # "b" was the oldest when "d" came.
    cache.get("e" * 99)
    cache.get("f" * 200)
    assert len(cache._results) == 1
    cache.get("f" * 200)
    assert [len(lark) for lark in compiled[5:]] == [99, 200]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_does_not_wait_for_a_compilation_of_its_parent() -> None:
    compiling, released, parent = threading.Event(), threading.Event(), os.getpid()

    def compile_grammar(lark: str) -> str:
        if os.getpid() == parent:
            compiling.set()
            released.wait(60)
        return lark

    cache = GrammarCache(compile_grammar)
    thread = threading.Thread(target=cache.get, args=("a",))
    thread.start()
    compiling.wait(60)
    if (child := os.fork()) == 0:
        os._exit(0 if cache.get("a") == "a" else 1)
    released.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
