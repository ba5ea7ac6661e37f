"""`tensor.scale` by a constant goes into the op beside it: an embedding, a sum, a norm's weight.

Quantized scales are never touched, so that imported weights stay bit-exact, and the weight of an
embedding or a linear is never scaled, so that a tied one stays tied. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from arkinfer.ir import Derived, Module, Node, TensorType, Value, Weight
from arkinfer.passes.match import NoMatch, Pattern, Uses, need
from arkinfer.passes.rewrite import Rewrite, one_node, rewrite_at
from arkinfer.passes.symbols import derived

EMBEDDINGS = ("nn.embedding", "quant.embedding")


@dataclass(frozen=True)
class FoldScalars:
    name = "fold-scalars"

    def run(self, module: Module) -> bool:
        known, changed = len(module.remarks), False
        fold = _Fold(module)
        while rewrite_at(module, self.name, ("tensor.scale",), fold.attempt):
            changed = True
            del module.remarks[known:]  # of a graph that is gone
        return changed


@dataclass(frozen=True)
class _Fold:
    module: Module

    def attempt(self, uses: Uses, last: Node) -> Rewrite | None:
        user = uses.only(last.result)
        if user is not None and user.op == "tensor.scale":
            return None  # a chain folds from its end
        pattern, source, by = _chain(uses, last)
        if by == 1:
            return Rewrite(pattern, [], {last.result: source}, last)
        maker = source.producer
        if maker is not None and maker.op in EMBEDDINGS and _is_free(uses, pattern, source):
            return _into_embedding(pattern, maker, by, last)
        if user is not None and user.op == "nn.add" and user.operands[0] is not user.operands[1]:
            return _into_sum(pattern, user, source, by, last)
        if maker is not None and maker.op == "nn.rms_norm" and _is_free(uses, pattern, source):
            return self._into_norm(pattern, maker, by, last)
        raise NoMatch(_why_not(maker, user))

    def _into_norm(self, pattern: Pattern, norm: Node, by: float, last: Node) -> Rewrite:
        x, weight = norm.values[0], norm.weights[0]
        source = Derived("scale", (weight.name,), (("by", by),))
        kind = TensorType("f32", cast(TensorType, weight.type).shape)
        scaled = derived(self.module, Weight(f"{weight.name}.scaled", kind, source))
        pattern.own.append(norm)
        fused = one_node(norm, "nn.rms_norm", x, scaled, eps=norm.attributes["eps"])
        return Rewrite(pattern, [fused], {last.result: fused.result}, last)


def _chain(uses: Uses, last: Node) -> tuple[Pattern, Value, float]:
    """A scale and those before it that only feed it: the product of their constants."""
    pattern, by = Pattern(uses, last), _by(last)
    (source,) = last.values
    while source.producer is not None and source.producer.op == "tensor.scale":
        if uses.only(source) is not pattern.own[-1]:
            break
        pattern.own.append(source.producer)
        by *= _by(source.producer)
        (source,) = source.producer.values
    return pattern, source, by


def _by(node: Node) -> float:
    return cast(float, node.attributes.get("by", node.attributes.get("scale")))


def _is_free(uses: Uses, pattern: Pattern, source: Value) -> bool:
    """Does nobody but the scale read what is scaled?"""
    return uses.only(source) is pattern.own[-1]


def _into_embedding(pattern: Pattern, embedding: Node, by: float, last: Node) -> Rewrite:
    pattern.own.append(embedding)
    scale = _by(embedding) * by
    fused = one_node(embedding, embedding.op, *embedding.operands, scale=scale)
    return Rewrite(pattern, [fused], {last.result: fused.result}, embedding)


def _into_sum(pattern: Pattern, total: Node, source: Value, by: float, last: Node) -> Rewrite:
    residual, branch = total.operands
    if residual is last.result:
        need(_by(total) == 1, "both terms of the sum are scaled, and it takes one scale")
        residual, branch = branch, residual
    pattern.own.append(total)
    fused = one_node(total, "nn.add", residual, source, scale=_by(total) * by)
    return Rewrite(pattern, [fused], {total.result: fused.result}, total)


def _why_not(maker: Node | None, user: Node | None) -> str:
    if user is not None and user.op == "tensor.add":
        return "it goes into a tensor.add, which fuse-add has not made an nn.add"
    if maker is not None and maker.op in (*EMBEDDINGS, "nn.rms_norm"):
        return f"the {maker.op} that it scales has another user, which needs it as it is"
    return "neither an embedding nor a norm makes what it scales, nor does a sum take it"
