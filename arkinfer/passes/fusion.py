"""The base of all fusions: finds, proves, rewrites. Knows no particular pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arkinfer import ir
from arkinfer.passes.eliminate_dead_code import drop_dead_nodes
from arkinfer.passes.proof import NoMatch, anonymous, extract, prove


@dataclass(frozen=True)
class Rewrite:
    """One place where a pattern matches.

    Attributes:
        nodes: of the pattern, in the function's order.
        inputs: values that flow in.
        outputs: values that the fused nodes replace.
        build: appends the fused nodes to a builder, given the inputs; one value per output.
        own: those of `nodes` that nothing else may use; None: all.
        cache_inputs: inputs that the fused nodes take as caches; they change their type.
        loc: torch path of the fused nodes.
    """

    nodes: Sequence[ir.Node]
    inputs: Sequence[ir.Value]
    outputs: Sequence[ir.Value]
    build: Callable[[ir.Builder, Sequence[ir.Value]], list[ir.Value]]
    own: Sequence[ir.Node] | None = None
    cache_inputs: tuple[int, ...] = ()
    loc: str = ""


@dataclass
class Scope:
    """What a pattern may look at: a function and who uses what in it."""

    module: ir.Module
    function: ir.Function
    users: dict[ir.Value, list[ir.Node]] = field(init=False)
    order: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.refresh()

    def refresh(self) -> None:
        """After a rewrite."""
        self.users = self.function.users()
        self.order = {id(node): index for index, node in enumerate(self.function.nodes)}

    def sorted(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        """Each once, in the function's order."""
        return sorted({id(n): n for n in nodes}.values(), key=lambda n: self.order[id(n)])

    def single_user(self, value: ir.Value) -> ir.Node | None:
        """Its only user, if it has one and is no output of the function."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 and value not in self.function.outputs else None


class Fusion:
    """A pass that looks for one pattern. Subclasses are frozen dataclasses.

    `find` is asked for every node, as the pattern's last one. It returns None where nothing of
    the pattern is there, and raises `NoMatch` with the reason for a near miss.
    """

    name = ""

    def find(self, node: ir.Node, scope: Scope) -> Rewrite | None:
        raise NotImplementedError(self.name)

    def run(self, module: ir.Module) -> bool:
        changed = False
        proven: set[str] = set()
        for function in module.functions.values():
            scope = Scope(module, function)
            for node in list(function.nodes):
                if id(node) not in scope.order:
                    continue  # an earlier rewrite took it
                try:
                    found = self.find(node, scope)
                    if found is None:
                        continue
                    self._apply(found, scope, proven)
                except NoMatch as reason:
                    module.remark(self.name, node, str(reason))
                    continue
                changed = True
        return changed

    def _apply(self, found: Rewrite, scope: Scope, proven: set[str]) -> None:
        _check_own(found, scope)
        fused = self._fused(found)
        before = extract(found.nodes, found.inputs, found.outputs)
        key = anonymous(before) + anonymous(fused)
        if key not in proven:
            prove(before, fused, scope.module.weights)
            proven.add(key)
        for index in found.cache_inputs:
            value = found.inputs[index]
            value.type = fused.inputs[index].type
        builder = ir.Builder(ir.infer_types)
        builder.loc = found.loc
        fresh = found.build(builder, found.inputs)
        for old, new in zip(found.outputs, fresh, strict=True):
            scope.function.replace_value(old, new)
        scope.function.insert_before(found.nodes[-1], builder.nodes)
        drop_dead_nodes(scope.function)
        sort_nodes(scope.function)
        scope.refresh()

    def _fused(self, found: Rewrite) -> ir.Function:
        """The right side alone, on fresh inputs."""
        inputs = [ir.Value(value.type, f"in{i}") for i, value in enumerate(found.inputs)]
        for index in found.cache_inputs:
            kind = inputs[index].tensor
            inputs[index].type = ir.CacheType(kind.dtype, kind.shape)
        builder = ir.Builder(ir.infer_types)
        outputs = found.build(builder, inputs)
        names = [f"out{i}" for i in range(len(outputs))]
        return ir.Function("f", inputs, builder.nodes, outputs, names)


def _check_own(found: Rewrite, scope: Scope) -> None:
    """Nothing outside may use an inner value: it would be computed twice, or a cache copied."""
    inside = {id(node) for node in found.nodes}
    for node in found.nodes if found.own is None else found.own:
        for value in node.results:
            if value in found.outputs:
                continue
            others = [user for user in scope.users[value] if id(user) not in inside]
            if others or value in scope.function.outputs:
                user = others[0].op if others else "the function's result"
                raise NoMatch(f"the result of {node.op} inside of it is also used by {user}")


def sort_nodes(function: ir.Function) -> None:
    """Every node behind those that it needs; otherwise the order stays."""
    done: set[int] = set()
    ordered: list[ir.Node] = []
    known = {id(node) for node in function.nodes}

    def place(node: ir.Node) -> None:
        stack = [node]
        while stack:
            top = stack[-1]
            if id(top) in done:
                stack.pop()
                continue
            waiting = [
                value.producer
                for value in top.values
                if value.producer is not None
                and id(value.producer) in known
                and id(value.producer) not in done
            ]
            if waiting:
                stack += reversed(waiting)
                continue
            done.add(id(top))
            ordered.append(stack.pop())

    for node in function.nodes:
        place(node)
    function.nodes = ordered


def producer(value: ir.Operand, op: str, why: str) -> ir.Node:
    """The node behind a value, if it is of that op.

    Raises:
        NoMatch: it is not; with `why`.
    """
    node = value.producer if isinstance(value, ir.Value) else None
    if node is None or node.op != op:
        raise NoMatch(f"{why} is {_what(value)}, not {op}")
    return node


def _what(value: ir.Operand) -> str:
    if isinstance(value, ir.Weight):
        return f"the weight @{value.name}"
    return value.producer.op if value.producer is not None else f"the input %{value.name}"


def common_loc(nodes: Sequence[ir.Node]) -> str:
    """The longest torch path that all nodes lie in."""
    paths = [node.loc.split(".") for node in nodes if node.loc]
    if not paths:
        return ""
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
