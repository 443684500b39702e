"""Rewrites a JSON schema to the subset that a service enforces. Pure functions.

Every value that is valid against the rewritten schema is valid against the original one, with three exceptions:

- Keywords that the service does not support are left out. They are written into descriptions instead.
- `oneOf` becomes `anyOf`, which also allows values that are valid against several of its schemas.
- If the service requires that every property is listed in `required`, optional properties become nullable.
  `remove_optional_nulls` removes these nulls from the output.

modelport always validates the output against the original schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from modelport.schema.time_limit import check_time

#: Keywords that restrict a value. A service enforces some of them; the others are written into descriptions.
CONSTRAINTS = frozenset(
    """
    pattern format minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minItems maxItems
    uniqueItems contains minContains maxContains unevaluatedItems unevaluatedProperties minProperties maxProperties
    propertyNames dependentRequired dependentSchemas dependencies not if then else contentEncoding contentMediaType
    """.split()  # noqa: SIM905
)
#: Keywords of `CONSTRAINTS` that modelport's validation ignores too, because draft 2020-12 does not validate them.
_UNCHECKED = frozenset({"contentEncoding", "contentMediaType", "dependencies"})
_ANY_VALUE = "a value may be anything"
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class UnsupportedSchema(ValueError):
    """The schema can't be rewritten to the subset. The message says why; in the message, "it" is the schema."""


@dataclass(frozen=True)
class SchemaRules:
    """The subset of JSON Schema that a service enforces.

    In the subset, objects never allow additional properties, except in the mode `any_object`.

    Args:
        keywords: The keywords of `CONSTRAINTS` that the service enforces, and `allOf` if the service supports it.
        formats: The values of `format` that the service enforces.
        all_required: Whether every property must be listed in `required`. If so, optional properties are rewritten as
            nullable.
        recursive: Whether a schema may refer to itself.
        object_root: Whether the root of the schema must be an object.
        any_object: Whether the service has a mode for "any JSON object", which is used for `{"type": "object"}`.
        max_properties: The maximum number of properties of all objects together; `None` for no limit.
        max_depth: How deep objects may be nested; `None` for no limit.
        max_enum: The maximum number of values of all enums together; `None` for no limit.
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
        """Return rules and `None` unchanged, and turn a dict, such as `to_dict` returns, into rules.

        Raises:
            ValueError: The value is of another type, or a key of the dict is not the name of a rule.
        """
        if value is None or isinstance(value, SchemaRules):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"must be SchemaRules or a dict, not {type(value).__name__}")
        known = {item.name for item in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise ValueError(f"{unknown[0]!r} is not a rule; known are {', '.join(sorted(known))}")
        sets = {name: frozenset(value[name]) for name in ("keywords", "formats") if name in value}
        return cls(**{**value, **sets})

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        return {key: sorted(v) if isinstance(v, frozenset) else v for key, v in asdict(self).items()}

    def rewrite(self, schema: Mapping[str, Any]) -> RewrittenSchema:
        """Rewrite a schema to the subset.

        Raises:
            UnsupportedSchema: The schema can't be rewritten.
        """
        if self.any_object and is_any_object(schema):
            return RewrittenSchema({"type": "object"}, ())
        return _Rewriter(self, schema).result()


def is_any_object(schema: Mapping[str, Any]) -> bool:
    """Return whether the schema allows every JSON object, and no other value."""
    keywords = {key: value for key, value in schema.items() if key not in ("title", "description", "$schema")}
    return keywords in ({"type": "object"}, {"type": "object", "additionalProperties": True})


@dataclass(frozen=True)
class RewrittenSchema:
    """A schema that was rewritten to a service's subset.

    Args:
        schema: The schema to send.
        left_out: The keywords that the service does not enforce. They were written into descriptions, except for
            `oneOf`, which became `anyOf`.
        unchecked: The keywords of `left_out` that modelport's validation does not check either.
    """

    schema: dict[str, Any]
    left_out: tuple[str, ...]
    unchecked: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the caller about the keywords that were left out."""
        checked = [keyword for keyword in self.left_out if keyword not in self.unchecked]
        groups = ((checked, "checked, not enforced"), (self.unchecked, "neither enforced nor checked"))
        return tuple(
            f"The schema's {', '.join(keywords)} {'is' if len(keywords) == 1 else 'are'} {what}."
            for keywords, what in groups
            if keywords
        )


