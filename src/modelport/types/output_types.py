"""The forms that a caller may ask an answer to have: a small language, apart from the engines that enforce it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from modelport.constrained.enforceable import enforceable
from modelport.errors import InvalidRequest, UnsupportedFeature
from modelport.schema.python_types import parsed, schema_of, service_name
from modelport.schema.rules import CONSTRAINTS
from modelport.types.messages import read_json


@dataclass(frozen=True)
class JSONSchema:
    """An answer that is JSON of this schema.

    Args:
        schema: A JSON schema (draft 2020-12).
        name: What services call it: letters, digits, `_` and `-`, up to 64. What else is in it becomes `_`.
        type: The Python type that `parse` builds, or `None` for plain dicts and lists.
    """

    schema: dict[str, Any]
    name: str = "answer"
    type: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidRequest(f"JSONSchema's name is a string, not {type(self.name).__name__}")
        object.__setattr__(self, "name", service_name(self.name))

    def parse(self, text: str) -> Any:
        """The object that `text` holds.

        Raises:
            ValueError: It is no JSON, or not of this schema; the message says where.
        """
        if self.type is not None:
            if _NOT_FINITE.search(text):  # which pydantic takes
                read_json(text)
            return parsed(self.type, text)
        value = read_json(text)
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
        pattern: Python's syntax without look-around and back-references; `\d`, `\w` and `\s` are ASCII, the cases of
            letters (under `(?i)`) Unicode's. With look-around and back-references an answer can be checked, though no
            engine is held to it, for as long as that can't take long.
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
            InvalidRequest: Finding out could take too long; see `regexes`.
        """
        from modelport.schema import regexes  # Few programs have any.

        if not regexes.fullmatch(self.pattern, text):
            raise ValueError(f"{text!r} does not match {self.pattern!r}")
        return text

    def for_engines(self) -> str:
        """The pattern in the dialect of the engines' masks (Rust's), fit to stand between slashes.

        Raises:
            UnsupportedFeature: It has a construct to which no mask can hold an answer.
        """
        from modelport.schema import regexes

        return regexes.for_engines(self.pattern)

    def describe(self) -> str:
        """The form in words that a model can follow."""
        return f"text that this regular expression matches as a whole, and nothing else: {self.pattern}"


@dataclass(frozen=True)
class Choice:
    """An answer that is one of these strings.

    Args:
        *options: The strings, or lists of them; none is empty.
    """

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


#: What there is in JSON text that holds an infinity or no number at all to Python; a string may hold it too.
_NOT_FINITE = re.compile(r"NaN|Infinity|[0-9.]{300}|[eE]\+?0*[1-9][0-9]{2}")

Grammar = JSONSchema | Regex | Choice | Lark


def as_lark(grammar: Grammar, *, old: bool = False) -> str:
    """The grammar in llguidance's Lark, which llama.cpp, vLLM and every mask of ours read.

    JSON is written with single spaces, so that a weak model can't fill its budget with white space, and without escapes
    by number, behind which a key could hide that the schema has a say in.

    Args:
        grammar: What the answer must be.
        old: For the llguidance that is built into llama.cpp: it can't be told of escapes, and would ignore the grammar.

    Raises:
        UnsupportedFeature: No mask can hold an answer to something in it; see `maskable` and `regexes`.
    """
    if isinstance(grammar, Lark):
        return grammar.grammar
    if isinstance(grammar, Choice):
        options = (json.dumps(option, ensure_ascii=False).replace("\x7f", r"\u007f") for option in grammar.options)
        # As a terminal: the engines' parser takes no more than 2000 alternatives of a rule, their lexer any number.
        return "start: OPTION\nOPTION: " + " | ".join(options)
    if isinstance(grammar, Regex):
        return f"start: /{grammar.for_engines()}/"
    style: dict[str, Any] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    if not old:
        style["json_allowed_escapes"] = 'nrtbf\\"'
    return "start: %json " + json.dumps({"x-guidance": style, **enforceable(grammar.schema)})


