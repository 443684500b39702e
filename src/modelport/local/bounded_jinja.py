"""A sandbox for chat templates in which every loop, call and operation counts towards a `Budget`.

It has the functions and settings of the transformers library's own sandbox, and renders the same prompts. Templates
that use the filters in `_REFUSED_FILTERS`, which no known chat template has, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, ClassVar

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from modelport.errors import InvalidRequest
from modelport.local.template_budget import (
    CONTAINERS,
    MAX_NUMBER,
    NAMESPACE_SIZE,
    SIZED,
    Budget,
    TemplateLimit,
    check_bits,
    check_numbers,
    current,
    limited,
    size_of,
)
from modelport.local.template_costs import (
    LAZY_FILTERS,
    check_date_format,
    check_filter,
    check_method,
    check_test,
    compare,
)

#: How many compiled templates are cached.
_CACHE_SIZE = 64
#: How many characters a template may have. Those of published models have less than 60,000.
MAX_SOURCE = 2**17
_REFUSED_FILTERS = ("urlize", "xmlattr", "wordwrap", "filesizeformat", "striptags", "pprint")
#: Filters that do not look into the items of a list. All others read everything that their input contains.
_SHALLOW_FILTERS = frozenset(
    """
    attr batch count d default first items last length list map reject rejectattr reverse select selectattr slice
    """.split()  # noqa: SIM905
)


class _GenerationTag(jinja2.ext.Extension):
    """The tag `{% generation %}`, which marks the assistant's text for training and renders its content."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """jinja2's `namespace` without names that begin with an underscore, which reach into Python."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *values = args
        current().spend(NAMESPACE_SIZE)
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # Without the values, which may be of any size.


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace can't have the attribute {name!r}")


class _MakeDict:
    """The function `dict`, without the attributes of Python's class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        # Keys with the same hash, which a template can make, take quadratic time.
        budget = current()
        return dict(*(budget.items(arg) if isinstance(arg, list | tuple) else arg for arg in args), **kwargs)


class _CountingTransformer(NodeTransformer):
    """Wraps parts of a parsed template in filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_items")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_result") if isinstance(node.arg, nodes.Slice) else node

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        check_bits(node.value)
        return node

    def visit_Slice(self, node: nodes.Slice) -> nodes.Node:
        self.generic_visit(node)
        node.start, node.stop, node.step = map(_unless_constant, (node.start, node.stop, node.step))
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_result")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, "_result") if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        for item in node.items:
            item.key = _unless_constant(item.key)
        return _filter(node, "_result")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _unless_constant(node.expr)
        for operand in node.ops:
            operand.expr = _unless_constant(operand.expr)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        literal = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else _filter(child, "_output") for child in node.nodes
        ]
        node.nodes.append(_filter(nodes.Const(literal, lineno=node.lineno), "_literal"))
        return node


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _unless_constant(node: Any) -> Any:
    return node if node is None or isinstance(node, nodes.Const) else _filter(node, "_compared")


# Filters with `pass_context` are not evaluated when the template is compiled.
@jinja2.pass_context
def _items(_: Any, values: Any) -> Any:
    return current().items(values)


@jinja2.pass_context
def _concat(_: Any, values: list[Any]) -> str:
    budget = current()
    for value in values:
        budget.write(value)
    return "".join(str(value) for value in values)


@jinja2.pass_context
def _result(_: Any, value: Any) -> Any:
    return current().result(value)


@jinja2.pass_context
def _compared(_: Any, value: Any) -> Any:
    compare(current(), value)
    return value


@jinja2.pass_context
def _output(_: Any, value: Any) -> Any:
    current().write(value)
    return value


@jinja2.pass_context
def _literal(_: Any, size: int) -> str:
    current().spend(size)
    return ""


