"""How long the network of a whole model takes on a CUDA device, node by node in torch with our
kernels and as a CUDA graph: weights are random and made there, so that any preset can be timed.

    python -m benchmarks.replay_shape minicpm4-8b --scheme int4-g128

It is no forecast of TensorRT, which fuses what torch does node by node; it tells how close the
products come to the memory's speed in a whole network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import Tensor

from arkinfer import ir
from arkinfer.backend import SectionWriter
from arkinfer.errors import ArkError
from arkinfer.models.config import parse_config
from arkinfer.packing import parse_scheme
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module
from arkinfer_trt.kernels.gemv import ATTRIBUTE, OP, Gemv, tactics
from arkinfer_trt.lowering import Lowering
from arkinfer_trt.section import HIDDEN, KEYS, LENGTH, LOGITS, POSITIONS, ROWS
from arkinfer_trt.weights import Weights
from benchmarks.gpu import device
from benchmarks.gpu_timing import seconds
from benchmarks.torch_executor import Kernels
from benchmarks.torch_ops import DTYPES, TorchNetwork


def main(arguments: list[str] | None = None) -> int:
    """Times a step of one token and a chunk; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.replay_shape", description=__doc__.splitlines()[0]
    )
    parser.add_argument("preset", help="such as minicpm4-8b")
    parser.add_argument("--scheme", default="int4-g128", help="of linears")
    parser.add_argument("--embedding", default="int8-g128", help="of the head")
    parser.add_argument("--context", type=int, default=1024, help="tokens that caches hold")
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--kernels", type=Path, help="file of gpu_tiles --compile")
    given = parser.parse_args(arguments)
    try:
        schemes = {"linear": given.scheme, "embedding": given.embedding}
        model = network(given.preset, schemes, given.context, given.chunk)
        run = device(None, given.kernels)
        found = products(model)
        run.prepare((gemv, tile) for gemv in found for tile in tactics(gemv).values())
        torch_network = TorchNetwork(model, "cuda", Kernels(run))
        weights = sum(gemv.nbytes for gemv in found)
        for tokens in (1, given.chunk):
            took = timed(torch_network, model, tokens, given.context)
            rate = f", {weights / took / 1e9:.0f} GB/s of weights" if tokens == 1 else ""
            print(
                f"{given.preset} in {given.scheme}, {tokens} tokens: {took * 1e3:.2f} ms, "
                f"{tokens / took:.0f} tokens per second{rate}",
                flush=True,
            )
    except ArkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def network(name: str, schemes: dict[str, str], context: int, chunk: int) -> onnx.ModelProto:
    """What the compiler would write for that preset."""
    parsed: dict[str, Any] = {key: parse_scheme(value) for key, value in schemes.items()}
    module = dense_module(parse_config(preset(name)), context=context, chunk=chunk, **parsed)
    weights = Weights(cast(SectionWriter, _Nowhere()), "f16")
    lowering = Lowering(module.functions["step"], context, "gemv", weights, "f16")
    lowering.run()
    return lowering.graph.model()


class _Nowhere:
    """A section that keeps nothing, and so needs no numbers."""

    def weight(self, weight: ir.Weight) -> dict[str, str]:
        return {"": weight.name}

    def tensor(self, name: str, *_: object) -> str:
        return name


def products(model: onnx.ModelProto) -> list[Gemv]:
    """Of the plug-in's nodes."""
    return [
        Gemv(*onnx.helper.get_node_attr_value(node, ATTRIBUTE))
        for node in model.graph.node
        if node.op_type == OP
    ]


def inputs(model: onnx.ModelProto, tokens: int, rows: int, where: str) -> dict[str, Tensor]:
    """Random numbers for all inputs; sequences begin with these tokens, and attention looks at so
    many rows of the caches."""
    random = torch.Generator(where).manual_seed(0)
    known = {
        POSITIONS: torch.arange(tokens, device=where)[None],
        LENGTH: torch.zeros(1, dtype=torch.int64, device=where),
        ROWS: torch.tensor([tokens - 1], device=where),
        KEYS: torch.arange(rows, device=where)[None, None, None],
    }
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or tokens for d in kind.shape.dim]
        if value.name in known:
            continue
        if DTYPES[kind.elem_type] == torch.int32:
            low, high = -(1 << 31), (1 << 31) - 1
            made = torch.randint(
                low, high, shape, generator=random, dtype=torch.int32, device=where
            )
        else:
            scale = 1.0 if value.name == HIDDEN else 0.02
            made = (scale * torch.randn(shape, generator=random, device=where)).half()
        known[value.name] = made
    return known


def timed(torch_network: TorchNetwork, model: onnx.ModelProto, tokens: int, rows: int) -> float:
    """Seconds of one step, as a graph."""
    given = inputs(model, tokens, rows, "cuda")

    def step() -> None:
        with torch.inference_mode():
            torch_network.run(given)

    with torch.inference_mode():
        first = torch_network.run(given)[LOGITS]
    if not bool(first.isfinite().all()):
        raise ArithmeticError("the logits are no numbers")
    return seconds(step, rounds=5, replays=3)


if __name__ == "__main__":
    sys.exit(main())
