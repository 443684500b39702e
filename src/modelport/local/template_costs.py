"""What a single operation of a chat template costs, charged before it runs: Python can't interrupt it.

`Budget.spend` counts a character of a text that is read or copied as one, which takes about a nanosecond. An operation
that takes longer for each character or item charges several, so that none takes more than some tenths of a second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jinja2.exceptions import SecurityError

from modelport.local.template_budget import (
    CONTAINERS,
    PER_ITEM,
    PER_WRITTEN_ITEM,
    SIZED,
    Budget,
    TemplateLimit,
    check_numbers,
    count_items,
    width_of,
)

#: What filters charge for each character of a text or each item of a list, beside reading it: those that run Python
#: code, a regular expression or several passes for each.
_FILTER_COSTS = {
    name: cost
    for cost, names in {
        4: "lower upper capitalize escape e forceescape",
        PER_ITEM: "list slice batch indent",
        20: "title urlencode wordcount",
        PER_WRITTEN_ITEM: "sort unique groupby dictsort min max sum join",
    }.items()
    for name in names.split()
}
#: The same for methods of texts.
_METHOD_COSTS = dict.fromkeys(("lower", "upper", "capitalize", "casefold", "swapcase", "title", "splitlines"), 4)
#: Filters that call a filter or a test for each item.
LAZY_FILTERS = frozenset(["map", "select", "reject", "selectattr", "rejectattr", "batch"])
#: Methods whose time or result isn't known before.
_REFUSED_METHODS = ("expandtabs", "translate", "striptags", "unescape")
#: Searches from the end compare the text that they search at each position.
_BACKWARD_SEARCHES = ("rfind", "rindex", "rsplit", "rpartition")
_STRIPPING = ("strip", "lstrip", "rstrip")
#: How many characters Python compares in the time of one unit.
_COMPARED_AT_ONCE = 8
#: The largest number of digits to round to, and the longest format of a date.
_MAX_DIGITS, _MAX_DATE_FORMAT = 400, 1000


def check_method(budget: Budget, owner: Any, name: str, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Check a call of a method of a text, a list or a dict before it runs.

    Raises:
        TemplateLimit: It would take too long or produce too much.
    """
    check_numbers((*args, *kwargs.values()))
    if name in _REFUSED_METHODS:
        raise TemplateLimit(f"it uses the method {name!r}, which can produce any length")
    for value in (None if isinstance(owner, dict) else owner, *args, *kwargs.values()):
        budget.read(value)
    if name == "pop":
        budget.spend(len(owner))
    if name == "append" and not all(value is None or isinstance(value, str | int | float) for value in args):
        # A list in itself would be read for ever.
        raise SecurityError("only texts and numbers can be appended to a list")
    if not isinstance(owner, str):
        return
    budget.spend(_METHOD_COSTS.get(name, 0) * len(owner))
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, str)]
    if name in ("format", "format_map"):
        budget.read_format(owner, (*args, *kwargs.values()))
    elif name == "replace":
        check_replace(budget, owner, *args)
    elif name == "join" and args and isinstance(args[0], str | Collection):
        budget.spend((len(owner) + PER_WRITTEN_ITEM) * len(args[0]))
    elif name in _STRIPPING or name in _BACKWARD_SEARCHES:
        budget.spend(len(owner) * (sum(map(len, given)) // _COMPARED_AT_ONCE))
    if name in ("split", "rsplit"):
        pieces = sum(owner.count(mark) for mark in given if mark) if given else len(owner) // 2
        budget.spend(PER_ITEM * pieces)


def check_replace(budget: Budget, text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    """Check what a replacement can produce.

    Raises:
        TemplateLimit: It is too much.
    """
    if isinstance(text, str) and isinstance(old, str) and isinstance(new, str):
        budget.spend(text.count(old) * (len(new) + 1))


def check_filter(budget: Budget, name: str, value: Any, options: Collection[Any], kwargs: Mapping[str, Any]) -> None:
    """Check a filter before it runs. The text of its value has been counted.

    Args:
        budget: The budget.
        name: The filter's name.
        value: What it filters.
        options: Its arguments.
        kwargs: Its arguments with names.

    Raises:
        TemplateLimit: It would take too long or produce too much.
    """
    given = (*options, *kwargs.values())
    cost = _FILTER_COSTS.get(name)
    if cost and isinstance(value, SIZED):
        budget.spend(cost * len(value))
    if name == "replace":
        check_replace(budget, *map(str, (value, *options, *(kwargs[n] for n in ("old", "new") if n in kwargs))))
    elif name == "join" and isinstance(value, str | Collection):
        budget.spend(max((len(str(option)) for option in given), default=0) * len(value))
    elif name == "format":
        budget.read_format(str(value), given)
    elif name == "sum" and any(isinstance(option, CONTAINERS) for option in given):
        raise TemplateLimit("it adds lists with the filter 'sum'")
    elif name == "trim" and isinstance(value, str):
        budget.spend(len(value) * (sum(map(width_of, given)) // _COMPARED_AT_ONCE))
    elif name == "round":
        digits = [option for option in given if isinstance(option, int)]
        if not isinstance(value, int | float) or any(abs(option) > _MAX_DIGITS for option in digits):
            raise TemplateLimit(f"it rounds something that is no number, or to more than {_MAX_DIGITS} digits")
    elif name in ("indent", "center"):
        budget.spend(sum(map(width_of, given)) * (str(value).count("\n") + 1))
    elif name == "tojson" and given:
        budget.spend(sum(map(width_of, given)) * count_items(value))


def check_test(budget: Budget, name: str, values: Collection[Any]) -> None:
    """Check a test before it runs.

    Raises:
        TemplateLimit: It would take too long or produce too much.
    """
    for value in values:
        compare(budget, value)
        if name in ("lower", "upper") and isinstance(value, CONTAINERS):
            budget.write(value)
    if name in ("odd", "even", "divisibleby") and not all(isinstance(value, int | float) for value in values):
        raise TemplateLimit(f"its test {name!r} has a value that is no number")  # `%` would format a text.


def compare(budget: Budget, value: Any) -> None:
    """Check an operand of a comparison or a test. Texts are only read, so they cost time and no characters.

    Raises:
        TemplateLimit: It would take too long.
    """
    if isinstance(value, str):
        budget.step(1 + len(value) // 10_000)
    elif isinstance(value, range):  # Searched item by item, except for whole numbers.
        budget.step(1 + len(value) // 100)
    elif isinstance(value, CONTAINERS):
        budget.read(value)
    else:
        budget.step()


def check_date_format(budget: Budget, text: str) -> None:
    """Check the format of a date.

    Raises:
        TemplateLimit: It is too long, or produces too much.
    """
    if len(text) > _MAX_DATE_FORMAT:
        raise TemplateLimit(f"the format of a date has more than {_MAX_DATE_FORMAT} characters")
    budget.read_format(text, ["x" * 32])
