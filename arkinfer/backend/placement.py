"""Which backend runs which node, and how well: never a silent fallback. Knows no backend."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from arkinfer import ir
from arkinfer.backend.contract import Compiler, Support
from arkinfer.errors import UnsupportedError
from arkinfer.targets import Target


@dataclass(frozen=True)
class Placement:
    """Where the nodes of a module run.

    Attributes:
        backend: who runs them.
        ops: nodes by op.
        slow: op and reason -> torch paths, for those that the backend has no fast way for.
    """

    backend: str
    ops: dict[str, int]
    slow: dict[tuple[str, str], list[str]] = field(default_factory=dict[tuple[str, str], list[str]])

    def by_op(self) -> dict[str, dict[str, int]]:
        """Nodes of each op, `fast` and `slow`."""
        slow: Counter[str] = Counter()
        for (op, _), paths in self.slow.items():
            slow[op] += len(paths)
        return {
            op: {"fast": count - slow[op], "slow": slow[op]}
            for op, count in sorted(self.ops.items())
        }

    def slow_lines(self) -> list[str]:
        """One sentence for each slow op and reason."""
        return [
            f"{op} takes a slow path on {self.backend}: {reason} ({_places(paths)})"
            for (op, reason), paths in self.slow.items()
        ]


def place(module: ir.Module, compiler: Compiler, target: Target) -> Placement:
    """Asks a backend for every node.

    Raises:
        UnsupportedError: nodes without a home; names op, torch path and the backend's reason.
    """
    slow: dict[tuple[str, str], list[str]] = {}
    homeless: dict[tuple[str, str], list[str]] = {}
    stored = False
    for node in module.nodes():
        support = _support(node, compiler, target)
        if support.level != "fast":
            found = slow if support.level == "slow" else homeless
            found.setdefault((node.op, support.reason), []).append(node.loc)
            stored |= support.level == "no" and _is_stored(module, node)
    if homeless:
        (op, reason), paths = next(iter(homeless.items()))
        more = f"; {len(homeless) - 1} more kinds of nodes have none either" * (len(homeless) > 1)
        raise UnsupportedError(
            f"{op} at {_places(paths)} has no home on {compiler.name} for {target.name}",
            f"{reason}{more}",
            "Give --requantize to round these matrices once more, or choose another backend with "
            "--backend"
            if stored
            else "Choose another quantization, or another backend with --backend",
        )
    return Placement(compiler.name, dict(Counter(node.op for node in module.nodes())), slow)


def _support(node: ir.Node, compiler: Compiler, target: Target) -> Support:
    asked = node.attributes.get("activations", "any")
    if asked != "any" and asked not in compiler.activations:
        own = " or ".join(compiler.activations)
        return Support.no(f"its products take activations in {own}, not in {asked}")
    return compiler.supports(node, target)


def _is_stored(module: ir.Module, node: ir.Node) -> bool:
    """Whether a matrix comes quantized from the checkpoint, alone or in a stack."""
    sources = [weight.source for weight in node.weights]
    inner = [module.weights[name].source for each in sources if each for name in each.inputs]
    return any(each is not None and each.rule == "stored" for each in (*sources, *inner))


def _places(paths: list[str]) -> str:
    first = paths[0] or "an unnamed place"
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
