"""A template may do what chats need; what would run on or grow is refused, in time and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from arkinfer.errors import CheckpointError, UsageError
from arkinfer.runtime.chat import LONGEST, ChatTemplate
from arkinfer.runtime.meter import BYTES, STEPS, metered
from tests.runtime.artifacts import TEMPLATE, THINKING

ROOT = Path(__file__).parents[2]
TALK: list[dict[str, Any]] = [{"role": "user", "content": "hello " * 20}]

WORK = "it does more work than 500,000 steps"
TEXT = "it makes more text than 32 MiB"
EITHER = (WORK, TEXT)
BIG = "{% set ns = namespace(x='aaaaaaaa') %}"
GROW = BIG + "{% for i in range(60) %}{% set ns.x = "
BOMBS = {
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": WORK,
    "{% for a in range(99999) if false %}{% endfor %}" * 9: WORK,
    "{% for a in range(9999) %}{% for b in range(9999) if b == a %}x{% endfor %}{% endfor %}": WORK,
    "{% for a in [[]] recursive %}{{ loop([[], []]) }}{% endfor %}": "",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}":
        WORK,
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}": "",
    "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}": "",
    "{{ 'a' * 10**9 }}": TEXT,
    "{{ 10**9 * ['a'] }}": TEXT,
    "{{ [0] * 10**9 }}": TEXT,
    "{{ 9 ** (9 ** 9) }}": "it makes a number of more than 4,096 bits",
    "{{ 1.5 ** 99999 }}": "",
    GROW + "ns.x ~ ns.x %}{% endfor %}": EITHER,
    GROW + "ns.x + ns.x %}{% endfor %}": EITHER,
    GROW + "ns.x * 2 %}{% endfor %}": EITHER,
    GROW + "[ns.x, ns.x] %}{% endfor %}{{ ns.x }}": EITHER,
    GROW + "[ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}": EITHER,
    GROW + "(ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}": EITHER,
    GROW + "(ns.x, ns.x) %}{% endfor %}{{ {}[ns.x] }}": EITHER,
    GROW + "{'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}": EITHER,
    GROW + "[ns.x, ns.x] %}{% endfor %}{{ 'a' in ns.x }}": EITHER,
    GROW + "[ns.x, ns.x] %}{% endfor %}{{ ns.x is eq(ns.x) }}": EITHER,
    GROW + "[ns.x, ns.x] %}{% endfor %}{{ '{}'.format(ns.x) }}": EITHER,
    GROW + "[ns.x, ns.x] %}{% endfor %}{{ '%s' % (ns.x,) }}": EITHER,
    GROW + "[ns.x] %}{% endfor %}" + GROW[len(BIG) :] + "[ns.x] %}{% endfor %}{{ ns.x }}":
        "it nests values more than 64 levels deep",
    "{{ namespace() }}": "it uses a namespace as a value",
    "{{ '%1000000000d' % 1 }}": "it formats wider than 1,000",
    "{{ '%*d' % (10**9, 1) }}": "it formats wider than 1,000",
    "{{ '%1000000000d' | format(1) }}": "it formats wider than 1,000",
    "{{ '{:>1000000000}'.format(1) }}": "it formats wider than 1,000",
    "{{ '{:{w}}'.format(1, w=10**9) }}": "it formats wider than 1,000",
    "{{ '{x:>1000000000}'.format_map({'x': 1}) }}": "it formats wider than 1,000",
    "{{ ('{0}' * 99999).format('a' * 9999) }}": TEXT,
    "{{ 'x' | center(10**9) }}": "it asks for a width of more than 1,000",
    "{{ 'x'.center(10**9) }}": "it asks for a width of more than 1,000",
    "{{ 'x'.ljust(10**9) }}": "it asks for a width of more than 1,000",
    "{{ 'x'.zfill(10**9) }}": "it asks for a width of more than 1,000",
    "{{ 'x' | indent(10**9, true) }}": "it asks for a width of more than 1,000",
    "{{ ('\\n' * 99999) | indent(999) }}": TEXT,
    "{{ 'x' | replace('', 'a' * 99999) | replace('a', 'a' * 9999) }}": TEXT,
    "{{ 'x'.replace('', 'a' * 99999).replace('a', 'a' * 9999) }}": TEXT,
    "{{ ('x' * 99999) | join('y' * 9999) }}": TEXT,
    "{{ ('y' * 9999).join('x' * 99999) }}": TEXT,
    "{{ [1] | batch(10**9, 0) | list }}": "it asks for a width of more than 1,000",
    "{{ [1] | slice(10**9) | list }}": "it asks for a width of more than 1,000",
    "{{ ['x'] | map('center', 10**9) | list }}": "it asks for a width of more than 1,000",
    "{{ 1.5 | round(10**9, 'ceil') }}": "it asks for a width of more than 1,000",
    "{{ [1] | tojson(indent=10**9) }}": "it asks for a width of more than 1,000",
    "{{ ('x' * 9999999) | list | length }}": TEXT,
    "{{ ('x ' * 9999999).split() | length }}": TEXT,
    "{{ (1).to_bytes(10**9, 'big') }}": 'it calls "to_bytes" of a int, which no chat needs',
    "{{ 'x'.expandtabs(10**9) }}": 'it calls "expandtabs" of a str, which no chat needs',
    "{{ 'x'.translate({120: 'y' * 99}) }}": 'it calls "translate" of a str, which no chat needs',
    "{{ 'x'.encode('punycode') }}": 'it calls "encode" of a str, which no chat needs',
    "{{ {}.fromkeys(range(99999)) }}": 'it calls "fromkeys" of a type, which no chat needs',
    "{{ ('f' * 9999) | int(0, 16) }}": "it makes a number of more than 4,096 bits",
    "{{ strftime_now('%999999999Y' * 99) }}": "a date's form is longer than 100 characters",
    "{% for a in range(99999) %}" + "x" * 999 + "{% endfor %}": TEXT,
    "{% set x = 'a' * 9999 %}{% for a in range(99999) %}{{ x }}{% endfor %}": EITHER,
    "{% set x = 'a' * 9999999 %}{% for a in range(99999) %}{{ 'b' in x }}{% endfor %}": EITHER,
    "{% set x = 'a' * 9999999 %}{% for a in range(99999) %}{{ x[1:] | length }}{% endfor %}": TEXT,
    "{% set x = [0] * 99999 %}{% for a in range(99999) %}{{ x | sum }}{% endfor %}": WORK,
    "{{ [['a'] * 9999] * 999 | sum(start=[]) }}": "",
    "{{ ([['a'] * 999] * 999) | sum(start=[]) | length }}": TEXT,
}  # fmt: skip


@pytest.mark.parametrize(("template", "reason"), BOMBS.items(), ids=map(str, range(len(BOMBS))))
def test_what_would_not_end_or_fit_is_refused_at_once(template: str, reason: str | tuple[str, ...]):
    chat = ChatTemplate(template)
    start = process_time()
    with pytest.raises(UsageError) as caught:
        chat.render(TALK)
    assert process_time() - start < 3
    assert str(caught.value).startswith("The model's chat template refused the conversation. ")
    assert caught.value.why.startswith(reason) or "recursion" in caught.value.why


def test_what_would_not_fit_takes_no_memory():
    script = (
        "import resource; from tests.runtime.test_sandbox import *\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "ChatTemplate('{{ messages }}').render(TALK)\n"
        "before = peak()\n"
        "for template in BOMBS:\n"
        "    try: ChatTemplate(template).render(TALK)\n"
        "    except UsageError: pass\n"
        "print((peak() - before) >> 10)"
    )
    assert int(child(script)) < 64  # MiB


def test_nothing_of_it_is_tried_while_the_template_is_compiled():
    start = process_time()
    for template in BOMBS:
        ChatTemplate(template)
    assert process_time() - start < 10


@pytest.mark.parametrize(
    "template",
    ["{{ " + "(" * 3000 + ")" * 3000 + " }}", "{% if 1 %}" * 900, "{{ a" + " + a" * 9000 + " }}",
     "{% for a in b %}" * 30 + "{% endfor %}" * 30, "x" * (LONGEST + 1), "{{ " + "9" * 5000 + " }}",
     "{{ lipsum(99999) | pprint }}", "{{ a" + ".b" * 9000 + " }}", "{{ " + "not " * 9000 + "a }}"],
)  # fmt: skip
def test_a_template_that_cannot_be_compiled_is_refused(template: str):
    with pytest.raises(CheckpointError) as caught:
        ChatTemplate(template)
    assert str(caught.value).startswith("The chat template is not valid. ")


@pytest.mark.parametrize("deep", ["-" * 50 + "x,", "a" + ".b" * 60 + ",", "a" + "|trim" * 60 + ","])
def test_what_would_take_minutes_to_compile_is_refused_at_once(deep: str):
    start = process_time()
    with pytest.raises(CheckpointError, match="Its expressions are nested too deeply"):
        ChatTemplate("{{ " + deep * (60_000 // len(deep)) + " }}")
    assert process_time() - start < 5
    ChatTemplate("{{ " + deep * 10 + " }}")


def test_compiling_takes_bounded_memory():
    script = (
        "import resource, sys; from arkinfer.runtime.chat import ChatTemplate;"
        "import jinja2.meta, arkinfer.runtime.sandbox;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); ChatTemplate('{{a}}' * 13000); print((peak() - before) >> 10)"
    )
    assert int(child(script)) < 64  # MiB


def child(script: str) -> str:
    """What a script prints that runs in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout


