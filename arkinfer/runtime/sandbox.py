"""A Jinja environment in which a foreign template can neither reach out nor run on or grow.

Jinja's immutable sandbox keeps templates away from Python; it does not bound their work. Here all
of it is paid for from a `Meter`: every statement of a loop, macro or block body, every element and
character that an operation looks at, every byte that it makes. Sizes are checked before memory is
asked for, and only methods and filters of known cost are there. Knows no conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

from arkinfer.runtime.meter import BITS, ELEMENT, LimitReached, Meter, current

WIDTH = 1000
"""The widest padding, indent, batch or format."""

COMPILING = 1_500_000
"""What compiling may take: the square of its depth for each node of an expression, since Jinja
looks through what is under a node more than once. About 1.5 s; MiniCPM4's template takes 361."""


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, metered.

    Args:
        functions: that templates may call, by name; each bounds its own work.
        filters: in place of, or next to, Jinja's own; they are metered like those.
        extensions: as Jinja's.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        filters: Mapping[str, Callable[..., Any]],
        extensions: list[type[jinja2.ext.Extension]],
    ) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_shown
        )
        del self.globals["lipsum"]
        cast("dict[str, Any]", self.globals).update(functions)
        known = {**self.filters, **filters}
        self.filters = {n: _metered_filter(n, f) for n, f in known.items() if n not in _ABSENT}
        self.filters |= {"step!": _step, "weigh!": _weighed, "make!": _made, "show!": _shown}
        self.tests = {n: _metered_test(f) if n in _TESTS else f for n, f in self.tests.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        _check_nesting(tree)
        _count_work(tree)
        tree.set_environment(self)
        return tree

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        meter = current()
        meter.weigh(left)
        meter.weigh(right)
        if operator in _BEFORE:
            _BEFORE[operator](meter, left, right)
        return meter.make(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, (str, int)):
            current().weigh(argument)
        return super().getitem(obj, argument)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = current()
        meter.step()
        if not isinstance(__obj, _FREE):
            args = tuple(meter.all(a) if isinstance(a, Iterator) else a for a in args)
            for argument in (*args, *kwargs.values()):
                meter.weigh(argument)
            _check_method(meter, __obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        return meter.make(result) if isinstance(result, _VALUES) else result


_FREE = (jinja2.runtime.Macro, jinja2.runtime.LoopContext, jinja2.runtime.BlockReference)
"""What is called with values that it hands on without looking at them; its body is counted."""
_VALUES = (str, bytes, list, tuple, dict, int)


def _check_nesting(tree: jinja2.nodes.Template) -> None:
    """Raises ValueError when compiling would take more than `COMPILING`."""
    work = 0
    waiting: list[tuple[jinja2.nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        work += depth * depth
        if work > COMPILING:
            raise ValueError("Its expressions are nested too deeply")
        for child in node.iter_child_nodes():
            waiting.append((child, depth + 1 if isinstance(child, jinja2.nodes.Expr) else 0))


def _count_work(tree: jinja2.nodes.Template) -> None:
    """Puts a step into what can run often, and a weighing before what looks at whole values."""
    nodes = jinja2.nodes
    found = list(
        tree.find_all(
            (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block, nodes.Compare, nodes.Concat,
             nodes.Getitem, nodes.Pair)
        )
    )  # fmt: skip
    for node in found:
        if isinstance(node, nodes.Compare):
            node.expr = _filtered("weigh!", node.expr)
            for operand in node.ops:
                operand.expr = _filtered("weigh!", operand.expr)
        elif isinstance(node, nodes.Concat):
            node.nodes = [_filtered("show!", part) for part in node.nodes]
        elif isinstance(node, nodes.Getitem):
            if isinstance(node.arg, nodes.Slice):  # which Python does itself
                node.node = _filtered("make!", node.node)
        elif isinstance(node, nodes.Pair):
            node.key = _filtered("weigh!", node.key)
        else:
            step = _step_in(cast("jinja2.nodes.Node", node))
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(step, node.test, lineno=node.lineno)
            body = cast("Any", node).body
            body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))


def _step_in(node: jinja2.nodes.Node) -> jinja2.nodes.Filter:
    """Pays for all nodes of a body and for the text in it."""
    inner = list(node.find_all(jinja2.nodes.Node))
    text = sum(len(n.data) for n in inner if isinstance(n, jinja2.nodes.TemplateData))
    arguments = [jinja2.nodes.Const(n, lineno=node.lineno) for n in (len(inner) + 1, text)]
    return _filtered("step!", jinja2.nodes.Const(None, lineno=node.lineno), arguments)


def _filtered(
    name: str, value: jinja2.nodes.Expr, arguments: Iterable[jinja2.nodes.Expr] = ()
) -> jinja2.nodes.Filter:
    """A filter whose name, with its "!", no template can write."""
    return jinja2.nodes.Filter(value, name, list(arguments), [], None, None, lineno=value.lineno)


def _step(_: None, nodes: int, text: int) -> bool:
    meter = current()
    meter.step(nodes)
    meter.room(4 * text)
    meter.bytes -= 4 * text
    return True


def _weighed(value: Any) -> Any:
    current().weigh(value)
    return value


def _made(value: Any) -> Any:
    return current().make(value)


def _shown(value: Any) -> Any:
    """A value on its way to becoming text, which of a list can be longer than its parts."""
    meter = current()
    meter.make(value)
    if not isinstance(value, str):
        meter.room(8 * meter.weigh(value))
    return value


def _metered_test(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def metered_test(*arguments: Any) -> Any:
        for argument in arguments:
            current().weigh(argument)
        return function(*arguments)

    return metered_test


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    hidden = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def metered_filter(*arguments: Any, **named: Any) -> Any:
        meter = current()
        meter.step()
        given = [meter.all(a) if isinstance(a, Iterator) else a for a in arguments[hidden:]]
        if name not in _CHEAP_FILTERS:
            for value in (*given, *named.values()):
                meter.weigh(value)
            _check_growth(meter, name, given, named)
        result = function(*arguments[:hidden], *given, **named)
        return meter.make(result) if isinstance(result, _VALUES) else result

    return metered_filter


_CHEAP_FILTERS = frozenset({"count", "d", "default", "first", "length"})
_ABSENT = frozenset({"pprint", "striptags", "urlize", "wordwrap", "xmlattr"})
"""Filters that no chat needs and whose work is hard to bound."""
_TESTS = frozenset(
    "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lower lt ne upper".split()
)
"""Tests that look at whole values."""


def _times(meter: Meter, left: Any, right: Any) -> None:
    for sized, count in ((left, right), (right, left)):
        if isinstance(sized, (str, bytes, list, tuple)) and isinstance(count, int):
            meter.room((meter.weigh(sized) + ELEMENT) * max(count, 0))


def _power(_: Meter, left: Any, right: Any) -> None:
    both = isinstance(left, int) and isinstance(right, int)
    if both and left.bit_length() * abs(right) > BITS and left not in (-1, 0, 1):
        raise LimitReached(f"it makes a number of more than {BITS:,} bits")


def _printf(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, str):
        if _WIDE_PRINTF.search(left):
            raise LimitReached(f"it formats wider than {WIDTH:,}")
        meter.room((WIDTH + 8 * meter.weigh(right)) * left.count("%"))


_BEFORE = {"*": _times, "**": _power, "%": _printf}
_WIDE_PRINTF = re.compile(r"%[^a-zA-Z%]{0,100}(?:\*|[0-9]{4})")
_WIDE_FORMAT = re.compile(r":[^{}]{0,100}(?:\{|[0-9]{4})")

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        "capitalize casefold center count endswith find format format_map index isalnum isalpha "
        "isascii isdecimal isdigit islower isnumeric isspace istitle isupper join ljust lower "
        "lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit "
        "rstrip split splitlines startswith strip swapcase title upper zfill".split()
    ),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset({"bit_length"}),
    float: frozenset({"is_integer"}),
}
"""What the values of a template can be asked to do: all that JSON's types have and is bounded."""

_HELPERS = (jinja2.runtime.LoopContext, jinja2.utils.Cycler, jinja2.utils.Joiner)


def _check_method(meter: Meter, method: Any, arguments: tuple[Any, ...], named: Any) -> None:
    owner = getattr(getattr(method, "__wrapped__", method), "__self__", None)
    if owner is None or isinstance(owner, _HELPERS):
        return
    name = getattr(method, "__name__", "")
    if not any(isinstance(owner, kind) and name in _METHODS[kind] for kind in _METHODS):
        raise LimitReached(f'it calls "{name}" of a {type(owner).__name__}, which no chat needs')
    meter.weigh(owner)
    _check_growth(meter, name, [owner, *arguments], named)


_WIDE = frozenset({"batch", "center", "indent", "ljust", "rjust", "round", "slice", "tojson",
                   "truncate", "zfill"})  # fmt: skip
_TO_TEXT = (
    frozenset(
        "attr capitalize e escape float forceescape int lower safe string title trim upper "
        "urlencode wordcount".split()
    )
    | _METHODS[str]
)
"""Filters and methods that look at a text once and make one of about its size, or none."""


def _check_growth(meter: Meter, name: str, given: list[Any], named: Mapping[str, Any]) -> None:
    """Refuses what would make much more of a text or a list than it is.

    Args:
        meter: what may be spent.
        name: of the filter or method.
        given: the value, or the method's owner, and the arguments, all weighed.
        named: arguments by name.
    """
    value, arguments = given[0] if given else "", [*given[1:], *named.values()]
    text = value if isinstance(value, str) else ""
    longest = max((len(a) for a in arguments if hasattr(a, "__len__")), default=0)
    if name in _WIDE and any(isinstance(a, (int, float)) and not a <= WIDTH for a in arguments):
        raise LimitReached(f"it asks for a width of more than {WIDTH:,}")
    if name == "replace":
        old = arguments[0] if not named and arguments and isinstance(arguments[0], str) else ""
        meter.room(4 * (len(text) + text.count(old) * longest))
    elif name == "join":
        length = len(value) if hasattr(value, "__len__") else 0
        meter.room(4 * (length + 1) * (longest + 1))
    elif name == "indent":
        meter.room(4 * (text.count("\n") + 1) * (WIDTH + longest))
    elif name in ("format", "format_map"):
        if _WIDE_FORMAT.search(text):
            raise LimitReached(f"it formats wider than {WIDTH:,}")
        _printf(meter, text, arguments)
        meter.room((WIDTH + 8 * meter.weigh(arguments)) * text.count("{"))
    elif name in ("split", "rsplit", "splitlines"):
        counted = arguments and isinstance(arguments[0], str) and arguments[0]
        parts = text.count(arguments[0]) if counted else len(text)
        meter.room(4 * len(text) + 2 * ELEMENT * parts)
    elif text and name not in _TO_TEXT:
        meter.room(2 * ELEMENT * len(text))
