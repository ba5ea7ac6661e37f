"""The host half of the reference backend: keeps the IR's text and the weights as they are.

Knows no op and no kernel: whatever the IR can say, `executor.py` interprets.
"""

from __future__ import annotations

from arkinfer import ir
from arkinfer.artifact import SECTION_IR
from arkinfer.backend import SectionWriter, Support
from arkinfer.targets import Target


class ReferenceCompiler:
    """Entry point "reference" of the group `arkinfer.compilers`."""

    name = "reference"
    legalizations: tuple[str, ...] = ()
    activations: tuple[str, ...] = ("f32",)

    def supports(self, node: ir.Node, target: Target) -> Support:
        """Every op of the IR has a `ref`, and no one chooses this backend for its speed."""
        return Support.fast()

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        """Writes the text, and each weight that a node reads.

        Weights that only stand for the origin of others (`Derived.inputs`) stay behind.
        """
        used = {weight.name: weight for node in module.nodes() for weight in node.weights}
        entry = out.file(SECTION_IR, ir.print_module(module).encode())
        weights = {name: out.weight(weight) for name, weight in used.items()}
        out.configure({"ir": entry, "weights": weights}, requires={})