class _Rewriter:
    """Rewrites one schema, and counts its properties and enum values."""

    def __init__(self, rules: SchemaRules, root: Mapping[str, Any]) -> None:
        self._rules, self._root = rules, root
        # Keywords that the service does not enforce: those that modelport's validation checks, and the others.
        self._left_out_checked: set[str] = set()
        self._left_out_unchecked: set[str] = set()
        self._property_count = self._enum_value_count = 0

    def result(self) -> RewrittenSchema:
        rules = self._rules
        if not rules.recursive:
            self._refuse_recursion(self._root, frozenset(), set())
        root = self._rewrite_part(self._root, 0)
        if rules.object_root and (root.get("type") != "object" or "anyOf" in root):
            raise UnsupportedSchema("its root must be an object")
        for count, limit, what in (
            (self._property_count, rules.max_properties, "properties"),
            (self._enum_value_count, rules.max_enum, "enum values"),
        ):
            if limit is not None and count > limit:
                raise UnsupportedSchema(f"it has {count} {what}; at most {limit} are supported")
        left_out = self._left_out_checked | self._left_out_unchecked
        return RewrittenSchema(root, tuple(sorted(left_out)), unchecked=tuple(sorted(self._left_out_unchecked)))

    def _rewrite_part(self, schema: Any, depth: int) -> dict[str, Any]:
        if not isinstance(schema, Mapping):
            raise UnsupportedSchema(_ANY_VALUE)
        result: dict[str, Any] = {k: schema[k] for k in ("title", "description") if isinstance(schema.get(k), str)}
        left_out: dict[str, Any] = {}
        for key, value in schema.items():
            if key in ("$defs", "definitions"):
                result[key] = {name: self._rewrite_part(part, depth) for name, part in value.items()}
            elif key == "$ref":
                _resolve(self._root, value)
                result[key] = value
            elif key in ("anyOf", "oneOf"):
                if key == "oneOf" and "discriminator" not in schema and not _have_disjoint_types(value):
                    self._left_out_checked.add(key)  # `anyOf` allows values that are valid against several parts.
                result["anyOf"] = [self._rewrite_part(part, depth) for part in value]
            elif key == "allOf":
                self._rewrite_all_of(value, result, depth)
            elif key == "enum":
                self._enum_value_count += len(value)
                result[key] = list(value)
            elif key in ("const", "type"):
                result[key] = value
            elif key in CONSTRAINTS:
                enforced = value in self._rules.formats if key == "format" else key in self._rules.keywords
                (result if enforced else left_out)[key] = value
        types = _json_types(schema)
        if "object" in types:
            self._rewrite_object(schema, result, depth + 1)
        if "array" in types:
            if not isinstance(schema.get("items"), Mapping) or schema.get("prefixItems"):
                raise UnsupportedSchema("the items of an array may be any value, or each have a schema of their own")
            result["items"] = self._rewrite_part(schema["items"], depth)
        if types and "type" not in result:
            result["type"] = types[0] if len(types) == 1 else types
        if not {"type", "anyOf", "allOf", "$ref"} & set(result):
            raise UnsupportedSchema(_ANY_VALUE)
        if left_out:
            self._record_left_out(left_out)
            result["description"] = " ".join(filter(None, (result.get("description"), json.dumps(left_out))))
        return self._isolate_reference(result)

    def _record_left_out(self, keywords: Mapping[str, Any]) -> None:
        # This import is delayed because few programs use formats, and importing modelport must be fast.
        from modelport.schema.formats import CHECKED_FORMATS

        for key, value in keywords.items():
            if key == "format" and value not in CHECKED_FORMATS:
                self._left_out_unchecked.add(f"format={value!r}")
            else:
                (self._left_out_unchecked if key in _UNCHECKED else self._left_out_checked).add(key)

    def _rewrite_all_of(self, parts: list[Any], result: dict[str, Any], depth: int) -> None:
        if "allOf" in self._rules.keywords:
            result["allOf"] = [self._rewrite_part(part, depth) for part in parts]
        elif len(parts) == 1:
            result |= self._rewrite_part(parts[0], depth)
        else:
            raise UnsupportedSchema("allOf is not supported")

    def _isolate_reference(self, part: dict[str, Any]) -> dict[str, Any]:
        """Move a `$ref` that has other keywords beside it into an `anyOf`, because services refuse such a `$ref`."""
        if "$ref" not in part or len(part) == 1:
            return part
        others = {k: v for k, v in part.items() if k not in ("$ref", "title")}
        return {"anyOf": [{"$ref": part["$ref"]}], **others} if others else {"$ref": part["$ref"]}

    def _rewrite_object(self, schema: Mapping[str, Any], result: dict[str, Any], depth: int) -> None:
        rules, properties = self._rules, schema.get("properties", {})
        extra = schema.get("additionalProperties")
        if extra not in (None, False) or schema.get("patternProperties") or not (properties or extra is False):
            raise UnsupportedSchema("an object may have properties that it does not list")
        if rules.max_depth is not None and depth > rules.max_depth:
            raise UnsupportedSchema(f"objects are nested deeper than {rules.max_depth}")
        self._property_count += len(properties)
        required = schema.get("required", ())
        if unknown := sorted(set(required) - set(properties)):
            raise UnsupportedSchema(f"{unknown[0]!r} is required, but not one of the properties")
        result["properties"] = {
            name: _nullable(part) if rules.all_required and name not in required else part
            for name, part in ((name, self._rewrite_part(part, depth)) for name, part in properties.items())
        }
        result["required"] = [*properties] if rules.all_required else [*required]
        result["additionalProperties"] = False

    def _refuse_recursion(self, schema: Any, followed: frozenset[str], checked: set[str]) -> None:
        """Raise `UnsupportedSchema` if a reference in a part of the schema leads back to a reference in `followed`.

        Args:
            schema: The part.
            followed: The references that were followed to get to this part.
            checked: The references from which none leads back. A schema may refer to one of them from many places, so
                it is followed only once.
        """
        if isinstance(schema, list):
            for part in schema:
                self._refuse_recursion(part, followed, checked)
        if not isinstance(schema, Mapping):
            return
        if isinstance(reference := schema.get("$ref"), str) and reference not in checked:
            if reference in followed:
                raise UnsupportedSchema("it refers to itself")
            self._refuse_recursion(_resolve(self._root, reference), followed | {reference}, checked)
            checked.add(reference)
        for key, value in schema.items():
            if key in ("properties", "patternProperties"):
                self._refuse_recursion([*value.values()], followed, checked)
            elif key in ("items", "anyOf", "oneOf", "allOf", "additionalProperties"):
                self._refuse_recursion(value, followed, checked)


