"""What an engine takes on its board, predicted. Knows no node and has measured no board."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

from arkinfer import ir
from arkinfer.backend import Footprint
from arkinfer.ir import QuantizedType
from arkinfer.targets import Target
from arkinfer_trt import memory, support
from arkinfer_trt.kernels.gemv import Gemv

FLOATS = {"f32": ("fp32", 4), "f16": ("fp16", 2)}
"""What the network computes in -> how caches are kept, and bytes of a number in them."""


@dataclass(frozen=True)
class _Weights:
    """Bytes on the device.

    Attributes:
        beside: of matrices that our kernels multiply by, as they are repacked.
        dense: of matrices that are not quantized.
        small: of all else, which has to be in the engine: norms, rotary tables, and int4 matrices
            where there is no kernel for them.
        read: what a step of one token reads.
    """

    beside: int = 0
    dense: int = 0
    small: int = 0
    read: int = 0


def footprint(module: ir.Module, target: Target, dtype: str) -> Footprint:
    """Of networks in `dtype`.

    Our kernels are taken for faster than TensorRT's int4: what they multiply by lies beside the
    engine. Dense matrices are in it, where the target has memory enough to put them there. The
    embedding's table stays in the file, of which a step reads a few rows.
    """
    caches = [v.type for v in module.functions["step"].inputs if isinstance(v.type, ir.CacheType)]
    numbers = sum(math.prod(d for d in kind.shape if isinstance(d, int)) for kind in caches)
    kept, size = FLOATS[dtype]
    found = _weights(module, size)
    fits = memory.building(found.small + found.dense) <= target.total_memory()
    constants = found.small + (found.dense if fits else 0)
    engine = memory.engine(constants)
    return Footprint(
        run=memory.RUNTIME + engine + found.beside + (0 if fits else found.dense),
        per_token=numbers * size,
        per_step=found.read,
        caches=kept,
        engine=engine,
        prepare=memory.building(constants),
    )


def _weights(module: ir.Module, size: int) -> _Weights:
    """What a module's nodes have on the device; a number that is no code has `size` bytes."""
    found, seen = _Weights(), set[str]()
    for node in module.nodes():
        if node.op.endswith(".embedding"):
            continue
        for weight in node.weights:
            kind, shape = weight.type, cast("tuple[int, ...]", weight.type.shape)
            new = 0 if weight.name in seen else 1
            seen.add(weight.name)
            if isinstance(kind, QuantizedType):
                nbytes = Gemv.of(kind.scheme, kind.shape).nbytes
                part = "beside" if support.has_triton() else "small"
            elif node.op == "nn.rope":
                context = cast(int, module.attributes["context"])
                nbytes, part = 2 * context * shape[0] * size, "small"
            else:
                nbytes, part = math.prod(shape) * size, "dense" if len(shape) > 1 else "small"
            found = replace(found, **{part: getattr(found, part) + new * nbytes})
            if node.op.endswith(".linear"):
                found = replace(found, read=found.read + nbytes)
    return found
