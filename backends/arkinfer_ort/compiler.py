"""The host half of the ONNX Runtime backend: one ONNX model without weights, and a list of them.

Knows no file layout; the executor joins both when the artifact is loaded.
"""

from __future__ import annotations

from typing import cast

from arkinfer import ir
from arkinfer.artifact import SECTION_IR
from arkinfer.backend import SectionWriter, Support
from arkinfer.errors import UnsupportedError
from arkinfer.targets import Target
from arkinfer_ort import support
from arkinfer_ort.initializers import Initializers
from arkinfer_ort.lowering import Lowering


class OnnxRuntimeCompiler:
    """Entry point "onnxruntime" of the group `arkinfer.compilers`."""

    name = "onnxruntime"
    legalizations: tuple[str, ...] = ("rescale-residual",)
    activations: tuple[str, ...] = ("i8", "f32")

    def supports(self, node: ir.Node, target: Target) -> Support:
        """By the tables of `support.py`."""
        return support.supports(node, target)

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        """Writes the graph, and the weights that it reads.

        Raises:
            UnsupportedError: a node has no place in the graph; names its torch path.
        """
        for node in module.nodes():
            found = self.supports(node, target)
            if found.level == "no":
                where = f" at {node.loc}" if node.loc else ""
                raise UnsupportedError(f"ONNX Runtime cannot run {node.op}{where}", found.reason)
        facts = {name: cast(int, module.attributes[name]) for name in FACTS}
        out.file(SECTION_IR, ir.print_module(module).encode())
        initializers = Initializers(out, target.arch)
        lowering = Lowering(module.functions["step"], facts["context"], initializers)
        lowering.run()
        model = out.file("model.onnx", lowering.graph.model())
        config = {
            **facts,
            "model": model,
            "values": out.file("values.json", lowering.places().to_json()),
            "caches": lowering.caches,
            "initializers": list(initializers.entries.values()),
        }
        version = support.newest(initializers.versions)
        out.configure(config, {"onnxruntime": f">={version}"})


FACTS = ("context", "chunk", "vocab_size")
"""Attributes of the module that the executor needs to know."""
