"""The forms that a caller may ask an answer to have: a small language, apart from the engines that enforce it."""

from __future__ import annotations

import json
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from operator import or_
from typing import Any

from modelport.errors import InvalidRequest
from modelport.maskable import maskable


@dataclass(frozen=True)
class JSONSchema:
    """An answer that is JSON of this schema.

    Args:
        schema: A JSON schema (draft 2020-12).
        name: What services call it.
        type: The Python type that `parse` builds, or `None` for plain dicts and lists.
    """

    schema: dict[str, Any]
    name: str = "answer"
    type: Any = field(default=None, repr=False)

    def parse(self, text: str) -> Any:
        """The object that `text` holds.

        Raises:
            ValueError: It is no JSON, or not of this schema; the message says where.
        """
        if self.type is not None:
            return _parsed(self.type, text)
        try:
            value = json.loads(text)
        except RecursionError:
            raise ValueError("the JSON is nested too deeply") from None
        if (problem := mismatch(self.schema, value)) is not None:
            raise ValueError(problem)
        return value

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"JSON that is valid against this JSON schema, and nothing else:\n{json.dumps(self.schema)}"


@dataclass(frozen=True)
class Regex:
    r"""An answer that this regular expression matches as a whole.

    Args:
        pattern: Python's syntax without look-around and back-references; `\d`, `\w` and `\s` are ASCII.
    """

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise InvalidRequest(f"Regex takes a string, not {type(self.pattern).__name__}")
        try:
            re.compile(self.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise InvalidRequest(f"Regex({self.pattern!r}) is no valid regular expression: {error}") from None

    def parse(self, text: str) -> str:
        """The text itself.

        Raises:
            ValueError: The expression does not match it.
        """
        if re.fullmatch(self.pattern, text, re.ASCII) is None:
            raise ValueError(f"{text!r} does not match {self.pattern!r}")
        return text

    def for_engines(self) -> str:
        """The pattern in the dialect of the engines' masks (Rust's), fit to stand between slashes."""
        return _for_engines(self.pattern)

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"text that this regular expression matches as a whole, and nothing else: {self.pattern}"


@dataclass(frozen=True)
class Choice:
    """An answer that is one of these strings."""

    options: tuple[str, ...]

    def __init__(self, *options: str | list[str] | tuple[str, ...]) -> None:
        flat = tuple(o for option in options for o in (option if isinstance(option, (list, tuple)) else [option]))
        if not flat or not all(isinstance(option, str) and option for option in flat):
            raise InvalidRequest(f"Choice needs at least one string, none of them empty; got {flat!r}")
        object.__setattr__(self, "options", flat)

    def parse(self, text: str) -> str:
        """The text itself.

        Raises:
            ValueError: It is none of the options.
        """
        if text not in self.options:
            raise ValueError(f"{text!r} is none of {', '.join(map(repr, self.options))}")
        return text

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"exactly one of these, and nothing else: {json.dumps(self.options)}"


@dataclass(frozen=True)
class Lark:
    """An answer of this context-free grammar.

    Args:
        grammar: In llguidance's dialect of Lark; the start symbol is `start`.
            See https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
    """

    grammar: str

    def parse(self, text: str) -> str:
        """The text itself; only an engine's mask can check a context-free grammar."""
        return text

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"text of this Lark grammar, and nothing else:\n{self.grammar}"


Grammar = JSONSchema | Regex | Choice | Lark


def as_lark(grammar: Grammar, *, old: bool = False) -> str:
    """The grammar in llguidance's Lark, which llama.cpp, vLLM and every mask of ours read.

    JSON is written with single spaces, so that a weak model can't fill its budget with white space, and without escapes
    by number, behind which a key could hide that the schema has a say in.

    Args:
        grammar: What the answer must be.
        old: For the llguidance that is built into llama.cpp: it can't be told of escapes, and would ignore the grammar.

    Raises:
        UnsupportedFeature: The schema has a keyword to which no mask can hold an answer; see `maskable`.
    """
    if isinstance(grammar, Lark):
        return grammar.grammar
    if isinstance(grammar, Choice):
        options = (json.dumps(option, ensure_ascii=False).replace("\x7f", r"\u007f") for option in grammar.options)
        return "start: " + " | ".join(options)
    if isinstance(grammar, Regex):
        return f"start: /{grammar.for_engines()}/"
    style: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if not old:
        style["json_allowed_escapes"] = 'nrtbf\\"'
    return "start: %json " + json.dumps({"x-guidance": style, **maskable(grammar.schema)})


_TOKEN = re.compile(
    r"(?P<open>\[\^?)(?P<class>\]?(?:\\[\s\S]|[^\]\\])*)\]"
    r"|(?P<from_none>\{(?=,\d*\}))|(?P<brace>\{(?!\d+(?:,\d*)?\}))|\\[\s\S]|[/\n]"
)
_IN_CLASS = re.compile(r"\\[\s\S]|[\[\]&~/\n]")
_SPELT = {r"\d": "0-9", r"\w": "A-Za-z0-9_", r"\s": r" \t\n\r\f\v"}
_OUTSIDE = {r"\Z": r"\z", r"\<": "<", r"\>": ">", "/": r"\/", "\n": r"\n", "\\\n": r"\n"}
_INSIDE = {r"\b": r"\x08", "/": r"\/", "\n": r"\n", "\\\n": r"\n"}


def _for_engines(pattern: str) -> str:
    r"""Python's pattern as the engines' regex dialect (Rust's) says it, and fit to stand between slashes.

    `\d`, `\w` and `\s` are spelt out as ASCII, as people mean them: to the engines `\d` is any of Unicode's 760 digits,
    and a model at high temperature will write them. What means something else in Rust is escaped.
    """

    def outside(match: re.Match[str]) -> str:
        token = match[0]
        if match["open"]:
            return f"{match['open']}{_IN_CLASS.sub(inside, match['class'])}]"
        if match["from_none"] or match["brace"]:
            return "{0" if match["from_none"] else r"\{"
        return f"[{_SPELT[token]}]" if token in _SPELT else negated(token) or _OUTSIDE.get(token, token)

    def inside(match: re.Match[str]) -> str:
        token = match[0]
        if token in "[]&~":  # A class within a class, and operators on classes.
            return f"\\{token}"
        return _SPELT.get(token) or negated(token) or _INSIDE.get(token, token)

    def negated(token: str) -> str:
        return f"[^{_SPELT[token.lower()]}]" if token.lower() in _SPELT and token not in _SPELT else ""

    return _TOKEN.sub(outside, pattern)


_SCHEMA_KEYS = {"type", "properties", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "$schema"}


def grammar_from(value: Any) -> Grammar:
    """The grammar that a caller's `grammar` argument means.

    Args:
        value: One of `JSONSchema`, `Regex`, `Choice`, `Lark`; a JSON schema as a dict; a pydantic model, dataclass,
            TypedDict, Enum, Literal or other type; or `{"type": "json" | "regex", "value": …}`, the form of
            https://huggingface.co/docs/text-generation-inference/conceptual/guidance

    Raises:
        InvalidRequest: It is none of these.
    """
    if isinstance(value, JSONSchema) and value.type is None:
        _checked(value.schema)
    if isinstance(value, Grammar):
        return value
    if isinstance(value, str):
        raise InvalidRequest(
            f"grammar={value!r} is a bare string, which could mean many things: write Regex({value!r}), "
            f"Choice({value!r}, …) or Lark(…)"
        )
    if isinstance(value, dict):
        return _from_dict(value)
    return _from_type(value)


def grammar_from_response_format(value: Any) -> Grammar | None:
    """The grammar that OpenAI's `response_format` means; `None` for plain text.

    Raises:
        InvalidRequest: It is no form of `response_format`.
    """
    if isinstance(value, type):
        return _from_type(value)  # OpenAI's SDK takes a pydantic model here.
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return JSONSchema({"type": "object"}, name="json_object")
    if kind == "json_schema":
        inner = value.get("json_schema")
        name = (inner.get("name") or "answer") if isinstance(inner, dict) else None
        if isinstance(inner, dict) and isinstance(inner.get("schema"), dict) and isinstance(name, str):
            return JSONSchema(_checked(inner["schema"]), name=name)
        raise InvalidRequest("response_format['json_schema'] needs a 'schema' (a dict) and a 'name'")
    raise InvalidRequest(
        f"response_format's type is {kind!r}; it must be 'text', 'json_object' or 'json_schema' "
        "(see https://platform.openai.com/docs/guides/structured-outputs)"
    )


def _from_dict(value: dict[str, Any]) -> Grammar:
    kind = value.get("type")
    if "value" in value and kind in ("json", "json_object", "regex"):
        inner = value["value"]
        if kind == "regex":
            return Regex(inner)
        try:
            return JSONSchema(_checked(json.loads(inner) if isinstance(inner, str) else inner))
        except ValueError as error:
            raise InvalidRequest(f"grammar['value'] is a string and no JSON: {error}") from None
    if kind == "json_schema" and "json_schema" in value:
        grammar = grammar_from_response_format(value)
        assert grammar is not None
        return grammar
    if not _SCHEMA_KEYS & set(value):
        raise InvalidRequest(
            f"grammar is a dict with the keys {sorted(map(str, value))}, which is no JSON schema; a schema has at "
            "least a 'type', 'properties', 'enum', 'anyOf' or '$ref'"
        )
    return JSONSchema(_checked(value))


def _checked(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise InvalidRequest(f"a JSON schema must be a dict, not {type(schema).__name__}")
    try:
        problem = _problem_of_schema(json.dumps(schema))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"the JSON schema is no JSON: {error}") from None
    if problem is not None:
        raise InvalidRequest(problem)
    return schema


@lru_cache(64)  # it takes milliseconds, and an agent sends the same schemas with each call
def _problem_of_schema(text: str) -> str | None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match

    try:
        Draft202012Validator.check_schema(json.loads(text))
    except SchemaError as error:
        # Of what may stand there the nearest: "not one of 'array', 'boolean', …" instead of "none of the schemas".
        near = best_match(error.context) if error.context else error
        return f"the JSON schema is invalid at {error.json_path}: {near.message}"
    return None


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Where the value does not fit the JSON schema, in words; `None` where it does.

    Raises:
        InvalidRequest: The schema itself is broken.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match
    from referencing import Registry

    try:
        # With a registry of its own, the library does not fetch the addresses that a schema names.
        error = best_match(Draft202012Validator(schema, registry=Registry()).iter_errors(value))
    except Exception as broken:  # Of many kinds: an unknown type, a `$ref` to nowhere, a `pattern` that is none.
        raise InvalidRequest(f"the JSON schema can't be used: {str(broken).splitlines()[0]}") from None
    return None if error is None else f"at {error.json_path}: {error.message}"


def _from_type(value: Any) -> JSONSchema:
    try:
        schema = type_adapter(value).json_schema()
    except Exception as error:  # pydantic raises several kinds for what it can't describe.
        raise InvalidRequest(
            f"grammar={value!r} is no form known here: pass a JSON schema, a pydantic model, dataclass, TypedDict, "
            f"Enum or Literal, or Regex, Choice, JSONSchema, Lark ({str(error).splitlines()[0].partition('. ')[0]})"
        ) from None
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", getattr(value, "__name__", "answer"))
    return JSONSchema(closed(schema), name=name[:64], type=value)


def closed(schema: Any) -> Any:
    """The schema of a Python type with its objects closed, unless they say that they take more.

    The type would drop what it does not know, and a weak model that may go on with properties of its own does.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: {name: closed(item) for name, item in value.items()} if key in ("properties", "$defs")
        else value if key in ("const", "enum", "default", "examples")
        else closed(value)
        for key, value in schema.items()
    }  # fmt: skip
    if schema.get("type") == "object" and "properties" in schema:
        result.setdefault("additionalProperties", False)
    return result


def _parsed(kind: Any, text: str) -> Any:
    from pydantic import ValidationError

    try:
        return type_adapter(kind).validate_json(text)
    except ValidationError as error:  # whose own text has many lines and an address
        found = [(_path(item["loc"]), item["msg"]) for item in error.errors(include_url=False)]
        raise ValueError("; ".join(f"at {path}: {problem}" for path, problem in found)) from None


def _path(keys: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)


def type_adapter(kind: Any) -> Any:
    """What pydantic knows of a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(_portable(kind) if sys.version_info < (3, 12) else kind)


def _portable(kind: Any) -> Any:
    """The type with every TypedDict in it made by typing_extensions, as pydantic wants it before Python 3.12."""
    if typing.is_typeddict(kind):
        import typing_extensions

        items: Any = {}
        for key, hint in typing.get_type_hints(kind, include_extras=True).items():
            mark: Any = typing.Required if key in kind.__required_keys__ else typing.NotRequired
            if (own := typing.get_origin(hint)) in (typing.Required, typing.NotRequired):
                mark, hint = own, typing.get_args(hint)[0]  # Which `__required_keys__` misses where it is a string.
            items[key] = mark[_portable(hint)]
        make: Any = typing_extensions.TypedDict
        return make(kind.__name__, items)
    origin, arguments = typing.get_origin(kind), tuple(map(_portable, typing.get_args(kind)))
    if arguments == typing.get_args(kind):
        return kind
    return reduce(or_, arguments) if origin is types.UnionType else origin[arguments]
