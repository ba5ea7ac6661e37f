"""How far a backend may be from the golden vectors, by what it computes with.

The classes stand here and not in artifacts: nobody who writes a file can loosen them. Each number
is about three times the worst that was measured, and says where. Knows no file and no executor.

Measured on an x86 machine (AMD EPYC, ONNX Runtime 1.32), all positions of both prompts: the demo
model and two seeded random ones of 2 layers ("tiny"), for none, int8, int4 and their groups, with
both caches; and int4 in the 0.5B shape (24 layers, random). What was derived instead says so.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from arkinfer.errors import UnsupportedError
from arkinfer.verify.golden import Distance

if TYPE_CHECKING:
    from arkinfer.artifact import Manifest


@dataclass(frozen=True)
class Tolerance:
    """The most that is let pass.

    Attributes:
        error: see `Distance`.
        kl: see `Distance`.
        value: of the error of single values; see `arkinfer.verify.localize`.
        jump: of what one op may add to the worst value before it. Errors of arithmetic grow little
            by little along the depth; that of a kernel's argument, or of a weight, comes at once.
    """

    error: float
    kl: float
    value: float = 0.0
    jump: float = 0.0

    def __add__(self, other: Tolerance) -> Tolerance:
        return Tolerance(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def problem(self, distance: Distance) -> str:
        """What is beyond this tolerance, as a clause; "" when nothing is.

        Another best token counts as the same one if errors that are let pass explain it.
        """
        if not distance.error <= self.error:
            return f"its error is {distance.error:.2g}, limit {self.error:.3g}"
        if not distance.kl <= self.kl:
            return f"its KL divergence is {distance.kl:.2g}, limit {self.kl:.3g}"
        if distance.rank > 2 * self.error:
            return (
                f"its best token is another one in {distance.rows - distance.agree} of "
                f"{distance.rows} positions, by up to {distance.rank:.2g} of the logits' spread"
            )
        return ""


FLOATS = ("fp32", "bf16", "fp16")
CODES = ("int2", "int3", "int4", "int5", "int6", "int7", "int8")
_CODES = re.compile(rf"\.({'|'.join(CODES)})-")
"""In the name of a quantized matrix's tensor, such as "….weight.int4-g128.codes"."""

_FLOAT = Tolerance(error=5e-5, kl=1e-5, value=5e-4, jump=5e-4)
"""Measured: 1e-5, 2e-6, 4e-5, 4e-5. All of it is the order of additions; values are kept with 4
digits after the point."""

_BYTES = Tolerance(error=0.12, kl=6e-3, value=0.1, jump=0.03)
"""Measured: 0.040, 1.7e-3, 0.037, 0.011. ONNX Runtime rounds the inputs of a quantized matrix to 8
bits, block by block; weights of 2 (0.023, 7e-4), 4 and 8 bits alike. So does TVM, which also keeps
scales in float16."""

_SHORTS = Tolerance(error=0.01, kl=3e-5, value=0.02, jump=0.012)
"""Measured: 3.1e-3, 9e-6, 6.1e-3, 3.9e-3, all beside massive activations and hot channels
(`recipes/demo/plant.py`); 1.8e-3, 3.5e-6, 1e-3, 4e-4 without, also in 24 layers. TVM rounds the
inputs of a quantized matrix to 15 bits, block by block."""

_HALF = Tolerance(error=0.025, kl=1e-4)
"""Measured: 8e-3, 2.5e-5, both for int8. Weights of 4 and 8 bits and plain ones alike: it is of the
float16 in which the network computes. Its ops ran on ONNX Runtime, since there was no board; how
TensorRT fuses them, and in which order it adds, has to stay within the factor three."""

NUMERICS: dict[tuple[str, str], Tolerance] = {
    **{("tensorrt", each): _HALF for each in (*FLOATS, *CODES)},
    **{(b, d): _FLOAT for b in ("onnxruntime", "tvm", "reference") for d in FLOATS},
    **{("reference", q): _FLOAT for q in CODES},
    **{(b, q): _BYTES for b in ("onnxruntime", "tvm") for q in CODES},
    ("tvm", "int16"): _SHORTS,
}
"""(backend, what the weights are) -> what its arithmetic may cost. Of quantized weights, products
that take more than 8 bits count by what they take; see `FINER`."""