def _resolve(root: Mapping[str, Any], reference: Any) -> Any:
    """Return the part of the schema to which a reference points.

    Raises:
        UnsupportedSchema: The reference points to another document, or to nothing.
    """
    target: Any = root
    path = str(reference)
    if not path.startswith("#"):
        raise UnsupportedSchema(f"it refers to {path!r}, which is not part of it")
    for key in path.removeprefix("#").strip("/").split("/") if path not in ("#", "#/") else ():
        key = key.replace("~1", "/").replace("~0", "~")
        target = target.get(key) if isinstance(target, Mapping) else None
    if not isinstance(target, Mapping):
        raise UnsupportedSchema(f"it refers to {path!r}, which is not part of it")
    return target


def _json_types(schema: Mapping[str, Any]) -> list[str]:
    """Return the JSON types that the schema names, or that its other keywords imply."""
    given = schema.get("type")
    if given is not None:
        return [given] if isinstance(given, str) else list(given)
    if "properties" in schema:
        return ["object"]
    if "items" in schema:
        return ["array"]
    values = schema["enum"] if "enum" in schema else [schema["const"]] if "const" in schema else []
    return sorted({_JSON_TYPES.get(type(value), "null") for value in values})


def _have_disjoint_types(parts: list[Any]) -> bool:
    """Return whether the types of these schemas differ, so that no value can be valid against two of them."""
    types = [name for part in parts for name in (_json_types(part) if isinstance(part, Mapping) else ()) or ("?",)]
    return "?" not in types and len({*types}) == len(types) and not {"integer", "number"} <= {*types}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if _accepts_null(schema):
        return schema
    described = {key: schema[key] for key in ("description",) if key in schema}
    inner = {key: value for key, value in schema.items() if key not in described}
    return {"anyOf": [inner, {"type": "null"}], **described}


