"""Reads the descriptions of a function and of its arguments from its docstring.

The docstring can have the style of Google, of NumPy, or of Sphinx (reStructuredText fields such as `:param name:`).
"""

from __future__ import annotations

import re

_ARGUMENT_SECTIONS = {
    "Args", "Arguments", "Params", "Parameters", "Keyword Args", "Keyword Arguments", "Other Parameters",
}  # fmt: skip
_SECTIONS = _ARGUMENT_SECTIONS | {"Return", "Returns", "Yield", "Yields", "Raises", "Attributes"}
#: The line below the title of a section in the NumPy style.
_UNDERLINE = re.compile(r"\s*-{3,}\s*")
#: A field in the reStructuredText style.
_FIELD = re.compile(
    r":(?P<field>param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?|yields?)\b"
    r"(?P<names>[^:]*):(?P<text>.*)"
)


def read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """Return the description of a function, and the descriptions of its arguments by name.

    Args:
        doc: The docstring without its common indentation, as `inspect.cleandoc` returns it.

    Returns:
        The text before the first section or field, and a dict with the description of each documented argument.
    """
    lines = doc.splitlines()
    start = next((index for index in range(len(lines)) if _starts_section(lines, index)), len(lines))
    sections = lines[start:]
    descriptions = _read_google(sections) | _read_numpy(sections) | _read_rest(sections)
    return "\n".join(lines[:start]).strip(), {name: text.strip() for name, text in descriptions.items()}


def _starts_section(lines: list[str], index: int) -> bool:
    line = lines[index].strip()
    underlined = index + 1 < len(lines) and _UNDERLINE.fullmatch(lines[index + 1]) is not None
    title = line if underlined else line.removesuffix(":") if line.endswith(":") else ""
    return title in _SECTIONS or _FIELD.match(line) is not None


def _read_google(sections: list[str]) -> dict[str, str]:
    lines = iter(sections)
    # `any` stops after the title of the section about arguments; the loop below continues with the next line.
    if not any(line.strip().endswith(":") and line.strip()[:-1] in _ARGUMENT_SECTIONS for line in lines):
        return {}
    descriptions: dict[str, str] = {}
    name, margin = "", None  # `margin` is the indentation of the lines that begin with the name of an argument.
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        margin = indent if margin is None else margin
        if indent < margin:
            break
        head, colon, text = line.strip().partition(":")
        if indent == margin and colon:
            name = head.split("(")[0].strip(" *`")
            descriptions[name] = text.strip()
        elif name:
            descriptions[name] += " " + line.strip()
    return descriptions


def _read_numpy(sections: list[str]) -> dict[str, str]:
    descriptions: dict[str, str] = {}
    names: list[str] = []
    title = ""
    for index, line in enumerate(sections):
        if _UNDERLINE.fullmatch(line):
            title, names = sections[index - 1].strip() if index else "", []
        elif title not in _ARGUMENT_SECTIONS or not line.strip():
            continue
        elif not line[0].isspace():
            # The line names arguments (`a, b : int`). If it is the title of the next section instead, the underline in
            # the next line resets `names`.
            names = [name.strip(" *`") for name in line.partition(":")[0].split(",")]
        else:
            for name in names:
                descriptions[name] = f"{descriptions.get(name, '')} {line.strip()}"
    return descriptions


def _read_rest(sections: list[str]) -> dict[str, str]:
    descriptions: dict[str, str] = {}
    name = ""
    for line in sections:
        if field := _FIELD.match(line.strip()):
            # The name is the last word, because `:param int a: …` has the type before the name. The fields about
            # arguments are those whose names start with p, a or k: param, parameter, arg, argument, key, keyword.
            name = (field["names"].split() or [""])[-1].strip("*`") if field["field"][0] in "pak" else ""
            if name:
                descriptions[name] = field["text"].strip()
        elif name and line.strip():
            descriptions[name] += " " + line.strip()
        else:
            name = ""
    return descriptions
