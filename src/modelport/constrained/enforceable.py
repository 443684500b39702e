r"""A JSON schema as the engines' masks can hold an answer to it, no looser than a validator reads it.

llguidance refuses most keywords that it does not know by name, which is what we want. What it takes and holds less
tightly than a validator does is put right here, or refused with the keyword named. Each was seen to let an answer
through that the `jsonschema` package calls invalid:

- `date` and `date-time` with a 29 February in any year, a year 0, a second 60: said as patterns.
- `hostname` of any length: bounded.
- `uri`, which the llguidance built into llama.cpp does not know (it then ignores the whole grammar): said as a pattern.
- `multipleOf` with a fraction such as 0.01, of which validators, who divide floats, call 9.77 no multiple: refused.
- `minProperties`, towards which it counts a key that comes twice: refused beyond what `required` makes sure of.
- `x-guidance`, its own keyword, by which a schema can ask for less: refused.

A key spelt `"\u0061"` passed for another than `"a"`; `as_lark` asks for strings without such escapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelport.errors import UnsupportedFeature

Schema = dict[str, Any]

_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_SINGLE = {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}

_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_LONG, _SHORT = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])", "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_DATE = f"({_YEAR}-({_LONG}|{_SHORT}|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
_HOUR = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_HOUR}:[0-5][0-9](\\.[0-9]{{1,9}})?(Z|[+-]{_HOUR})"
_PCHAR = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_AUTHORITY = "([A-Za-z0-9._~-]+@)?[A-Za-z0-9._~-]+(:[0-9]{1,5})?"
_PATH = f"(//({_AUTHORITY}(/{_PCHAR}*)*|(/{_PCHAR}+)+)|/?{_PCHAR}+(/{_PCHAR}*)*)"
_URI = f"[A-Za-z][A-Za-z0-9+.-]*:{_PATH}(\\?({_PCHAR}|[/?])*)?(#({_PCHAR}|[/?])*)?"
#: Formats said by other keywords.
_SPELT: dict[str, Schema] = {
    "date": {"pattern": f"^{_DATE}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "date-time": {"pattern": f"^{_DATE}T{_TIME}$"},
    "uri": {"pattern": f"^{_URI}$"},
}
_HELD = {"duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
#: Of the standard, and not held by the mask. To a format that the standard does not know no answer is held by anyone.
_NOT_HELD = {
    "idn-email", "idn-hostname", "iri", "iri-reference", "json-pointer", "regex", "relative-json-pointer",
    "uri-reference", "uri-template", "color",
}  # fmt: skip


def enforceable(schema: Schema) -> Schema:
    """The schema for the mask; it is not changed itself.

    Args:
        schema: A JSON schema.

    Raises:
        UnsupportedFeature: It has a keyword to which the mask can't hold an answer; the message names it.
    """
    # A schema means what draft 2020-12 says, to the mask as to the check of the answer, whatever it calls itself.
    result: Schema = _each({key: value for key, value in schema.items() if key != "$schema"}, _tightened)
    return result


def _each(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Every schema in the schema changed, those inside first."""
    if not isinstance(schema, dict):
        return schema
    parts: Schema = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            value = {name: _each(part, change) for name, part in value.items()}
        elif key in _LISTS and isinstance(value, list):
            value = [_each(part, change) for part in value]
        elif key in _SINGLE:
            value = _each(value, change)
        parts[key] = value
    return change(parts)


def _tightened(schema: Schema) -> Schema:
    if "x-guidance" in schema:
        raise _refused("x-guidance", "it changes what the other keywords mean")
    if not _exact(schema.get("multipleOf", 1)):
        raise _refused(
            f"multipleOf={schema['multipleOf']}", "validators divide floats, and call some of its multiples none"
        )
    changed = _without_counted_keys(schema)
    if changed.get("uniqueItems") is False or (changed.get("uniqueItems") and changed.get("maxItems", 2) < 2):
        changed = {key: value for key, value in changed.items() if key != "uniqueItems"}
    return _with_format(changed) if isinstance(changed.get("format"), str) else changed


def _exact(number: Any) -> bool:
    """Whether floats hold the number, so that dividing by it is exact."""
    from fractions import Fraction

    below = Fraction(str(number)).denominator
    return below & (below - 1) == 0


def _without_counted_keys(schema: Schema) -> Schema:
    least = schema.get("minProperties")
    if least is None:
        return schema
    sure = len(set(schema.get("required", ())))
    if least > sure + 1:
        raise _refused(f"minProperties={least}", "a key that comes twice would count twice")
    # One more than those that are required needs no counting: whatever comes is another.
    return schema if least > sure else {key: value for key, value in schema.items() if key != "minProperties"}


def _with_format(schema: Schema) -> Schema:
    form = schema["format"]
    if form in _NOT_HELD:
        raise _refused(f"format={form!r}", "no mask knows it")
    rest = {key: value for key, value in schema.items() if key != "format"}
    if form == "hostname":
        return {**schema, "maxLength": min(schema.get("maxLength", 253), 253)}
    if form in _SPELT:
        # Beside a pattern of the schema's own both hold.
        return (
            {**rest, "allOf": [*rest.get("allOf", ()), _SPELT[form]]} if "pattern" in rest else {**rest, **_SPELT[form]}
        )
    return schema if form in _HELD else rest


def _refused(keyword: str, why: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"grammar: no mask can hold an answer to the schema's {keyword}: {why}. Leave it out, and check it yourself",
        parameter="grammar",
    )