@pytest.mark.parametrize("template", [TEMPLATE, THINKING])
def test_real_chats_are_far_from_the_limits(template: str):
    talk = [TALK[0], {"role": "assistant", "content": "x" * 400}] * 200
    with metered(talk) as meter:
        whole = meter.steps, meter.bytes
        ChatTemplate(template)._template.render(messages=talk, add_generation_prompt=True)
        assert whole[0] - meter.steps < STEPS / 10
        assert whole[1] - meter.bytes < BYTES / 10


def test_long_conversations_may_take_more():
    talk = [{"role": "user", "content": "x" * 100}] * 20_000
    assert len(ChatTemplate(TEMPLATE).render(talk)) > 2_000_000


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ 'a' ~ 1 ~ none ~ [1] }}", "a1None[1]"),
        ("{% for x in range(3) %}{{ loop.last }}{{ loop.length }}{% endfor %}",
         "False3False3True3"),
        ("{% for x in [1, 2, 3] if x > 1 %}{{ x }}{{ loop.index }}{% else %}none{% endfor %}",
         "2132"),
        ("{% for x in [[1, [2]]] recursive %}{{ x if x is number else loop(x) }}{% endfor %}",
         "12"),
        ("{% for x in nothing %}{{ x }}{% else %}empty{% endfor %}{{ nothing }}", "empty"),
        ("{{ [3, 1, 2] | sort | map('string') | join(', ') }}", "1, 2, 3"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ messages[0].content.strip().split(' ')[-1].upper() }}", "HELLO"),
        ("{{ messages[::-1][0]['role'] }}{{ 'user' in messages[0].role }}", "userTrue"),
        ("{% macro m(x) %}<{{ x }}{{ caller() if caller }}>{% endmacro %}{{ m(1) }}", "<1>"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}x{% endcall %}", "<x>"),
        ("{% set ns = namespace(n=0) %}{% for x in range(4) %}{% set ns.n = ns.n + x %}{% endfor %}"
         "{{ ns.n }}", "6"),
        ("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "b1a2"),
        ("{{ {'b': 1, 'a': 2} | dictsort }}{{ {'a': 1} | items | list }}",
         "[('a', 2), ('b', 1)][('a', 1)]"),
        ("{{ '%s-%03d' % ('a', 7) }}{{ '{:>5}|{}'.format('a', 'b') }}", "a-007    a|b"),
        ("{{ ' x '.strip() | default('y') }}{{ none | default(100000, true) }}", "x100000"),
        ("{{ 'a\nb' | indent(2) }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ -1 | abs }}",
         "a\n  b3310241"),
        ("{{ 1 < 2 < 3 }}{{ 'a' == 'a' }}{{ 'x' not in 'abc' }}{{ (1, 2) == (1, 2) }}",
         "TrueTrueTrueTrue"),
        ("{{ loop is defined }}{{ messages is sequence }}{{ messages[0] is mapping }}",
         "FalseTrueTrue"),
    ],
)  # fmt: skip
def test_what_chats_need_is_as_in_jinja(template: str, text: str):
    utilities = pytest.importorskip("transformers.utils.chat_template_utils")
    assert ChatTemplate(template).render(TALK) == text
    assert utilities.render_jinja_template([TALK], chat_template=template)[0][0] == text