class _BoundedEnvironment(ImmutableSandboxedEnvironment):
    filters: Any
    tests: Any
    intercepted_binops = frozenset({"+", "-", "*", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # Otherwise constants would be computed without a budget.
            extensions=[_GenerationTag, jinja2.ext.loopcontrols],
        )
        filters = {**self.filters, "tojson": _to_json}
        for name in _REFUSED_FILTERS:
            del filters[name]
        self.filters = {name: _counted_filter(name, function) for name, function in filters.items()} | {
            "_items": _items, "_concat": _concat, "_result": _result, "_compared": _compared, "_output": _output,
            "_literal": _literal,
        }  # fmt: skip
        self.tests = {name: _counted_test(name, function) for name, function in self.tests.items()}
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": _raise_exception, "strftime_now": _strftime_now, "namespace": _Namespace,
            "dict": _MakeDict(), "range": _range,
        }  # fmt: skip

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _CountingTransformer().visit(super()._parse(source, name, filename))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.step(1 + len(args) + len(kwargs))
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str | list | tuple | dict):
            args = tuple(list(value) if hasattr(value, "__next__") else value for value in args)
            check_method(budget, owner, getattr(__obj, "__name__", ""), args, kwargs)
        elif not isinstance(__obj, Macro):
            if getattr(__obj, "__name__", "") == "fromkeys":  # Keys with the same hash take quadratic time.
                raise TemplateLimit("it uses the method 'fromkeys'")
            for value in (owner, *args, *kwargs.values()):
                budget.write(value)
        with budget.deeper():
            return budget.result(super().call(__context, __obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Also allow a list as a queue, in which the templates of Kimi K2 collect IDs. All data are copies."""
        return (attr in ("append", "pop") and type(obj) is list) or super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        current().read(argument)  # A dict hashes it.
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = current()
        budget.step()
        if operator == "**" and not (abs(left) <= 2**32 and 0 <= right <= 64):
            raise TemplateLimit("it computes a power that is too large")
        if operator == "%" and isinstance(left, str):
            values = right if isinstance(right, tuple) else (right,)
            if "*" in left:  # A width can be one of the values.
                check_numbers(values)
                budget.spend(sum(abs(value) for value in values if isinstance(value, int)))
            budget.read_format(left, values)
        if operator == "-" and isinstance(left, CONTAINERS):  # Of the keys of dicts, which takes quadratic time.
            raise TemplateLimit("it subtracts lists")
        if operator == "*":
            for sequence, factor in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(factor, int):
                    budget.spend(size_of(sequence) * max(factor, 0))
        if operator == "+" and isinstance(left, str | list | tuple):
            budget.spend(size_of(left))
        return budget.result(super().call_binop(context, operator, left, right))


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the filter with counting."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0
    is_shallow = name in _SHALLOW_FILTERS

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        budget = current()
        budget.step()
        value, *options = args[skipped:]
        given = (*options, *kwargs.values())
        check_numbers(given)
        for item in given:
            budget.read(item)
        if not is_shallow:
            value = list(value) if hasattr(value, "__next__") else value
            budget.write(value)
        check_filter(budget, name, value, options, kwargs)
        if name in LAZY_FILTERS and value and isinstance(value, SIZED):
            value = budget.items(value)
        return budget.result(function(*args[:skipped], value, *options, **kwargs))

    return counted


def _counted_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        check_test(current(), name, (*args[skipped:], *kwargs.values()))
        return function(*args, **kwargs)

    return counted


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_NUMBER:
        raise TemplateLimit(f"it loops over {len(numbers)} numbers; at most {MAX_NUMBER} are accepted")
    return numbers


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(format: str) -> str:
    check_date_format(current(), format)
    return datetime.now().strftime(format)


@lru_cache(_CACHE_SIZE)
def compiled(source: str) -> jinja2.Template:
    """Return a template for `render`.

    Raises:
        InvalidRequest: The source is no template, is too long, or is nested too deeply.
    """
    if len(source) > MAX_SOURCE:
        raise InvalidRequest(f"the chat template has {len(source)} characters; at most {MAX_SOURCE} are accepted")
    try:
        return _BoundedEnvironment().from_string(source)
    except Exception as error:  # Besides jinja2's errors, Python's own for code that is nested too deeply.
        reason = "it is nested too deeply" if isinstance(error, RecursionError | MemoryError) else error
        raise InvalidRequest(f"the chat template can't be read: {reason}") from None


def render(source: str, variables: Mapping[str, Any], input_size: int = 0) -> str:
    """Render a template within a budget.

    Args:
        source: The template.
        variables: Its variables.
        input_size: The number of characters of the conversation.

    Raises:
        TemplateLimit: The rendering has reached a limit.
        InvalidRequest: The source is no template.
        Exception: The template raises an error of any kind.
    """
    template = compiled(source)
    with limited(Budget(input_size)):
        try:
            return str(template.render(variables))
        except (RecursionError, MemoryError) as error:
            raise TemplateLimit(f"it needs too much memory or depth ({type(error).__name__})") from None