FINER = ("int16", "fp32")
"""What products with quantized matrices may take instead of `int8`, the coarsest first."""

CACHES: dict[tuple[str, str], Tolerance] = {
    **{(b, "fp32"): Tolerance(0, 0) for b in ("onnxruntime", "tvm", "reference", "tensorrt")},
    ("tensorrt", "fp16"): Tolerance(0, 0),
    **{(b, "bf16"): Tolerance(0.022, 1.4e-4, 0.02, 0.014) for b in ("tvm", "reference")},
    **{(b, "fp16"): Tolerance(4e-3, 4e-6, 2.2e-3, 1e-3) for b in ("tvm", "reference")},
    **{(b, "int8"): Tolerance(0.18, 4e-3, 0.08, 0.03) for b in ("onnxruntime", "tvm", "reference")},
}
"""(backend, the cache's type) -> what the cache may cost. Measured: 0.058, 1.1e-3, 0.022, 0.015;
with scales per token less: 0.026, 3.2e-4, 0.016, 5.7e-3 (the demo model, none). bf16: 7.4e-3,
4.7e-5, 6.8e-3, 4.6e-3 (TVM, which may round queries to bf16, too; the reference 3.6e-5 and 6.6e-3);
fp16: 1.3e-3, 1.2e-6, 7.8e-4, 3.4e-4; both of the rows that files keep. TensorRT's are those of its
numerics anyway.

Golden vectors know of float32 caches only: how rounding enters the sums of attention is the
backend's to choose (ONNX Runtime rounds the queries, too), so all of it counts here."""

ROUNDING: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-4, 1e-5),
    "fp16": Tolerance(2e-3, 1e-4),
    "bf16": Tolerance(0.01, 1e-3),
    "int8": Tolerance(0.06, 3e-3),
    "int7": Tolerance(0.1, 0.01),
    "int6": Tolerance(0.2, 0.03),
    "int5": Tolerance(0.4, 0.1),
    "int4": Tolerance(0.75, 0.2),
    "int3": Tolerance(1.5, 0.8),
}
"""What the weights are -> what rounding them may cost, whatever the group. Measured: int8 0.019,
5.5e-4; int4 0.24, 0.066. Derived from these: the other widths (half the step costs half, and a
quarter of the divergence), and bf16 and fp16 of a checkpoint in float32 (one in bf16 loses
nothing, as measured)."""


def tolerances(
    manifest: Manifest, backend: str, activations: str | None = None, caches: str | None = None
) -> dict[str, Tolerance]:
    """What is let pass of a section: "reference", numerics alone; "source", quantization, too.

    What counts is what the tensors are, by their names; `--quant none` and `ternary` say little.

    Args:
        manifest: of the file.
        backend: whose section.
        activations: what its products with quantized matrices take, such as "int8, int16 in 12 of
            41", of which the coarsest counts; None: whatever the backend has always taken.
        caches: how it keeps key-value caches; None: as the manifest's `kv` says.

    Raises:
        UnsupportedError: nobody measured that combination.
    """
    dtype, kv = manifest["dtype"], caches or manifest.get("kv", "fp32")
    quant = manifest["quant"]
    codes = {match[1] for name in manifest["tensors"] if (match := _CODES.search(name))}
    taken = {each.partition(" ")[0] for each in (activations or "").split(", ")}
    coarsest = min(taken, key=FINER.index) if codes and taken.issubset(FINER) else None
    computed = coarsest or min(codes, default=dtype)
    numerics, kept = NUMERICS.get((backend, computed)), CACHES.get((backend, kv))
    rounding = ROUNDING.get(min(codes - {"int2"}, default=dtype))  # nothing is rounded to two bits
    if numerics is None or kept is None or rounding is None:
        raise UnsupportedError(
            f"There is no tolerance for {quant} with {dtype} and a cache in {kv} on {backend}",
            "Nobody measured how far such an artifact may be from its golden vectors",
            'Check the bytes alone: "arkinfer verify --integrity-only"; and compare answers with '
            '"arkinfer eval"',
        )
    reference = numerics + kept
    return {"reference": reference, "source": reference + rounding}
