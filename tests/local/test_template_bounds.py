"""Chat templates are programs of strangers: they end, and ordinary ones render as the transformers library does."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from typing import Any

import pytest
from tests.conformance.subjects import REASONING_TEMPLATE, TOOLS_TEMPLATE
from tests.local.test_vision import TEMPLATE as IMAGE_TEMPLATE
from tests.servers.smollm2 import smollm2_folder

from modelport import InvalidRequest
from modelport.local import template_budget
from modelport.local.chat_template import PROBES, ChatTemplate
from modelport.local.template_formats import library_format
from modelport.local.template_renderer import check_template, probe_template, rendered, renderer_for
from modelport.runtime.threads import in_thread

pytestmark = [pytest.mark.engine, pytest.mark.timeout(120)]

#: Name -> a template that would compute or allocate without end.
HOSTILE = {
    "one long range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "an endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a recursion through a loop": "{% for i in [[1]] recursive %}{{ loop([i]) }}{% endfor %}",
    "two calls in each macro": "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "a product of a text": "{{ 'x' * 10**10 }}",
    "a product of a list": "{{ [1] * 10**10 }}",
    "a text doubled in a loop": "{% set n = namespace(t='xx') %}{% for i in range(60) %}{% set n.t = n.t + n.t %}"
    "{% endfor %}",
    "a text doubled by the operator ~": "{% set n = namespace(t='xx') %}{% for i in range(60) %}"
    "{% set n.t = n.t ~ n.t %}{% endfor %}",
    "a list that contains itself twice": "{% set n = namespace(l=[1]) %}{% for i in range(60) %}"
    "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
    "the same as JSON": "{% set n = namespace(l=[1]) %}{% for i in range(40) %}{% set n.l = [n.l, n.l] %}"
    "{% endfor %}{{ n.l | tojson }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a width in a format": "{{ '%999999999d' % 1 }}",
    "a width in a method": "{{ '{:>999999999}'.format(1) }}",
    "a method that fills": "{{ 'x'.ljust(10**9) }}",
    "a filter that fills": "{{ 'x' | center(10**9) }}",
    "a filter that indents": "{{ ('\\n' * 90000) | indent(90000) }}",
    "a replacement": "{{ ('x' * 90000).replace('x', 'y' * 90000) }}",
    "an endless output": "{% for i in range(90000) %}{{ 'x' * 900 }}" + "x" * 1000 + "{% endfor %}",
}  # fmt: skip
#: Builds tuples and lists that contain the same one twice, 45 times over. `a == b`, but they share nothing.
SHARED = (
    "{% set n = namespace(t=(1,), a=[1], b=[1]) %}{% for i in range(45) %}{% set n.t = (n.t, n.t) %}"
    "{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}"
)
#: Name -> what follows `SHARED`. Each would hash, compare or write everything at once, in C.
HOSTILE |= {
    f"shared lists: {source}": SHARED + source
    for source in (
        "{{ {}.get(n.t) }}", "{{ {}[n.t] }}", "{{ {n.t: 1} }}", "{{ dict([(n.t, 1)]) }}", "{{ namespace([(n.t, 1)]) }}",
        "{{ n.t in {} }}", "{{ n.a == n.b }}", "{{ n.a != n.b }}", "{{ n.a < n.b }}", "{{ n.a in {1: n.b}.values() }}",
        "{{ {}.keys() - [n.t] }}", "{{ {1: n.t}.values() }}", "{{ 'x' | attr(n.t) }}", "{{ {1: 2}[1:n.t] }}",
        "{% for k in [n.a, n.b] %}{{ loop.changed(k) }}{% endfor %}", "{{ {}.fromkeys([n.t]) }}",
        "{{ raise_exception(n.t) }}", "{{ '{}'.format(n) }}", "{{ '%s' % n }}",
    )
} | {
    "tuples too deep to be hashed": "{% set n = namespace(t=()) %}{% for i in range(90000) %}{% set n.t = (n.t,) %}"
    "{% endfor %}{{ {}.get(n.t) }}",
    "a sum of lists": "{{ ([[0] * 5000] * 3000) | sum(start=[]) }}",
    "many widths in a method": "{{ ('{0:99999}' * 20000).format(1) }}",
    "a width that is an item of a value": "{{ '{0:{1[0]}}'.format(1, [10**9]) }}",
    "many widths in a format": "{{ ('%99999d' * 20000) % ((1,) * 20000) }}",
    "many widths that are values": "{{ ('%*d' * 20000) % ((99999, 1) * 20000) }}",
    "many long values in a format": "{{ ('%(a)s' * 20000) % {'a': 'x' * 90000} }}",
    "many widths in a filter": "{{ ('%(a)99999d' * 20000) | format(a=1) }}",
    "many long values in a filter": "{{ ('%(a)s' * 20000) | format(a='x' * 90000) }}",
    "many long attributes in a method": "{% set n = namespace(a='x' * 90000) %}{{ ('{0.a}' * 20000).format(n) }}",
    "a separator given by name": "{{ ([''] * 9000) | join(d='y' * 90000) }}",
    "the separators of JSON": "{{ ([1] * 9000) | tojson(separators=('y' * 90000, ':')) }}",
    "a replacement given by name": "{{ ('x' * 9000) | replace(old='x', new='y' * 90000) }}",
    "a replacement of a number": "{{ ('1' * 9000) | replace(1, 'y' * 90000) }}",
    "bytes": "{{ ('x' * 9000).encode().replace('x'.encode(), ('y' * 900000).encode()) }}",
    "bytes of a number": "{{ (1).to_bytes(9, 'big') }}",
    "many lists": "{% for i in range(90000) %}{% set l = [" + "0," * 5000 + "] %}{% endfor %}",
    "many namespaces": "{% set n = namespace() %}{% for i in range(90000) %}{% for j in range(9) %}"
    "{% set n.n = namespace(n=n.n) %}{% endfor %}{% endfor %}",
    "a list that grows": "{% set l = [1] %}{% for x in l %}{% for i in range(90000) %}{% set _ = l.append(x) %}"
    "{% endfor %}{% endfor %}{{ l }}",
    "many items of a queue": "{% set l = [1] * 90000 %}{% for i in range(90000) %}{% set _ = l.append(l.pop(0)) %}"
    "{% endfor %}",
    "many lists of a filter": "{% for i in range(90000) %}{% set l = [1] | batch(90000, 0) | list %}{% endfor %}",
}  # fmt: skip
#: Name -> operations that were not charged, or less than they take. Some never ended, and ten of one took minutes.
HOSTILE |= {
    "tests of a long text": "{% set s = 'a' * 15000000 %}" + "{% set x = s is lower %}" * 400,
    "searches of a long text": "{% set s = 'a' * 11000000 %}{% set t = 'a' * 900000 + 'b' + 'a' * 900000 %}"
    + "{% set x = t in s %}" * 200,
    "comparisons of long texts": "{% set s = 'a' * 7000000 %}{% set t = s ~ '' %}{% set x = s"
    + " == t == s" * 1000 + " %}",
    "searches of a long range": "{% set r = range(99999) %}" + "{% set x = 'a' in r %}" * 1000,
    "arguments of a macro": "{% macro m() %}{{ varargs[0] }}{% endmacro %}{% set l = [1] * 1500000 %}"
    + "{% set x = m(*l) %}" * 400,
    "shared lists as safe text": SHARED + "{{ n.a | safe }}",
    "a set of characters to strip": "{{ ('a' * 1000000).strip('b' * 1000000 + 'a') }}",
    "a set of characters to trim": "{{ ('a' * 1000000) | trim('b' * 1000000 + 'a') }}",
    "a search from the end": "{{ ('a' * 1000000).rfind('ab' + 'a' * 500000) }}",
    "a split from the end": "{{ ('a' * 1000000).rsplit('ab' + 'a' * 500000) }}",
    "a width in a test for odd numbers": "{{ '%99999999d' is odd }}",
    "a width in a test of division": "{{ '%99999999d' is divisibleby 3 }}",
    "a text that is rounded": "{{ 'ab' | round(8, 'floor') }}",
    "a number that is rounded": "{% for i in range(90000) %}{% set x = 1 | round(-99999) %}{% endfor %}",
    "words in upper case": "{% set x = ('a ' * 3000000) | title %}",
    "a list that is sorted": "{% set x = ([1] * 3000000) | sort %}",
    "items of a list that is all the same": "{% set x = ([1] * 9000000) | unique | list %}",
    "items of a list that is all zero": "{% set x = ([0] * 9000000) | select | list %}",
    "characters of a text": "{% set x = ('中' * 5000000) | list %}",
    "the largest character of a text": "{% set x = ('a' * 5000000) | max %}",
    "words of a text": "{% set x = ('中b ' * 2500000).split() %}",
    "numbers that are written": "{% set x = ([2 ** 64 * 2 ** 64 * 2 ** 64] * 500000) | string %}",
    "JSON with indents": "{% set x = ([1] * 1500000) | tojson(indent=1) %}",
    "many fields in a method": "{% set x = ('{0}' * 2000000).format(1) %}",
    "a long format of a date": "{% set x = strftime_now('%c' * 50000) %}",
}  # fmt: skip
MESSAGES = [{"role": "user", "content": "Hello"}]
#: Renders reasoning, calls and tools, so that all its texts are searched for marks. `BEFORE` is replaced.
_SEARCHED = (
    "{%- for m in messages %}{{ m.role }}: {{ m.content }}\n{% if m.reasoning_content %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{% if m.tool_calls %}BEFORE"
    "{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>"
    "{% endfor %}{% endif %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
)
#: Name -> a template whose texts take long to search.
LONG_TEXTS = {
    "marks before JSON that isn't valid": _SEARCHED.replace("BEFORE", "{{ '<a>[ ' * 200000 }}"),
    "the same, within the bound of a text": _SEARCHED.replace("BEFORE", "{{ '<a>[ ' * 26000 }}"),
    "a long prompt": "{{ 'a' * 6000000 }}" + _SEARCHED.replace("BEFORE", ""),
    "marks around reasoning": _SEARCHED.replace("BEFORE", "{{ '<|end|>' * 1000000 }}"),
}


@pytest.fixture(scope="module")
def loaded_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_folder())


@pytest.fixture
def tokenizer(loaded_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tokenizer of the transformers library, whose chat template a test may replace."""
    monkeypatch.setattr(loaded_tokenizer, "chat_template", loaded_tokenizer.chat_template)
    return loaded_tokenizer


