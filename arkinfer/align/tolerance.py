"""How far apart two sides may be, for each kind of step; in code, so that no file can soften it.

Knows ops and schemes by name, and no stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from arkinfer.align.compare import Difference
from arkinfer.align.snapshot import Line
from arkinfer.ir import CacheType, QuantizedType, TensorType
from arkinfer.ir.ops.attention import SCALES
from arkinfer.packing import Scheme
from arkinfer.passes.quantize_cache import CHANNEL, TOKEN


@dataclass(frozen=True)
class Tolerance:
    """What is allowed.

    Attributes:
        relative: rms of the error over the rms of the tensor.
        channel: the same for the worst channel (see `Difference.channel_relative`).
        why: where the numbers come from.
    """

    relative: float
    channel: float
    why: str

    def allows(self, difference: Difference) -> bool:
        return (
            difference.nonfinite == 0
            and difference.relative <= self.relative
            and difference.channel_relative <= self.channel
        )


def widest(*tolerances: Tolerance) -> Tolerance:
    """The one that allows the most."""
    return max(tolerances, key=lambda tolerance: tolerance.relative)


def carried(own: Tolerance, inside: Sequence[Tolerance]) -> Tolerance:
    """For what comes out of a kernel that computes some operands of an op itself: their errors add
    up, those that are larger than the op's.

    Args:
        own: of the op.
        inside: of those operands.
    """
    larger = [each for each in inside if each.relative > own.relative]
    every = (own, *larger)
    relative, channel = sum(t.relative for t in every), sum(t.channel for t in every)
    return Tolerance(relative, channel, widest(*every).why) if larger else own


TORCH = Tolerance(1e-4, 1e-3, "both sides add in float32, in other orders")
SAME = Tolerance(1e-5, 1e-4, "a rewrite computes the same from the same values, in float32")


def of_pass(before: Line | None, after: Line, rounded: str = "") -> Tolerance:
    """For a node that a pass made or changed, and the one whose value it stands for.

    Args:
        before, after: what they were then.
        rounded: what the pass keeps the node's caches of floats in from now on; "": as before.
    """
    if rounded in ROUNDED:
        return ROUNDED[rounded]
    scheme = _scheme(after)
    if scheme is not None and (before is None or _scheme(before) != scheme):
        return _quantized(scheme)
    if cache_scales(after) and (before is None or not cache_scales(before)):
        return INT8_CACHE
    stored = {_dtype(line) for line in (before, after) if line is not None}
    if len(stored) > 1:
        return widest(*(_CASTS.get(dtype, SAME) for dtype in stored))
    return SAME


INT8_CACHE = Tolerance(0.04, 0.08, "keys and values in 255 steps per channel, or per row of a head")
"""Measured on the demo model: 1.0 % of keys and values, 1.5 % of what attention makes of them; with
scales per token 0.7 % and 1.2 %."""

ROUNDED = {
    "bf16": Tolerance(0.01, 0.016, "keys and values with 8 bits of mantissa"),
    "f16": Tolerance(1.3e-3, 2.2e-3, "keys and values with 11 bits of mantissa"),
}
"""By the dtype of a cache. Measured on the demo model: bf16 0.17 % of keys and values, 0.38 % of
what attention makes of them; f16 0.022 % and 0.051 %."""

_CASTS = {
    "bf16": Tolerance(4e-3, 8e-3, "weights with 8 bits of mantissa"),
    "f16": Tolerance(5e-4, 1e-3, "weights with 11 bits of mantissa"),
}


def _quantized(scheme: Scheme) -> Tolerance:
    """Rounding to steps of max / high costs step / sqrt(12); max is 3 to 5 times the rms.

    That bounds what the method may cost at all; single scales and codes are checked one by one in
    `weights.py`.
    """
    relative = 5 / ((scheme.midpoint - 1) * 12**0.5) * 1.5
    return Tolerance(relative, 2 * relative, f"{scheme.name}: rounding of the weights")


def _scheme(line: Line) -> Scheme | None:
    return next((w.type.scheme for w in line.weights if isinstance(w.type, QuantizedType)), None)


def _dtype(line: Line) -> str:
    return next((w.type.dtype for w in line.weights if isinstance(w.type, TensorType)), "")


def cache_scales(line: Line) -> str:
    """What the int8 caches of an op have scales for; "": they are floats, or there are none.

    By the scales that come with them; types of values change in place.
    """
    scales = line.operands[SCALES[line.op] :] if line.op in SCALES else ()
    if not scales:
        return ""
    return TOKEN if isinstance(scales[0].type, CacheType) else CHANNEL


def cache_form(line: Line) -> str:
    """How the caches of an op are kept: what they have scales for, or their dtype; "": none.

    Of a graph that no pass changes any more.
    """
    kinds = [o.type for o in line.operands if isinstance(o.type, CacheType)]
    return cache_scales(line) or (kinds[0].dtype if kinds else "")


def of_backend(backend: str, line: Line) -> Tolerance:
    """For a value that a backend computed from its own operands."""
    if backend == "reference":
        return REFERENCE
    if line.op == "quant.linear":
        return _ACTIVATIONS.get(str(line.attributes["activations"]), _INT8_ACTIVATIONS)
    if backend == "tvm" and line.op == "quant.embedding":
        return _HALF_SCALES
    if backend == "tvm" and line.op == "attn.dense" and cache_form(line) == "bf16":
        return _PAIRS
    kept = {kind.dtype for kind in line.types if isinstance(kind, CacheType)}
    return _CODES if cache_scales(line) else _EITHER.get(max(kept, default=""), KERNEL)


REFERENCE = Tolerance(1e-6, 1e-5, "the same interpreter on the same numbers")

KERNEL = Tolerance(1e-4, 1e-3, "float32 kernels add in other orders and have their own exp")
"""Measured, with ONNX Runtime and TVM on the demo model: at most 9e-7, in one channel 2e-6."""

_CODES = Tolerance(0.005, 0.02, "a number between two codes may fall to either")

_PAIRS = Tolerance(5e-3, 9e-3, "queries and weights of attention are rounded to bf16, too")
"""Where the processor multiplies bf16 by bf16. Measured on the demo model: 0.15 %, in one channel
0.27 %."""

_EITHER = {
    "bf16": Tolerance(1e-3, 6e-3, "what lies between two numbers may fall to either"),
    "f16": Tolerance(2e-4, 1.5e-3, "what lies between two numbers may fall to either"),
}
"""For one of the 64 numbers of a row, or for one token's of a channel. Rounding all of them towards
zero costs more: 2.7e-3 and 3.4e-4."""

_INT8_ACTIVATIONS = Tolerance(0.04, 0.12, "activations are quantized to int8, a scale per block")
"""Measured: at most 1.8 %, in one channel 5.0 %, both of the demo model's `down_proj`, whose input
has outliers."""

_ACTIVATIONS = {
    "f32": KERNEL,
    "i16": Tolerance(3e-3, 0.01, "activations are quantized to 15 bits, a scale per block"),
}
"""By what a product takes. Measured: int16 0.10 %, in one channel 0.33 %, both beside channels that
are 64 times as large as the others."""


_HALF_SCALES = Tolerance(5e-4, 1e-3, "TVM shares a head's matrix, whose scales are float16")
"""Rounding to 11 bits of mantissa costs at most 2^-11."""


def of_pair(ours: Line, theirs: Line, backend: str) -> Tolerance:
    """For what our graph and weights make of the operands that another backend has."""
    tolerance = of_backend(backend, theirs)
    mine, its = (_storage(line) for line in (ours, theirs))
    if mine != its:
        both = [_quantized(scheme) for scheme in (_scheme(ours), _scheme(theirs)) if scheme]
        both += [_CASTS[d] for d in (_dtype(ours), _dtype(theirs)) if d in _CASTS]
        tolerance = widest(tolerance, *both)
    if cache_scales(ours) != cache_scales(theirs):
        return INT8_CACHE
    forms = {cache_form(line) for line in (ours, theirs)}
    both = [ROUNDED[form] for form in forms if form in ROUNDED] if len(forms) > 1 else []
    return widest(tolerance, *both)


def _storage(line: Line) -> tuple[str, ...]:
    """How the weights of a line are kept."""
    return tuple(
        w.type.scheme.name if isinstance(w.type, QuantizedType) else w.type.dtype
        for w in line.weights
    )
