"""Products with quantized matrices, in either network's way, and the probes by which a board
chooses between the two. Knows no other node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from onnx import ModelProto

from arkinfer import ir
from arkinfer.ir import QuantizedType, Weight
from arkinfer_trt.graph import Graph, Origin, Tensor
from arkinfer_trt.section import NETWORKS, Network, Probe
from arkinfer_trt.support import is_native
from arkinfer_trt.weights import ONNX, Weights


@dataclass(frozen=True)
class Products:
    """Adds products to a graph.

    Attributes:
        graph: where nodes go.
        weights: where matrices come from.
        network: "native" leaves symmetric int4 to DequantizeLinear; all else is the plug-in's.
        dtype: what the network computes in, "f16" or "f32".
    """

    graph: Graph
    weights: Weights
    network: Network
    dtype: str

    def add(self, weight: Weight, x: str, rows: str, origin: Origin, output: str = "") -> str:
        """Appends x [1, rows, K] times a quantized matrix [N, K]; returns the result's name."""
        graph = self.graph
        if self.network == "native" and is_native(weight.type):
            block, tensors = self.weights.int4(weight, self.network)
            inputs = [graph.input(tensor) for tensor in tensors]
            matrix = graph.add("DequantizeLinear", inputs, origin, axis=0, block_size=block)
            return graph.add("MatMul", [x, matrix], origin, output)
        gemv, tensors = self.weights.gemv(weight, self.network)
        inputs = [x, *(graph.input(tensor) for tensor in tensors)]
        return graph.gemv(gemv, inputs, origin, ONNX[self.dtype], rows, output)


def probes(
    module: ir.Module, weights: Weights, dtype: str, save: Callable[[str, ModelProto], str]
) -> tuple[Probe, ...]:
    """One for each kind of product that both networks have in their own way.

    Args:
        module: whose products they are.
        weights: where matrices come from; both networks have asked for them.
        dtype: what the networks compute in.
        save: stores a network under a name, and returns the name of its file.
    """
    kinds: dict[ir.Type, list[ir.Node]] = {}
    for node in module.nodes():
        if node.op == "quant.linear" and is_native(node.weights[0].type):
            kinds.setdefault(node.weights[0].type, []).append(node)
    found: list[Probe] = []
    for nodes in kinds.values():
        first = nodes[0]
        files: dict[Network, str] = {}
        names: dict[Network, str] = {}
        for network in NETWORKS:
            graph, names[network] = _probe(first, weights, network, dtype)
            files[network] = save(
                f"probes/{_title(first.weights[0])}.{network}.onnx", graph.model()
            )
        found.append(Probe(files, names, len(nodes)))
    return tuple(found)


def _title(weight: Weight) -> str:
    """`int4-g128-4096x16384`: scheme, N and K."""
    kind = cast(QuantizedType, weight.type)
    return f"{kind.scheme.name}-{kind.shape[0]}x{kind.shape[1]}"


def _probe(node: ir.Node, weights: Weights, network: Network, dtype: str) -> tuple[Graph, str]:
    """x [1, T, K] times the matrix of a node, and the name of the matrix's first input."""
    (weight,) = node.weights
    width, inputs = cast(QuantizedType, weight.type).shape
    graph = Graph("probe")
    x = graph.input(Tensor("x", ONNX[dtype], (1, "T", inputs)))
    Products(graph, weights, network, dtype).add(
        weight, x, "T", Origin(node.op, node.loc), output="y"
    )
    graph.output(Tensor("y", ONNX[dtype], (1, "T", width)))
    return graph, graph.inputs[1]