@pytest.fixture
def short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.2)


@pytest.mark.usefixtures("short_time")
@pytest.mark.parametrize("name", HOSTILE)
def test_template_that_computes_without_end_is_ended(name: str) -> None:
    begin = time.thread_time()
    with pytest.raises(InvalidRequest, match=r"^the model's chat template was ended: "):
        rendered(HOSTILE[name], {"messages": MESSAGES})
    assert time.thread_time() - begin < 3


@pytest.mark.usefixtures("short_time")
@pytest.mark.parametrize(
    "name",
    [
        "a number that is rounded",
        "words in upper case",
        "numbers that are written",
        "a list that is sorted",
        "characters of a text",
        "JSON with indents",
        "many fields in a method",
    ],
)
def test_operation_that_would_take_long_is_refused_before_it_runs(name: str) -> None:
    """The time would be over behind it."""
    with pytest.raises(InvalidRequest, match=r"ended: it (produces|rounds)"):
        rendered(HOSTILE[name], {"messages": MESSAGES})


def test_all_renderings_at_load_together_have_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The features of a template are found by several renderings, more if the first ones succeed."""
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 1.0)
    renderings = []

    def apply(messages: Any, **variables: Any) -> str:
        renderings.append(messages)
        return rendered(HOSTILE["nested loops"], {"messages": messages, **variables})

    begin = time.thread_time()
    template = ChatTemplate(apply, HOSTILE["nested loops"])
    assert time.thread_time() - begin < 2
    assert len(renderings) > 3
    assert template.capabilities()["tools"] is False
    # The time of later renderings begins anew.
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert ChatTemplate(lambda messages, **_: rendered(plain, {"messages": messages}), plain).capabilities()[
        "system_role"
    ]


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_long_text_of_a_template_is_not_searched_at_load(name: str) -> None:
    begin = time.thread_time()
    template = ChatTemplate(lambda messages, **v: rendered(LONG_TEXTS[name], {"messages": messages, **v}), "")
    assert time.thread_time() - begin < 2
    assert template.call_format is None


def test_search_for_the_format_of_calls_ends_when_the_time_of_the_load_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next format is not tried. Such a format is one of the engine's library, whose code is not modelport's."""
    source = _SEARCHED.replace("BEFORE", "").replace("<call>", "<a b>").replace("</call>", "")
    tried = []

    def parse(text: str, tools: Any) -> Any:
        tried.append(text)
        raise ValueError

    library = library_format("<a b>", "", parse)
    ends = iter([False])
    monkeypatch.setattr(template_budget, "is_shared_time_over", lambda: next(ends, True))
    template = ChatTemplate(
        lambda messages, **v: rendered(source, {"messages": messages, **v}), "", library_calls=library
    )
    assert template.call_format is None
    assert tried == []


