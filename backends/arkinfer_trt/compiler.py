"""The host half of the TensorRT backend: a network in standard ONNX, and its weights.

TensorRT itself is not needed, and no engine is made: engines belong to one board, one version and
one clock. Knows no pass.
"""

from __future__ import annotations

from typing import cast

from arkinfer import ir
from arkinfer.artifact import SECTION_IR
from arkinfer.backend import Footprint, SectionWriter, Support
from arkinfer.errors import UnsupportedError
from arkinfer.targets import Target
from arkinfer_trt import support
from arkinfer_trt.footprint import footprint
from arkinfer_trt.graph import OPSET, Graph
from arkinfer_trt.lowering import LENGTH, POSITIONS, ROWS, TOKENS, Lowering
from arkinfer_trt.weights import Initializers


class TensorRTCompiler:
    """Entry point "tensorrt" of the group `arkinfer.compilers`.

    Args:
        dtype: what the network computes in: "f16", which boards are fast in, or "f32".
    """

    name = "tensorrt"
    legalizations: tuple[str, ...] = ()

    def __init__(self, dtype: str = "f16") -> None:
        self.dtype = dtype
        self.activations: tuple[str, ...] = (dtype,)

    def supports(self, node: ir.Node, target: Target) -> Support:
        """By the table of `support.py`."""
        return support.supports(node, target)

    def footprint(self, module: ir.Module, loaded: int) -> Footprint:
        """Of the engine that the board makes, and of making it."""
        return footprint(module, loaded, self.dtype)

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        """Writes the network, and the facts that a board needs to finish it.

        Raises:
            UnsupportedError: a node has no layer; names its torch path. Or see `weights.py`.
        """
        for node in module.nodes():
            found = self.supports(node, target)
            if found.level == "no":
                where = f" at {node.loc}" if node.loc else ""
                raise UnsupportedError(f"TensorRT cannot run {node.op}{where}", found.reason)
        context, chunk, vocabulary = (
            cast(int, module.attributes[name]) for name in ("context", "chunk", "vocab_size")
        )
        out.file(SECTION_IR, ir.print_module(module).encode())
        graph = Graph()
        weights = Initializers(graph, out, self.dtype)
        lowering = Lowering(module.functions["step"], context, graph, weights, self.dtype)
        lowering.run()
        network = out.file("network.onnx", graph.model())
        config = {
            "network": network,
            "opset": OPSET,
            "dtype": {"f16": "float16", "f32": "float32"}[self.dtype],
            "strongly_typed": True,
            "context": context,
            "chunk": chunk,
            "vocab_size": vocabulary,
            "caches": lowering.caches,
            "profiles": {"prefill": _profile(1, chunk), "decode": _profile(1, 1)},
        }
        out.configure(config, {"tensorrt": f">={support.VERSION}"})


def _profile(least: int, most: int) -> dict[str, list[list[int]]]:
    """Shapes of the inputs that vary: the smallest, the usual and the largest."""
    shapes = {TOKENS: [1, 0], POSITIONS: [1, 0], ROWS: [0], LENGTH: [1]}
    sizes = (least, most, most)
    return {name: [[d or n for d in shape] for n in sizes] for name, shape in shapes.items()}
