"""Fits a JSON schema to the subset that a service enforces. Pure functions.

Every answer of the fitted schema is one of the original, but for the keywords that had to be left out and for nulls in
the place of optional properties, which `without_nulls` takes out again. The port checks the original in any case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

#: Keywords that hold a value to something. A service enforces some; the others are left out and put into words.
CONSTRAINTS = frozenset(
    """
    pattern format minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems
    uniqueItems contains minContains maxContains unevaluatedItems unevaluatedProperties minProperties maxProperties
    propertyNames dependentRequired dependentSchemas dependencies not if then else contentEncoding contentMediaType
    """.split()  # noqa: SIM905
)
#: Those of them that the port's own check passes over, as draft 2020-12 has it.
_UNCHECKED = frozenset({"contentEncoding", "contentMediaType", "dependencies"})
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class UnsupportedSchema(ValueError):
    """The schema can't be said in the subset; the message says what stands in the way."""


@dataclass(frozen=True)
class SchemaRules:
    """The subset of JSON Schema that a service enforces by itself. Objects are always closed in it.

    Args:
        keywords: Those of `CONSTRAINTS` that it enforces, and `allOf`.
        formats: The values of `format` that it enforces.
        all_required: Every property must be required; one that is optional is written as nullable.
        recursive: A schema may refer to itself.
        object_root: The whole answer must be an object.
        any_object: It has a mode for "any JSON object", as which `{"type": "object"}` alone goes.
        max_properties: Of all objects together.
        max_depth: How deep objects may be nested.
        max_enum: Of all enums together.
    """

    keywords: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    all_required: bool = False
    recursive: bool = False
    object_root: bool = False
    any_object: bool = False
    max_properties: int | None = None
    max_depth: int | None = None
    max_enum: int | None = None

    @classmethod
    def from_value(cls, value: SchemaRules | Mapping[str, Any] | None) -> SchemaRules | None:
        """The rules that a dict of `to_dict` tells of.

        Raises:
            ValueError: A name is no rule.
        """
        if value is None or isinstance(value, SchemaRules):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must be SchemaRules or a dict, not {type(value).__name__}")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"{unknown[0]!r} is no rule; there are {', '.join(sorted(known))}")
        sets = {name: frozenset(value[name]) for name in ("keywords", "formats") if name in value}
        return cls(**{**value, **sets})

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {key: sorted(v) if isinstance(v, frozenset) else v for key, v in asdict(self).items()}

    def rewrite(self, schema: Mapping[str, Any]) -> RewrittenSchema:
        """The schema in the subset.

        Raises:
            UnsupportedSchema: It can't be said there.
        """
        if self.any_object and is_any_object(schema):
            return RewrittenSchema({"type": "object"}, ())
        return _Fitting(self, schema).result()


def is_any_object(schema: Mapping[str, Any]) -> bool:
    """Whether the schema says no more than "a JSON object"."""
    says = {key: value for key, value in schema.items() if key not in ("title", "description", "$schema")}
    return says in ({"type": "object"}, {"type": "object", "additionalProperties": True})