def test_number_of_too_many_digits_in_a_template_raises_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="can't be read: it has or computes a number of more than 512 bits"):
        rendered("{% set x = [" + "9" * 4000 + "] * 1000 %}{{ x }}", {"messages": MESSAGES})


@pytest.mark.usefixtures("short_time")
def test_all_templates_of_a_file_together_have_the_time_of_one() -> None:
    slow = "{% for a in range(100) %}{% for b in range(100) %}{{ a * b }}{% endfor %}{% endfor %}"
    begin = time.thread_time()
    with pytest.raises(InvalidRequest, match=r"^model\.gguf: the model's chat template was ended: it computes"):
        probe_template([slow] * 1000, "model.gguf")
    assert time.thread_time() - begin < 2


@pytest.mark.usefixtures("short_time")
@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith(("many", "bytes", "a width", "a repl"))])
def test_template_that_allocates_without_end_is_ended_before_it_does(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            rendered(HOSTILE[name], {"messages": MESSAGES})
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("source", ["{% if %}", "{% if true %}" * 3000, "{{ " + "(" * 5000])
def test_template_that_cannot_be_read_raises_invalid_request(source: str) -> None:
    with pytest.raises(InvalidRequest, match="the chat template can't be read: "):
        rendered(source, {"messages": MESSAGES})


def test_queue_in_a_template_takes_texts_but_no_lists() -> None:
    queue = "{% set q = namespace(l=[]) %}{% for m in messages %}{% set _ = q.l.append(m.content) %}{% endfor %}"
    assert rendered(queue + "{{ q.l.pop(0) }}{{ q.l | length }}", {"messages": MESSAGES}) == "Hello0"
    for source in ("{% set _ = q.l.append(q.l) %}", "{% set _ = q.l.append(q) %}", "{% set _ = messages.clear() %}"):
        with pytest.raises(Exception, match=r"append|unsafe"):
            rendered(queue + source, {"messages": MESSAGES})


def test_template_that_is_too_long_raises_invalid_request() -> None:
    """It is not compiled, which would take minutes."""
    with pytest.raises(InvalidRequest, match="the chat template has 1000000 characters; at most 131072 are accepted"):
        rendered("{% set a = 1 + 2 %}x" * 50_000, {"messages": MESSAGES})


@pytest.mark.usefixtures("short_time")
def test_transformers_tokenizer_with_an_endless_template_is_ended(tokenizer: Any) -> None:
    tokenizer.chat_template = HOSTILE["nested loops"]
    with pytest.raises(InvalidRequest, match="computes for more than"):
        renderer_for(tokenizer)(MESSAGES, add_generation_prompt=True)


async def test_rendering_whose_call_has_ended_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is not over."""
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 10**6)
    began, ended = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        try:
            rendered(HOSTILE["nested loops"], {"messages": MESSAGES})
        finally:
            ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(began.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 60)


# --- ordinary templates -----------------------------------------------------------------------------------------------

#: Templates that use what templates of published models use.
ORDINARY = {
    "tools": TOOLS_TEMPLATE,
    "reasoning": REASONING_TEMPLATE,
    "images": IMAGE_TEMPLATE,
    "macro": "{% macro m(x, y='-') %}{{ y ~ x | upper }}{{ caller() if caller }}{% endmacro %}"
    "{% for m_ in messages %}{{ m(m_.role) }}{% call m('a') %}b{% endcall %}{% endfor %}",
    "namespace": "{% set ns = namespace(last=-1, seen=false) %}{% for m in messages[::-1] %}{% if not ns.seen and "
    "m.role == 'user' %}{% set ns.last = loop.index0 %}{% set ns.seen = true %}{% endif %}{% endfor %}{{ ns.last }}",
    "filters": "{{ messages | map(attribute='role') | unique | join(', ') }}{{ messages | length }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list | tojson(indent=2) }}{{ 'a-b' | replace('-', '+') }}"
    "{{ ' x ' | trim }}{{ {'b': 1, 'a': '<é>'} | dictsort }}{{ {'b': '<é>'} | tojson }}{{ [3, 1] | sort | first }}",
    "methods": "{% set t = messages[0].content %}{{ t.strip().split('-')[-1].lstrip('p') }}{{ t.startswith('probe') }}"
    "{{ '%s:%03d' % (t, 7) }}{{ '{}'.format(t) }}{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
    "loop control": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ loop.last }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "loop variables": "{% for m in messages %}{{ loop.index }}{{ loop.first }}{{ loop.previtem is defined }}"
    "{{ loop.nextitem.role if not loop.last }}{{ loop.cycle('a', 'b') }}{{ loop.length }}{% else %}none{% endfor %}",
    "expressions": "{{ 7 // 2 * 3 % 5 ** 2 - 1 }}{{ 'a' 'b' }}{{ [1, 2] + [3] }}{{ messages[0]['content'][1:4] }}"
    "{{ 'user' in messages[0].values() }}{{ tools is none }}{{ x is defined }}{{ range(3) | list }}{{ dict(a=1).a }}",
    "containers": "{% set d = {'a': [1, (2, 3)], 4: {}} %}{{ d }}{{ d['a'][1][0] }}{{ d.get(4) == {} }}"
    "{{ (2, 3) in d.a }}{% for k in messages %}{{ loop.changed(k.role) }}{% endfor %}{{ d.keys() | list }}"
    "{{ [1] * 2 + [3] == [1, 1, 3] }}"
    "{{ '{:>4}{{}}'.format(5) }}{{ '%d' % 1700000000 }}"
    "{{ '%4s%%' | format('x') }}{{ '**%s**' % messages[0].role }}{{ [1, 2] | sum }}",
    "white space": "  {%- if messages %}\n    {% set a = 1 %}\n  {{ a }}\n{%- endif -%}  \n tail",
}  # fmt: skip


@pytest.mark.parametrize("name", [*ORDINARY, "smollm2"])
def test_template_renders_as_in_the_transformers_library(name: str, tokenizer: Any) -> None:
    tokenizer.chat_template = ORDINARY.get(name, tokenizer.chat_template)
    rendering = renderer_for(tokenizer)
    compared = 0
    for messages, tools in PROBES:
        for variables in ({}, {"enable_thinking": False}, {"add_generation_prompt": False}):
            options: Any = {"tools": tools, "add_generation_prompt": True, "tokenize": False, **variables}
            try:
                expected = tokenizer.apply_chat_template(messages, **options)
            except Exception as error:
                with pytest.raises(type(error)):
                    rendering(messages, **options)
                continue
            assert rendering(messages, **options) == expected
            compared += 1
    assert compared


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_template_passes_the_check_for_llamacpp(name: str) -> None:
    probe_template((ORDINARY[name],), "model.gguf")


def test_error_of_the_template_itself_is_left_to_llamacpp() -> None:
    check_template(("{{ raise_exception('no') }}",), MESSAGES, {})


def test_conversation_longer_than_the_limit_of_output_is_rendered() -> None:
    """The bound grows with the conversation."""
    text = "x" * (template_budget.MAX_CHARACTERS // 4)
    source = "{% for m in messages %}{{ m.content + '' }}{{ m.content | trim }}{% endfor %}"
    messages = [{"role": "user", "content": text}] * 3
    assert len(rendered(source, {"messages": messages})) == 6 * len(text)
