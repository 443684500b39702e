"""Each keyword alone and combined with others. Engines can't enforce some of these schemas."""

# Each schema is data and stays on few lines.
# ruff: noqa: E501

from __future__ import annotations

from tests.schema_corpus.build import (
    BOOLEAN,
    INTEGER,
    NULL,
    NUMBER,
    TEXT,
    Schema,
    any_of,
    array,
    closed_obj,
    integer,
    map_of,
    number,
    obj,
    ref,
    string_of,
    text,
)  # fmt: skip

_NODE = closed_obj({"value": INTEGER, "left?": any_of(ref("node"), NULL), "right?": any_of(ref("node"), NULL)})
_TREE = closed_obj({"name": text(maxLength=8), "children": array(ref("tree"), 0, 2)})
_EXPRESSION: Schema = {
    "anyOf": [NUMBER, closed_obj({"op": {"enum": ["+", "-"]}, "of": array(ref("expression"), 2, 2)})]
}

SCHEMAS: dict[str, Schema] = {
    # strings
    **{f"format: {form}": string_of(form) for form in (
        "date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "iri", "idn-email",
        "uri-reference", "json-pointer", "regex", "int-or-string",
    )},
    "format and length": text(format="hostname", minLength=4, maxLength=12),
    "format and pattern": text("^20[0-9]{2}-02", format="date"),
    "a month of dates": array(string_of("date"), 8, 8),
    "times and dates": array(any_of(string_of("date-time"), string_of("time")), 6, 6),
    "lengths": array(text(minLength=2, maxLength=4), 3, 3),
    "pattern, unanchored": text("[0-9]", maxLength=4),
    "pattern, alternatives": text("^(red|green|[a-f]{2,3})$"),
    "pattern, classes": text(r"^\w{1,5}\s\d{1,3}\S$"),
    "pattern, not in a class": text("^[^a-z\"\\\\]{1,6}$"),
    "pattern, ignoring case": text("^(?i:yes|no)$"),
    "pattern, Unicode": text("^[éèü]{1,3}$"),
    "pattern, look-ahead": text("^(?!a)[a-z]{3}$"),
    "pattern, word boundary": text(r"^\bfoo\b$"),
    "pattern, back-reference": text(r"^(a|b)\1$"),
    "content": text("^[A-Za-z0-9+/]{4}$", contentEncoding="base64", contentMediaType="text/plain"),
    # numbers
    "bounds": array(integer(-7, 7), 4, 4),
    "bounds, exclusive": array(number(exclusiveMinimum=-0.5, exclusiveMaximum=0.25), 3, 3),
    "bounds, large": integer(0, 9007199254740993),
    "bounds, small": number(1e-7, 1e-5),
    "bounds, negative": number(-1000.5, -999.25),
    "multipleOf": array(integer(-30, 30, multipleOf=7), 3, 3),
    "multipleOf, a half": array(number(0, 9, multipleOf=0.5), 3, 3),
    "multipleOf, a hundredth": number(multipleOf=0.01),
    "integer in number": {"allOf": [NUMBER, INTEGER, {"minimum": 3}]},
    # values
    "const": {"const": {"a": [1, 2.5, None, "é\n\"\\"]}},
    "const, float": array({"const": 1.0}, 2, 2),
    "enum, mixed": array({"enum": [1, "1", None, True, 1.5, [], {"k": []}]}, 5, 5),
    "enum with type": {"type": "string", "enum": ["a", "b", 1]},
    "type, several": array({"type": ["string", "integer", "null"], "maxLength": 5, "maximum": 5}, 4, 4),
    "anything": {"type": "array", "items": {}, "maxItems": 2},
    # arrays
    "items": array(BOOLEAN, 2, 5),
    "prefixItems": {"type": "array", "prefixItems": [INTEGER, text(maxLength=5)], "items": False, "minItems": 1},
    "prefixItems and items": {"type": "array", "prefixItems": [INTEGER], "items": BOOLEAN, "minItems": 2, "maxItems": 4},
    "items, empty": array(INTEGER, 0, 0),
    "uniqueItems": array(integer(0, 2), 3, 3, uniqueItems=True),
    "uniqueItems, of one": array(integer(0, 2), 0, 1, uniqueItems=True),
    "uniqueItems, false": array(integer(0, 2), 3, 3, uniqueItems=False),
    "contains": {"type": "array", "items": INTEGER, "contains": {"const": 3}},
    "minContains": {"type": "array", "contains": {"const": 3}, "minContains": 2},
    "unevaluatedItems": {"type": "array", "prefixItems": [INTEGER], "unevaluatedItems": False},
    # objects
    "properties": obj({"a": INTEGER, "b?": TEXT}),
    "properties, closed": closed_obj({"a?": INTEGER, "b?": BOOLEAN, "c?": NULL}),
    "property names to escape": obj({"a\"b": INTEGER, "tab\t": BOOLEAN, "é": NULL, "a/b": NULL, "": BOOLEAN}),
    "additionalProperties": obj({"a?": INTEGER}, additionalProperties=BOOLEAN),
    "additionalProperties, deep": map_of(map_of(integer(0, 9))),
    "keys beside properties": obj({"id": INTEGER, "type?": INTEGER, "a?": INTEGER}),
    "patternProperties": {"type": "object", "patternProperties": {"^x-": INTEGER}, "additionalProperties": BOOLEAN},
    "patternProperties and properties": obj({"x-a": INTEGER}, patternProperties={"^x-": NUMBER}, additionalProperties=False),
    "patternProperties, two": {"type": "object", "patternProperties": {"^[a-c]+$": INTEGER, "^[0-9]+$": BOOLEAN}, "additionalProperties": False},
    "patternProperties, overlapping": {"type": "object", "patternProperties": {"^a": INTEGER, "b$": BOOLEAN}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}},
    "minProperties": map_of(integer(0, 9), minProperties=3),
    "minProperties, one": map_of(integer(0, 9), minProperties=1),
    "minProperties, sure": obj({"a": INTEGER, "b": INTEGER, "c?": BOOLEAN}, minProperties=2),
    "maxProperties": map_of(integer(0, 9), maxProperties=2),
    "required, unlisted": {"type": "object", "required": ["z"], "properties": {"a": INTEGER}},
    "dependentRequired": obj({"a?": INTEGER, "b?": INTEGER}, dependentRequired={"a": ["b"]}),
    "dependentSchemas": obj({"a?": INTEGER}, dependentSchemas={"a": {"required": ["b"]}}),
    "unevaluatedProperties": obj({"a?": INTEGER}, unevaluatedProperties=False),
    "a property that can't be": obj({"a": False}),
    "a property named as a keyword": closed_obj({"properties": INTEGER, "format": BOOLEAN, "minProperties": NUMBER, "x-guidance?": NULL}),
    # together
    "anyOf": array(any_of(integer(5), text(maxLength=3), array(BOOLEAN, 1, 2)), 4, 4),
    "anyOf beside properties": obj({"a?": INTEGER, "b?": BOOLEAN}, anyOf=[{"required": ["a"]}, {"required": ["b"]}]),
    "oneOf, distinguished by a tag": {"oneOf": [
        closed_obj({"tag": {"const": "circle"}, "radius": number(0, 9)}),
        closed_obj({"tag": {"const": "box"}, "sides": array(number(0, 9), 2, 2)}),
    ]},
    "oneOf, distinguished by type": array({"oneOf": [INTEGER, text(maxLength=3), NULL]}, 3, 3),
    "oneOf, overlapping": {"oneOf": [NUMBER, INTEGER]},
    "oneOf, overlapping objects": {"oneOf": [obj({"a": INTEGER}), obj({"b": INTEGER})]},
    "allOf": {"allOf": [obj({"a": INTEGER}), obj({"b": BOOLEAN}), {"properties": {"a": {"minimum": 3}}}]},
    "allOf of bounds": {"type": "integer", "allOf": [{"minimum": 2}, {"maximum": 9}, {"multipleOf": 4}]},
    "allOf of patterns": {"type": "string", "allOf": [{"pattern": "^a"}, {"pattern": "z$"}, {"maxLength": 5}]},
    "allOf, closed too early": obj({"c?": NULL}, allOf=[closed_obj({"a?": INTEGER})]),
    "not": {"type": "string", "not": {"const": "a"}},
    "if, then, else": {**obj({"a?": INTEGER}), "if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
    # references
    "$ref beside keywords": {"$ref": "#/$defs/s", "maxLength": 3, "$defs": {"s": TEXT}},
    "$ref, by a path with escapes": {"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": integer(1, 3)}},
    "$ref to an anchor": {"$ref": "#here", "$defs": {"x": {"$anchor": "here", "type": "boolean"}}},
    "$ref to elsewhere": {"$ref": "https://example.com/other.json"},
    "$dynamicRef": {"$dynamicRef": "#x", "$defs": {"x": {"$dynamicAnchor": "x", "type": "string"}}},
    "recursion: tree": {**ref("tree"), "$defs": {"tree": _TREE}},
    "recursion: binary tree": {**ref("node"), "$defs": {"node": _NODE}},
    "recursion: expression": {**ref("expression"), "$defs": {"expression": _EXPRESSION}},
    "recursion: of the whole": closed_obj({"name": text(maxLength=5), "next?": {"$ref": "#"}}),
    "x-guidance": {"type": "string", "format": "iri", "x-guidance": {"lenient": True}},
    "what says nothing": {"type": "integer", "title": "n", "description": "d", "default": "x", "examples": [1], "deprecated": True, "$comment": "c", "nullable": True},
}  # fmt: skip