def _accepts_null(schema: dict[str, Any]) -> bool:
    if "enum" in schema:
        return None in schema["enum"]
    types = schema.get("type", ())
    return "null" in ([types] if isinstance(types, str) else types) or any(
        isinstance(part, dict) and _accepts_null(part) for part in schema.get("anyOf", ())
    )


def remove_optional_nulls(schema: Mapping[str, Any], value: Any, is_valid: Callable[[Any, Any], bool]) -> Any:
    """Return the value without the nulls that the rewritten schema allows in place of optional properties.

    Args:
        schema: The original schema.
        value: A value that is valid against the rewritten schema.
        is_valid: Returns whether a value (second argument) is valid against a schema (first argument).

    Raises:
        InvalidRequest: It takes too long; see `modelport.schema.time_limit`.
    """
    return _NullRemover(schema, is_valid).clean(schema, value)


class _NullRemover:
    """Removes nulls from the values of one schema. Each pair of a part of the schema and a value is cleaned once."""

    def __init__(self, root: Mapping[str, Any], is_valid: Callable[[Any, Any], bool]) -> None:
        self._root, self._is_valid = root, is_valid
        self._definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        # The identities of a part and a value -> both, which keeps these identities theirs, and the cleaned value.
        self._cleaned: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def clean(self, schema: Any, value: Any) -> Any:
        """Return the value without the nulls, where `schema` is the part of the schema that the value is valid for."""
        if not isinstance(schema, Mapping):
            return value
        key = id(schema), id(value)
        if key not in self._cleaned:
            check_time()
            self._cleaned[key] = schema, value, self._clean(schema, value)
        return self._cleaned[key][2]

    def _clean(self, schema: Mapping[str, Any], value: Any) -> Any:
        if isinstance(reference := schema.get("$ref"), str):
            value = self.clean(_resolve(self._root, reference), value)
        for key in ("anyOf", "oneOf"):
            for part in schema.get(key, ()):
                if self._is_valid_part(part, cleaned := self.clean(part, value)):
                    value = cleaned
                    break
        for part in schema.get("allOf", ()):
            value = self.clean(part, value)
        if isinstance(value, dict) and "properties" in schema:
            known, required = schema["properties"], schema.get("required", ())
            value = {
                name: self.clean(known[name], item) if name in known else item
                for name, item in value.items()
                if item is not None or name in required or name not in known or self._is_valid_part(known[name], None)
            }
        if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
            value = [self.clean(schema["items"], item) for item in value]
        return value

    def _is_valid_part(self, part: Any, value: Any) -> bool:
        return self._is_valid({"allOf": [part], **self._definitions}, value)
