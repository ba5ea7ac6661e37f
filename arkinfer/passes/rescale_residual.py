"""Divides the residual stream by its branches' scale, so that every nn.add has scale 1.

With h' = h / r: h + r * branch becomes h' + branch, an embedding's scale becomes scale / r, and an
RMSNorm of h' with eps / r^2 equals that of h with eps. Exact in real numbers; see
docs/adr/0004-residual-rescaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from arkinfer import ir
from arkinfer.passes.proof import NoMatch

SOURCES = ("nn.embedding", "quant.embedding")


@dataclass(frozen=True)
class RescaleResidual:
    """All or nothing: the stream runs from an embedding through additions of one scale to norms."""

    name = "rescale-residual"

    def run(self, module: ir.Module) -> bool:
        changed = False
        for function in module.functions.values():
            adds = [node for node in function.nodes if node.op == "nn.add"]
            scaled = [node for node in adds if node.attributes["scale"] != 1]
            if not scaled:
                continue
            try:
                _rescale(function, adds)
                changed = True
            except NoMatch as reason:
                module.remark(self.name, scaled[0], str(reason))
        return changed


def _rescale(function: ir.Function, adds: list[ir.Node]) -> None:
    scales = {node.attributes["scale"] for node in adds}
    if len(scales) > 1:
        raise NoMatch(f"the additions have {len(scales)} different scales")
    (scale,) = scales
    assert isinstance(scale, float | int)
    norms: list[ir.Node] = []
    users = function.users()
    embeddings = [_origin(node, adds) for node in adds]
    sources = list({id(node): node for node in embeddings if node is not None}.values())
    stream = {node.result for node in [*sources, *adds]}
    for value in list(stream):
        norms += _norms(value, users, function, stream)
    for node in sources:
        given = node.attributes.get("scale", 1.0)
        assert isinstance(given, float | int)
        node.attributes["scale"] = given / scale
    for node in {id(norm): norm for norm in norms}.values():
        eps = node.attributes["eps"]
        assert isinstance(eps, float | int)
        node.attributes["eps"] = eps / scale**2
    for node in adds:
        node.attributes["scale"] = 1.0


def _origin(node: ir.Node, adds: list[ir.Node]) -> ir.Node | None:
    """The embedding that an addition's stream begins with; None behind another addition."""
    residual, branch = node.values
    before = residual.producer
    if branch.producer is not None and branch.producer.op in ("nn.add", *SOURCES):
        raise NoMatch("a branch is itself part of the stream")
    if before is None or before.op not in ("nn.add", *SOURCES):
        raise NoMatch("the stream does not begin with an embedding")
    return None if before.op == "nn.add" else before


def _norms(
    value: ir.Value,
    users: dict[ir.Value, list[ir.Node]],
    function: ir.Function,
    stream: set[ir.Value],
) -> list[ir.Node]:
    """The norms that read a value of the stream, maybe behind a selection of rows."""
    if value in function.outputs:
        raise NoMatch("the stream is a result of the function")
    found: list[ir.Node] = []
    for user in users[value]:
        if user.op == "nn.rms_norm":
            found.append(user)
        elif user.op == "tensor.take":
            found += _norms(user.result, users, function, stream)
        elif user.op != "nn.add" or user.values[0] is not value:
            raise NoMatch(f"{user.op} reads the stream without a norm")
    return found