def may_go_on(grammar: Grammar, text: str, stop: str = "") -> bool:
    """Whether an answer that was cut may be the beginning of a longer one, though it has the form itself.

    Args:
        grammar: The form.
        text: An answer that has it.
        stop: The stop sequence that cut it, and so came next: one that the form has no place for ended it instead.

    Returns:
        For a `Regex` the truth where llguidance is there, which knows what may follow; for a `Lark` that was stopped
        whether the stop sequence was not its end; for one that was not, `True`.
    """
    whole = text + stop
    if isinstance(grammar, Choice):
        return any(option != text and option.startswith(whole) for option in grammar.options)
    if isinstance(grammar, JSONSchema):  # only a bare number has no end of its own
        return _NUMBER.fullmatch(whole.lstrip()) is not None
    if isinstance(grammar, Lark) and not stop:
        return True
    try:
        from llguidance import LLMatcher, LLTokenizer

        matcher = LLMatcher(LLTokenizer("byte"), as_lark(grammar), log_level=0)
    except (ImportError, UnsupportedFeature):
        return not stop
    data = list(whole.encode())
    if matcher.try_consume_tokens(data) < len(data):
        return not stop
    if isinstance(grammar, Lark):
        return not matcher.is_accepting()
    return bool(stop) or not matcher.is_stopped()


#: What a JSON number may begin with.
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]*)?")


#: A dict that has none of them is hardly meant for a schema.
_SCHEMA_KEYS = CONSTRAINTS | {
    "type", "properties", "required", "additionalProperties", "patternProperties", "items", "prefixItems", "enum",
    "const", "anyOf", "oneOf", "allOf", "$ref", "$dynamicRef", "$defs", "$schema",
}  # fmt: skip


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
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"response_format={value!r}: it takes a dict in OpenAI's form or a pydantic model; for another form write "
            "grammar=…"
        )
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
        return f"the JSON schema is invalid at {error.json_path}: {_short(near.message)}"
    except (RecursionError, OverflowError) as error:  # of reading a `pattern`
        return f"the JSON schema can't be used: {error}"
    return None


def mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Where the value does not fit the JSON schema, in words; `None` where it does.

    Formats are checked too: those of `formats.CHECKED`.

    Raises:
        InvalidRequest: The schema itself is broken.
    """
    from jsonschema.exceptions import best_match
    from referencing import Registry

    from modelport.schema.formats import format_checker
    from modelport.schema.validators import in_time, validator_class

    try:
        # With a registry of its own, the library does not fetch the addresses that a schema names.
        validator = validator_class()(schema, registry=Registry(), format_checker=format_checker())
        with in_time():
            error = best_match(validator.iter_errors(value))
    except RecursionError:
        if _depth(value) > _DEEP:
            return "at $: it is nested too deeply to be checked"
        raise InvalidRequest("the JSON schema can't be used: it refers to itself without an end") from None
    except Exception as broken:  # Of many kinds: an unknown type, a `$ref` to nowhere, a `pattern` that is none.
        raise InvalidRequest(f"the JSON schema can't be used: {str(broken).splitlines()[0]}") from None
    return None if error is None else f"at {error.json_path}: {_short(error.message)}"


def _short(message: str) -> str:
    """Without the middle: values stand in it as a whole, and a model may be told it."""
    return message if len(message) <= 2000 else f"{message[:1000]} … {message[-1000:]}"


#: A value that is not nested deeper can be checked.
_DEEP = 20


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [
        part for item in level if isinstance(item, dict | list)
        for part in (item.values() if isinstance(item, dict) else item)
    ]:  # fmt: skip
        depth += 1
    return depth


def _from_type(kind: Any) -> JSONSchema:
    schema, name = schema_of(kind)
    return JSONSchema(schema, name=name, type=kind)
