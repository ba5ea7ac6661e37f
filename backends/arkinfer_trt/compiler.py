"""The host half of the TensorRT backend: networks in ONNX, where their weights are, and kernels.

TensorRT itself is not needed, and no engine is made: engines belong to one board, one version and
one clock. Knows no pass.
"""

from __future__ import annotations

from typing import cast

from onnx import ModelProto

from arkinfer import ir
from arkinfer.artifact import SECTION_IR
from arkinfer.backend import Footprint, SectionWriter, Support
from arkinfer.errors import UnsupportedError
from arkinfer.packing import parse_scheme
from arkinfer.targets import Target
from arkinfer_trt import support
from arkinfer_trt.footprint import footprint
from arkinfer_trt.kernels.gemv import Gemv
from arkinfer_trt.kernels.stored import kernels_file
from arkinfer_trt.kernels.works import kernel_works
from arkinfer_trt.lint import check
from arkinfer_trt.lowering import Lowering
from arkinfer_trt.products import probes
from arkinfer_trt.section import Network, TensorRTSection
from arkinfer_trt.weights import Weights

FILES: dict[Network, str] = {"gemv": "network.onnx", "native": "native.onnx"}
"""Where the networks are in the section."""

BOARD = "f16"
"""What networks compute in that boards finish."""


class TensorRTCompiler:
    """Entry point "tensorrt" of the group `arkinfer.compilers`.

    Args:
        dtype: what the networks compute in: that of boards, or "f32" to see what they are without
            rounding. Our kernels do not compute in it, so that no board finishes such a network.
    """

    name = "tensorrt"
    legalizations: tuple[str, ...] = ()

    def __init__(self, dtype: str = BOARD) -> None:
        self.dtype = dtype
        self.activations: tuple[str, ...] = (dtype,)

    def supports(self, node: ir.Node, target: Target) -> Support:
        """By the table of `support.py`."""
        return support.supports(node, target)

    def footprint(self, module: ir.Module, target: Target) -> Footprint:
        """Of the engine that the board makes, and of making it."""
        return footprint(module, target, self.dtype)

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        """Writes the networks, and all that a board needs to finish one of them.

        Raises:
            UnsupportedError: a node has no layer, or a network breaks a rule of TensorRT's; names
                its torch path.
        """
        for node in module.nodes():
            found = self.supports(node, target)
            if found.level == "no":
                where = f" at {node.loc}" if node.loc else ""
                why = found.reason[:1].upper() + found.reason[1:]
                raise UnsupportedError(f"TensorRT cannot run {node.op}{where}", why)
        out.file(SECTION_IR, ir.print_module(module).encode())
        out.configure(
            _Section(module, target, out, self.dtype).written().to_json(),
            {"tensorrt": f">={support.VERSION}"},
        )


class _Section:
    """One section in the making."""

    def __init__(self, module: ir.Module, target: Target, out: SectionWriter, dtype: str) -> None:
        self._module, self._sm, self._out, self._dtype = module, target.sm, out, dtype
        self._weights = Weights(out, dtype)

    def written(self) -> TensorRTSection:
        files: dict[Network, str] = {}
        lowered: list[Lowering] = []
        for network in self._networks():
            lowered.append(self._lowered(network))
            files[network] = self._save(FILES[network], lowered[-1].graph.model())
        embedding = lowered[0].embedding
        context, chunk, vocabulary = (
            cast(int, self._module.attributes[name]) for name in ("context", "chunk", "vocab_size")
        )
        both = len(files) > 1
        return TensorRTSection(
            dtype={"f16": "float16", "f32": "float32"}[self._dtype],
            context=context,
            chunk=chunk,
            vocab_size=vocabulary,
            hidden_size=cast(int, embedding.result.tensor.shape[-1]),
            sm=self._sm,
            networks=files,
            kernels=self._kernels(),
            embedding=self._weights.stored(embedding.weights[0]),
            embedding_factor=cast(float, embedding.attributes["scale"]),
            caches=tuple(lowered[0].caches),
            weights=tuple(self._weights.entries.values()),
            probes=probes(self._module, self._weights, self._dtype, self._save) if both else (),
        )

    def _networks(self) -> tuple[Network, ...]:
        """Both where int4 can be had both ways; "native" alone where no kernel can be compiled."""
        linears = [node for node in self._module.nodes() if node.op == "quant.linear"]
        if not any(support.is_native(node.weights[0].type) for node in linears):
            return ("gemv",)
        return ("gemv", "native") if support.has_triton() else ("native",)

    def _lowered(self, network: Network) -> Lowering:
        step = self._module.functions["step"]
        context = cast(int, self._module.attributes["context"])
        lowering = Lowering(step, context, network, self._weights, self._dtype)
        lowering.run()
        return lowering

    def _save(self, name: str, model: ModelProto) -> str:
        if self._dtype == BOARD:
            weights = self._weights.entries.values()
            check(model, {name for each in weights if each.constant for name in each.inputs})
        return self._out.file(name, model.SerializeToString(deterministic=True))

    def _kernels(self) -> str:
        """The file of the kernels that the networks use; "": they use none."""
        matrices = [each.stored for each in self._weights.entries.values() if each.form == "gemv"]
        products = [
            Gemv.of(parse_scheme(each.scheme), cast("tuple[int, int]", each.shape))
            for each in matrices
        ]
        if not products or self._dtype != BOARD:
            return ""
        kernels = self._out.made(kernel_works(products, self._sm))
        return self._out.file("kernels.json", kernels_file(self._sm, kernels))
