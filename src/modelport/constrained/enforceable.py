r"""Rewrites a JSON schema so that an engine enforces it as strictly as a validator checks it.

Engines enforce schemas through llguidance, which refuses most keywords that it can't enforce. But it enforces a few
keywords less strictly than a validator. For each of them, an engine has generated output that the `jsonschema` package
rejects. This module rewrites or refuses them:

- The formats `date`, `time` and `date-time` allow 29 February in any year, the year 0 or the second 60. They are
  rewritten as patterns.
- The format `hostname` allows any length. The length is limited.
- The format `uri` is unknown to the llguidance in llama.cpp, which then ignores the whole grammar. It is rewritten as a
  pattern.
- `multipleOf` with a fraction such as 0.01 allows 9.77, which `jsonschema` rejects, because it divides floats. It is
  refused.
- `multipleOf` compiles to an automaton with a state for each remainder, which takes hours for 99999999 and can't be
  interrupted. It is refused if the automaton is large.
- `minProperties` counts a repeated key twice. It is refused if it exceeds the number of required keys by more than one.
- `x-guidance` is llguidance's own keyword, by which a schema can relax other keywords. It is refused.

llguidance also takes the key `"\u0061"` for another key than `"a"`. So `as_lark` forbids such escapes, except
for the old llguidance in llama.cpp, which can't forbid them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from modelport.errors import UnsupportedFeature

Schema = dict[str, Any]

#: The keywords whose value is a dict of schemas, those whose value is a list of schemas, and those whose value is one
#: schema.
_SCHEMA_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_SCHEMA_LISTS = {"anyOf", "oneOf", "allOf", "prefixItems"}
_SINGLE_SCHEMAS = {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}

_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_MONTHS_OF_31_DAYS = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
_MONTHS_OF_30_DAYS = "(0[469]|11)-(0[1-9]|[12][0-9]|30)"
_28_DAYS_OF_FEBRUARY = "02-(0[1-9]|1[0-9]|2[0-8])"
_DATE = f"({_YEAR}-({_MONTHS_OF_31_DAYS}|{_MONTHS_OF_30_DAYS}|{_28_DAYS_OF_FEBRUARY})|{_LEAP_YEAR}-02-29)"
_HOUR_AND_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = f"{_HOUR_AND_MINUTE}:[0-5][0-9](\\.[0-9]{{1,9}})?(Z|[+-]{_HOUR_AND_MINUTE})"
# The parts of a URI, with the names of RFC 3986.
_PCHAR = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_AUTHORITY = "([A-Za-z0-9._~-]+@)?[A-Za-z0-9._~-]+(:[0-9]{1,5})?"
_PATH = f"(//({_AUTHORITY}(/{_PCHAR}*)*|(/{_PCHAR}+)+)|/?{_PCHAR}+(/{_PCHAR}*)*)"
_URI = f"[A-Za-z][A-Za-z0-9+.-]*:{_PATH}(\\?({_PCHAR}|[/?])*)?(#({_PCHAR}|[/?])*)?"
#: Formats that are replaced by a pattern.
_FORMAT_PATTERNS: dict[str, Schema] = {
    "date": {"pattern": f"^{_DATE}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "date-time": {"pattern": f"^{_DATE}T{_TIME}$"},
    "uri": {"pattern": f"^{_URI}$"},
}
#: Formats that llguidance enforces.
_ENFORCED_FORMATS = {"duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
#: Formats of JSON Schema that engines can't enforce. Formats that JSON Schema does not define are ignored, because
#: validators ignore them too.
_UNENFORCEABLE_FORMATS = {
    "idn-email", "idn-hostname", "iri", "iri-reference", "json-pointer", "regex", "relative-json-pointer",
    "uri-reference", "uri-template", "color",
}  # fmt: skip


def enforceable_schema(schema: Schema) -> Schema:
    """Return a schema that an engine enforces as strictly as a validator checks the original schema.

    Args:
        schema: A JSON schema. It is not changed.

    Raises:
        UnsupportedFeature: The schema has a keyword that engines can't enforce; the message names it.
    """
    # Engines, and modelport's validation of the output, apply draft 2020-12 to every schema. So `$schema`, which may
    # name another draft, is removed.
    factors: list[Any] = []
    without_draft = {key: value for key, value in schema.items() if key != "$schema"}

    def make_enforceable(part: Schema) -> Schema:
        factors.extend([part["multipleOf"]] if "multipleOf" in part else [])
        return _make_enforceable(part)

    result: Schema = _change_subschemas(without_draft, make_enforceable)
    _refuse_many_remainders(factors)
    return result


#: The most remainders of `multipleOf`. llguidance takes 40 ms to compile so many, and 0.6 s for ten times as many.
_MAX_REMAINDERS = 10_000


def _refuse_many_remainders(factors: list[Any]) -> None:
    """Raise an error if llguidance would take long to compile the values of `multipleOf` of a schema.

    If several apply to one value, llguidance uses their least common multiple. The factors 2 and 5 cost nothing,
    because numbers are decimal.
    """
    remainders = 1
    for factor in factors:
        numerator = Fraction(str(factor)).numerator
        for prime in (2, 5):
            while numerator % prime == 0:
                numerator //= prime
        remainders = math.lcm(remainders, numerator)
        if remainders > _MAX_REMAINDERS:
            raise _unenforceable(f"multipleOf={factor}", "an engine would take too long to compile it")


def _change_subschemas(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """Return the schema with `change` applied to the schemas inside it, the innermost first, and then to itself."""
    if not isinstance(schema, dict):
        return schema
    parts: Schema = {}
    for key, value in schema.items():
        if key in _SCHEMA_MAPS and isinstance(value, dict):
            value = {name: _change_subschemas(part, change) for name, part in value.items()}
        elif key in _SCHEMA_LISTS and isinstance(value, list):
            value = [_change_subschemas(part, change) for part in value]
        elif key in _SINGLE_SCHEMAS:
            value = _change_subschemas(value, change)
        parts[key] = value
    return change(parts)


def _make_enforceable(schema: Schema) -> Schema:
    if "x-guidance" in schema:
        raise _unenforceable("x-guidance", "it changes what the other keywords mean")
    if not _is_exact_float(schema.get("multipleOf", 1)):
        raise _unenforceable(
            f"multipleOf={schema['multipleOf']}", "validators divide floats, so that they refuse some of its multiples"
        )
    changed = _without_redundant_min_properties(schema)
    # llguidance refuses `uniqueItems`. It is removed where it has no effect: if it is False, or with one item at most.
    if changed.get("uniqueItems") is False or (changed.get("uniqueItems") and changed.get("maxItems", 2) < 2):
        changed = {key: value for key, value in changed.items() if key != "uniqueItems"}
    return _with_enforceable_format(changed) if isinstance(changed.get("format"), str) else changed


def _is_exact_float(number: Any) -> bool:
    """Return whether a float represents the number exactly, so that dividing by it is exact."""
    denominator = Fraction(str(number)).denominator
    return denominator & (denominator - 1) == 0


def _without_redundant_min_properties(schema: Schema) -> Schema:
    minimum = schema.get("minProperties")
    if minimum is None:
        return schema
    required = len(set(schema.get("required", ())))
    if minimum > required + 1:
        raise _unenforceable(f"minProperties={minimum}", "a key that occurs twice would count twice")
    # The engine never repeats a required key, so the first additional key is a new one and is counted correctly. A
    # second additional key could repeat the first.
    return schema if minimum > required else {key: value for key, value in schema.items() if key != "minProperties"}


def _with_enforceable_format(schema: Schema) -> Schema:
    name = schema["format"]
    if name in _UNENFORCEABLE_FORMATS:
        raise _unenforceable(f"format={name!r}", "engines don't support it")
    without_format = {key: value for key, value in schema.items() if key != "format"}
    if name == "hostname":
        return {**schema, "maxLength": min(schema.get("maxLength", 253), 253)}
    if name in _FORMAT_PATTERNS:
        pattern = _FORMAT_PATTERNS[name]
        if "pattern" not in without_format:
            return {**without_format, **pattern}
        # The schema has a pattern of its own. `allOf` enforces both patterns.
        return {**without_format, "allOf": [*without_format.get("allOf", ()), pattern]}
    return schema if name in _ENFORCED_FORMATS else without_format


def _unenforceable(keyword: str, reason: str) -> UnsupportedFeature:
    return UnsupportedFeature(
        f"grammar: engines can't enforce the schema's {keyword}: {reason}. Leave it out, and check it yourself",
        parameter="grammar",
    )
