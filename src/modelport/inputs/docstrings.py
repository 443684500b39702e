"""What a docstring says of a function and of its arguments, in the styles of Google, NumPy and reST. Pure functions."""

from __future__ import annotations

import re

_ARGUMENTS = {"Args", "Arguments", "Params", "Parameters", "Keyword Args", "Keyword Arguments", "Other Parameters"}
_SECTIONS = _ARGUMENTS | {"Return", "Returns", "Yield", "Yields", "Raises", "Attributes"}
_UNDERLINE = re.compile(r"\s*-{3,}\s*")
_FIELD = re.compile(
    r":(?P<kind>param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?|yields?)\b(?P<what>[^:]*):(?P<text>.*)"
)


def read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and what the sections say of arguments, by name.

    Args:
        doc: Without the indentation that all of its lines share, as `inspect.cleandoc` leaves it.
    """
    lines = doc.splitlines()
    start = next((place for place in range(len(lines)) if _begins_section(lines, place)), len(lines))
    described = _google(lines[start:]) | _numpy(lines[start:]) | _fields(lines[start:])
    return "\n".join(lines[:start]).strip(), {name: text.strip() for name, text in described.items()}


def _begins_section(lines: list[str], place: int) -> bool:
    line = lines[place].strip()
    underlined = place + 1 < len(lines) and _UNDERLINE.fullmatch(lines[place + 1]) is not None
    return (line if underlined else line.removesuffix(":") if line.endswith(":") else "") in _SECTIONS or (
        _FIELD.match(line) is not None
    )


def _google(lines: list[str]) -> dict[str, str]:
    rest = iter(lines)
    if not any(line.strip().endswith(":") and line.strip()[:-1] in _ARGUMENTS for line in rest):
        return {}
    described: dict[str, str] = {}
    current, margin = "", None
    for line in rest:
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        margin = depth if margin is None else margin
        if depth < margin:
            break
        head, colon, text = line.strip().partition(":")
        if depth == margin and colon:
            current = head.split("(")[0].strip(" *`")
            described[current] = text.strip()
        elif current:
            described[current] += " " + line.strip()
    return described


def _numpy(lines: list[str]) -> dict[str, str]:
    described: dict[str, str] = {}
    names: list[str] = []
    section = ""
    for place, line in enumerate(lines):
        if _UNDERLINE.fullmatch(line):
            section, names = lines[place - 1].strip() if place else "", []
        elif section not in _ARGUMENTS or not line.strip():
            continue
        elif not line[0].isspace():  # `a, b : int`, or the name of the next section
            names = [name.strip(" *`") for name in line.partition(":")[0].split(",")]
        else:
            for name in names:
                described[name] = f"{described.get(name, '')} {line.strip()}"
    return described


def _fields(lines: list[str]) -> dict[str, str]:
    described: dict[str, str] = {}
    current = ""
    for line in lines:
        if field := _FIELD.match(line.strip()):
            # `:param int a: …` has the type before the name.
            current = (field["what"].split() or [""])[-1].strip("*`") if field["kind"][0] in "pak" else ""
            if current:
                described[current] = field["text"].strip()
        elif current and line.strip():
            described[current] += " " + line.strip()
        else:
            current = ""
    return described
