"""The optional packages that the HTTP transport needs. They are imported at the first call, not with modelport."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

from modelport.errors import MissingDependency


def require(extra: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    Backends call this in their constructor, so that a missing package is reported before a missing API key.

    Args:
        extra: The extra of modelport that installs the packages, for the error message.
        *packages: The names of the packages' top-level modules.

    Raises:
        MissingDependency: A package is not installed.
    """
    for name in packages:
        if find_spec(name) is None:
            raise MissingDependency(name, extra)


@functools.cache
def aiohttp_package() -> Any:
    """Return the `aiohttp` package.

    Raises:
        MissingDependency: The package is not installed.
    """
    try:
        import aiohttp
    except ImportError:
        raise MissingDependency("aiohttp", "openai") from None
    return aiohttp


@functools.cache
def orjson_package() -> Any:
    """Return the `orjson` package.

    Raises:
        MissingDependency: The package is not installed.
    """
    try:
        import orjson
    except ImportError:
        raise MissingDependency("orjson", "openai") from None
    return orjson
