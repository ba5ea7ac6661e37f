"""What the ops of a step have to move and to compute: bytes and arithmetic, from their listing.

Knows shapes, and of ops the few whose cost does not follow from their operands' sizes alone. What
a backend does beyond the necessary, such as scratch copies, does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, cast

from arkinfer.errors import ArtifactError
from arkinfer.packing import parse_scheme, part_specs
from arkinfer.profile.listing import Listing, Op, Type

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

VIEWS = frozenset({"tensor.arange", "tensor.reshape", "tensor.slice"})
"""Ops that give another view of a value, or numbers that nobody has to store."""

PRODUCTS = frozenset({"nn.linear", "quant.linear"})
"""[T, K] times a weight [N, K]: 2·T·N·K operations."""

LOOKUPS = frozenset({"nn.embedding", "quant.embedding"})
"""Ops that read T rows of their weight, not all of it."""

APPEND, ATTENTION = "cache.append", "attn."


@dataclass(frozen=True)
class Cost:
    """What some ops need at least.

    Attributes:
        bytes: weights as they are stored, activations and caches, each read or written once.
        flops: operations of matrix products and attentions; a multiply-add is two. What works
            element by element counts none: its bytes say more.
    """

    bytes: int
    flops: int

    def plus(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flops + other.flops)


def stored_bytes(
    artifact: Artifact, section: Section, weights: Mapping[str, Type]
) -> dict[str, int]:
    """Bytes in the file of each quantized weight: of all tensors of the section that it became.

    A weight has several parts; what a backend stored in a form of its own replaces the part that
    it was made of. A weight that the section does not store by its name counts what its codes and
    float32 scales would take.
    """
    quantized = {name: kind for name, kind in weights.items() if kind.kind == "quant"}
    known, own = set(weights), f"{section.backend}/"
    sizes: dict[str, dict[str, int]] = {}
    for tensor in section.tensors:
        name = tensor.removeprefix(own)
        weight = _owner(name, known)
        if weight in quantized:
            part = name[len(weight) + 1 :].partition(".")[0]
            found = sizes.setdefault(weight, {})
            if part not in found or tensor != name:
                found[part] = artifact.location(tensor)[1]
    return {
        name: sum(sizes[name].values()) if name in sizes else _canonical_bytes(kind)
        for name, kind in quantized.items()
    }


def _canonical_bytes(kind: Type) -> int:
    specs = part_specs(parse_scheme(kind.dtype), cast("tuple[int, int]", kind.sizes({})))
    return sum(dtype.itemsize * prod(shape) for dtype, shape in specs.values())


def _owner(tensor: str, weights: set[str]) -> str | None:
    """The longest weight whose name, up to a dot, a tensor's name begins with."""
    while tensor and tensor not in weights:
        tensor = tensor.rpartition(".")[0]
    return tensor or None


class CostModel:
    """Costs of the ops of a step.

    Args:
        listing: of the section.
        stored: bytes of each weight, see `stored_bytes`.
        tokens: of the step.
        depth: tokens in the caches before.
        rows: tokens that want logits.
    """

    def __init__(
        self, listing: Listing, stored: Mapping[str, int], *, tokens: int, depth: int, rows: int = 1
    ) -> None:
        self._listing, self._stored = listing, stored
        self._tokens, self._depth = tokens, depth
        caches = {n: depth for n in listing.inputs if listing.types[n].kind == "cache"}
        self._symbols = listing.symbols(tokens=tokens, rows=rows, **caches)
        self._source = {result: op for op in listing.ops for result in op.results}
        self._users: dict[str, list[Op]] = {}
        for op in listing.ops:
            for value in op.values:
                self._users.setdefault(value, []).append(op)

    def of(self, ops: Sequence[Op], rows: int | None = None) -> Cost:
        """What ops need that one kernel, or several in a row, do together.

        Values that stay among them move nowhere. `rows`: the kernel computed so many rows, not
        one for each token.

        Raises:
            ArtifactError: the listing contradicts itself.
        """
        symbols = dict(self._symbols)
        if rows is not None:
            symbols |= self._listing.symbols(tokens=rows)
        try:
            weights = {weight: op for op in ops for weight in op.weights}
            moved = sum(self._weight(name, op, symbols) for name, op in weights.items())
            moved += self._activations(ops, symbols)
            return Cost(moved, sum(self._flops(op, symbols) for op in ops))
        except (LookupError, ValueError) as error:
            raise ArtifactError(
                "The listing of the section contradicts itself", str(error), "Build it again"
            ) from error

    def _weight(self, name: str, op: Op, symbols: Mapping[str, int]) -> int:
        kind = self._listing.weights[name]
        size = kind.nbytes({}) if kind.kind == "tensor" else self._stored[name]
        if op.name not in LOOKUPS:
            return size
        rows = self._listing.types[op.values[0]].sizes(symbols)[0]
        return size * rows // kind.sizes({})[0]

    def _activations(self, ops: Sequence[Op], symbols: Mapping[str, int]) -> int:
        here = {id(op) for op in ops}
        read: set[str] = set()
        written: set[str] = set()
        for op in ops:
            if op.name in VIEWS:
                continue
            inside = [v for v in op.values if self._is_made_in(v, here)]
            read |= {v for v in op.values if v not in inside and not self._is_appended_to(v, op)}
            read |= {v for v in inside if self._is_cache(v)}
            written |= {v for v in op.results if self._is_needed_outside(v, here)}
            if op.name == APPEND:
                written -= set(op.results)
        types = self._listing.types
        appended = sum(
            types[op.values[1]].sizes(symbols)[0] * self._row_bytes(cache, symbols)
            for op in ops
            if op.name == APPEND
            for cache in op.results
        )
        return appended + sum(types[value].nbytes(symbols) for value in read | written)

    def _row_bytes(self, cache: str, symbols: Mapping[str, int]) -> int:
        """Of a token."""
        kind = self._listing.types[cache]
        return prod(kind.sizes(symbols)[1:]) * kind.item_bytes

    def _is_cache(self, value: str) -> bool:
        return self._listing.types[value].kind == "cache"

    def _is_appended_to(self, value: str, op: Op) -> bool:
        return op.name == APPEND and self._is_cache(value)

    def _is_made_in(self, value: str, here: set[int]) -> bool:
        """Whether one of these ops computes a value, or what it is a view of."""
        op = self._source.get(value)
        while op is not None and op.name in VIEWS and op.values:
            op = self._source.get(op.values[0])
        return op is not None and id(op) in here

    def _is_needed_outside(self, value: str, here: set[int]) -> bool:
        users = self._users.get(value)
        return users is None or any(
            self._is_needed_outside(user.results[0], here)
            if user.name in VIEWS
            else id(user) not in here
            for user in users
        )

    def _flops(self, op: Op, symbols: Mapping[str, int]) -> int:
        types = self._listing.types
        if op.name in PRODUCTS:
            columns = self._listing.weights[op.weights[0]].sizes({})[1]
            return 2 * columns * prod(types[op.results[0]].sizes(symbols))
        if op.name.startswith(ATTENTION):
            width = prod(types[op.results[0]].sizes(symbols)[1:])
            pairs = self._tokens * self._depth + self._tokens * (self._tokens + 1) // 2
            return 4 * width * pairs
        return 0