@dataclass(frozen=True)
class RewrittenSchema:
    """A schema in a service's subset.

    Args:
        schema: What is sent.
        left_out: The keywords that the service can't enforce; they stand in descriptions instead.
        unchecked: Those of them to which the port can't hold an answer either.
    """

    schema: dict[str, Any]
    left_out: tuple[str, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the caller is told of the keywords that were left out."""
        checked = [keyword for keyword in self.left_out if keyword not in self.unchecked]
        says = ((checked, "checked, not enforced"), (self.unchecked, "neither enforced nor checked"))
        return tuple(f"{', '.join(keywords)} of the schema were {what}" for keywords, what in says if keywords)


class _Fitting:
    """One schema on its way through the rules."""

    def __init__(self, rules: SchemaRules, root: Mapping[str, Any]) -> None:
        self._rules, self._root = rules, root
        self._left_out: set[str] = set()
        self._unchecked: set[str] = set()
        self._properties = self._enums = 0

    def result(self) -> RewrittenSchema:
        rules = self._rules
        if not rules.recursive:
            self._refuse_loops(self._root, frozenset())
        whole = self._part(self._root, 0)
        if rules.object_root and (whole.get("type") != "object" or "anyOf" in whole):
            raise UnsupportedSchema("the whole answer must be an object")
        for count, most, what in (
            (self._properties, rules.max_properties, "properties"),
            (self._enums, rules.max_enum, "enum values"),
        ):
            if most is not None and count > most:
                raise UnsupportedSchema(f"it has {count} {what}; at most {most} are taken")
        return RewrittenSchema(whole, tuple(sorted(self._left_out | self._unchecked)), tuple(sorted(self._unchecked)))

    def _part(self, schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, Mapping):
            raise UnsupportedSchema("a value may be just anything")
        result: dict[str, Any] = {k: schema[k] for k in ("title", "description") if isinstance(schema.get(k), str)}
        spoken: dict[str, Any] = {}
        for key, value in schema.items():
            if key in ("$defs", "definitions"):
                result[key] = {name: self._part(part, depth) for name, part in value.items()}
            elif key == "$ref":
                _resolved(self._root, value)
                result[key] = value
            elif key in ("anyOf", "oneOf"):
                if key == "oneOf" and "discriminator" not in schema and not _apart(value):
                    self._left_out.add(key)
                result["anyOf"] = [self._part(part, depth) for part in value]
            elif key == "allOf":
                self._all_of(value, result, depth)
            elif key == "enum":
                self._enums += len(value)
                result[key] = list(value)
            elif key in ("const", "type"):
                result[key] = value
            elif key in CONSTRAINTS:
                enforced = value in self._rules.formats if key == "format" else key in self._rules.keywords
                (result if enforced else spoken)[key] = value
        kinds = _kinds(schema)
        if "object" in kinds:
            self._object(schema, result, depth + 1)
        if "array" in kinds:
            if not isinstance(schema.get("items"), Mapping) or schema.get("prefixItems"):
                raise UnsupportedSchema("the items of an array may be just anything, or each is of its own kind")
            result["items"] = self._part(schema["items"], depth)
        if kinds and "type" not in result:
            result["type"] = kinds[0] if len(kinds) == 1 else kinds
        if not {"type", "anyOf", "allOf", "$ref"} & set(result):
            raise UnsupportedSchema("a value may be just anything")
        if spoken:
            self._leave_out(spoken)
            result["description"] = " ".join(filter(None, (result.get("description"), json.dumps(spoken))))
        return self._alone(result)

    def _leave_out(self, spoken: Mapping[str, Any]) -> None:
        from modelport.schema.formats import CHECKED  # and what checks them, which few programs need

        for key, value in spoken.items():
            if key == "format" and value not in CHECKED:
                self._unchecked.add(f"format={value!r}")
            else:
                (self._unchecked if key in _UNCHECKED else self._left_out).add(key)

    def _all_of(self, parts: list[Any], result: dict[str, Any], depth: int) -> None:
        if "allOf" in self._rules.keywords:
            result["allOf"] = [self._part(part, depth) for part in parts]
        elif len(parts) == 1:
            result |= self._part(parts[0], depth)
        else:
            raise UnsupportedSchema("allOf is not taken")

    def _alone(self, part: dict[str, Any]) -> dict[str, Any]:
        """A reference stands alone, or services refuse what is beside it."""
        if "$ref" not in part or len(part) == 1:
            return part
        beside = {k: v for k, v in part.items() if k not in ("$ref", "title")}
        return {"anyOf": [{"$ref": part["$ref"]}], **beside} if beside else {"$ref": part["$ref"]}

    def _object(self, schema: Mapping[str, Any], result: dict[str, Any], depth: int) -> None:
        rules, properties = self._rules, schema.get("properties", {})
        extra = schema.get("additionalProperties")
        if extra not in (None, False) or schema.get("patternProperties") or not (properties or extra is False):
            raise UnsupportedSchema("an object may have properties that it does not list")
        if rules.max_depth is not None and depth > rules.max_depth:
            raise UnsupportedSchema(f"objects are nested deeper than {rules.max_depth}")
        self._properties += len(properties)
        required = schema.get("required", ())
        if unknown := sorted(set(required) - set(properties)):
            raise UnsupportedSchema(f"{unknown[0]!r} is required and not listed")
        result["properties"] = {
            name: _nullable(fitted) if rules.all_required and name not in required else fitted
            for name, fitted in ((name, self._part(part, depth)) for name, part in properties.items())
        }
        result["required"] = [*properties] if rules.all_required else [*required]
        result["additionalProperties"] = False

    def _refuse_loops(self, schema: Any, above: frozenset[str]) -> None:
        if isinstance(schema, list):
            for part in schema:
                self._refuse_loops(part, above)
        if not isinstance(schema, Mapping):
            return
        if isinstance(reference := schema.get("$ref"), str):
            if reference in above:
                raise UnsupportedSchema("it refers to itself")
            self._refuse_loops(_resolved(self._root, reference), above | {reference})
        for key, value in schema.items():
            if key in ("properties", "patternProperties"):
                self._refuse_loops([*value.values()], above)
            elif key in ("items", "anyOf", "oneOf", "allOf", "additionalProperties"):
                self._refuse_loops(value, above)


def _resolved(root: Mapping[str, Any], reference: Any) -> Any:
    """What a reference within the schema points to.

    Raises:
        UnsupportedSchema: It points elsewhere.
    """
    target: Any = root
    path = str(reference)
    if not path.startswith("#"):
        raise UnsupportedSchema(f"it refers to {path!r}, which is not part of it")
    for key in path.removeprefix("#").strip("/").split("/") if path not in ("#", "#/") else ():
        key = key.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, Mapping) else None
    if not isinstance(target, Mapping):
        raise UnsupportedSchema(f"it refers to {path!r}, which it does not have")
    return target


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    """The JSON types that the schema names, or shows by its other keywords."""
    given = schema.get("type")
    if given is not None:
        return [given] if isinstance(given, str) else list(given)
    if "properties" in schema:
        return ["object"]
    if "items" in schema:
        return ["array"]
    values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else []
    return sorted({_KINDS.get(type(value), "null") for value in values})


def _apart(parts: list[Any]) -> bool:
    """Whether no value can be of two of these schemas, by their types."""
    kinds = [kind for part in parts for kind in (_kinds(part) if isinstance(part, Mapping) else ()) or ("?",)]
    return "?" not in kinds and len({*kinds}) == len(kinds) and not {"integer", "number"} <= {*kinds}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if _accepts_null(schema):
        return schema
    described = {key: schema[key] for key in ("description",) if key in schema}
    inner = {key: value for key, value in schema.items() if key not in described}
    return {"anyOf": [inner, {"type": "null"}], **described}


def _accepts_null(schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return None in schema["enum"]
    kinds = schema.get("type", ())
    return "null" in ([kinds] if isinstance(kinds, str) else kinds) or any(
        isinstance(part, dict) and _accepts_null(part) for part in schema.get("anyOf", ())
    )


def without_nulls(schema: Mapping[str, Any], value: Any, fits: Any, root: Mapping[str, Any] | None = None) -> Any:
    """The value without the nulls that stand in the place of optional properties.

    Args:
        schema: The original one, or a part of it.
        value: Of the fitted one.
        fits: A function of a schema and a value: whether they go together.
        root: The whole schema.
    """
    root = schema if root is None else root
    if not isinstance(schema, Mapping):
        return value

    def valid(part: Any, candidate: Any) -> bool:
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        return bool(fits({"allOf": [part], **definitions}, candidate))

    if isinstance(reference := schema.get("$ref"), str):
        value = without_nulls(_resolved(root, reference), value, fits, root)
    for key in ("anyOf", "oneOf"):
        for part in schema.get(key, ()):
            if valid(part, cleaned := without_nulls(part, value, fits, root)):
                value = cleaned
                break
    for part in schema.get("allOf", ()):
        value = without_nulls(part, value, fits, root)
    if isinstance(value, dict) and "properties" in schema:
        known, required = schema["properties"], schema.get("required", ())
        value = {
            name: without_nulls(known[name], item, fits, root) if name in known else item
            for name, item in value.items()
            if item is not None or name in required or name not in known or valid(known[name], None)
        }
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        value = [without_nulls(schema["items"], item, fits, root) for item in value]
    return value
