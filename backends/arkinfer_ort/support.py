"""What ONNX Runtime runs fast, as data, and the answer for one node. Knows no ONNX.

The numbers were measured with ONNX Runtime 1.32 on x86-64 with AVX512-VNNI: one row times
[4096, 1024] on two threads takes 40 … 100 µs on a fast path, and 1 … 16 ms on a slow one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from arkinfer import ir
from arkinfer.backend import Support
from arkinfer.ir import QuantizedType, TensorType
from arkinfer.packing import Scheme
from arkinfer.targets import Target
from arkinfer_ort.attention import NoMatch, match_attention

BASE_VERSION = "1.23"
"""The oldest ONNX Runtime that is tested."""

BIT_VERSIONS = {2: "1.28", 4: BASE_VERSION, 8: BASE_VERSION}
"""Bits per weight -> the first ONNX Runtime that multiplies by them fast. 1.23 refuses two bits,
and 1.24 to 1.27 widen the matrix at every use, where they do not look sums up."""

LOOKUP_VERSION = "1.24"
"""The first ONNX Runtime whose products with two bits look up the sums of four activations. Its
kernels for that run on any x86-64 with AVX2, the others for two bits on one with AVX-512 only."""

LOOKUP_ROWS, LOOKUP_BLOCK = 128, 256
"""Rows come in units of so many, and a scale may serve so many columns: looked up, a weight takes
2 + 32 / 256 bits of memory beside what is shared, in the other layout at best 2 + 64 / 128. One
row times [4096, 1024] takes 100 µs on one thread, 90 the other way and 105 with four bits; each
of 32 rows takes 87, 50 and 50."""

PADDED_ZEROS_VERSION = "1.28"
"""GatherBlockQuantized of 1.23 to 1.26 takes zero points of rows that do not fill whole bytes
from wrong places, silently."""

INT8_CACHE_VERSION = "1.27"
"""The first GroupQueryAttention that keeps int8 caches on a CPU: 1.24 and older refuse such a
model, 1.25 and 1.26 load it and fail in the first step."""

INT8_CACHE = Support.slow(
    "long prompts take 2 to 3 times as long over int8 caches; single tokens take two thirds"
)
"""Of a model with 24 layers, 16 heads and 2 key-value heads of 64 on one thread: 512 tokens after
3,584 took 6.6 s with int8 caches and 2.5 s with float32, one token after 4,096 took 27 and 39 ms.
In a chunk, each row costs what a token alone costs; over float32 they share the work."""

BLOCKS = (128, 64, 32, 16)
"""Block sizes in order of preference. Larger groups are cut: two bits are slow above 128, and
activations are quantized by block, so that short blocks are the more accurate ones."""

SLOW_BLOCKS = {(2, 16)}
"""(bits, block) that have no kernel of their own: each call widens the matrix, 16 ms."""

EXACT = {
    2: "with activations in fp32 two bits become four in memory, and a product takes 3 to 5 times "
    "as long",
    4: "with activations in fp32 a product takes 3 times as long, a prompt's twice",
    8: "with activations in fp32 a product takes 4 to 6 times as long, a prompt's 4 times",
}
"""Bits per weight -> what it costs to leave activations as they are. ONNX Runtime has kernels for
that with four bits only, which run everything else here, too; with others it would widen the whole
matrix at every use. One row times [1024, 1024] on one thread takes 70 µs with four bits (20 with
int8 activations), 130 with eight (24; widened 1,650) and 73 with two (27; widened 1,950); each of
512 rows takes 45, 83 and 45 µs (20, 18 and 37). In the shape of MiniCPM4-0.5B, which caches do not
hold, a token takes 3.2 times as long with four bits, 4 with eight and 4.5 with two."""

MEASURED = ("x86_64", "AMD64")
"""Architectures that the tables were measured on."""

FLOATS = ("f32", "f16", "bf16")


def block_size(scheme: Scheme, columns: int) -> int | None:
    """The largest block that divides the scheme's groups; None: there is none."""
    size = scheme.group_size(columns)
    return next((block for block in BLOCKS if size % block == 0), None)


def has_row_factors(kind: QuantizedType) -> bool:
    """Whether a product is multiplied by the rows' scales afterwards: a scale for every block
    would be a tenth of a matrix of two bits."""
    scheme, (_, columns) = kind.scheme, kind.shape
    return scheme.bits == 2 and scheme.offset == "none" and scheme.group_size(columns) == columns


def looks_up(kind: QuantizedType) -> bool:
    """Whether a product with such a matrix looks up sums, where the machine has kernels for it."""
    scheme, (rows, columns) = kind.scheme, kind.shape
    block = block_size(scheme, columns)
    return scheme.bits == 2 and rows % LOOKUP_ROWS == 0 and block is not None and block % 32 == 0


def is_exact(node: ir.Node) -> bool:
    """Whether a product has to take its activations as they are."""
    return node.attributes.get("activations") == "f32"


def product_block(kind: QuantizedType, arch: str, *, exact: bool = False) -> int | None:
    """The block size of a matrix that is multiplied by; None: there is none."""
    wide = has_row_factors(kind) and looks_up(kind) and kind.shape[1] % LOOKUP_BLOCK == 0
    if wide and arch in MEASURED and not exact:
        return LOOKUP_BLOCK
    return block_size(kind.scheme, kind.shape[1])


def needed_version(kind: QuantizedType, *, table: bool = False, exact: bool = False) -> str:
    """The first ONNX Runtime that multiplies by such a matrix, or looks up rows in it."""
    if exact:
        return BIT_VERSIONS[4]
    scheme, block = kind.scheme, block_size(kind.scheme, kind.shape[1])
    if table and scheme.offset == "zero" and block and kind.shape[1] // block * scheme.bits % 8:
        return PADDED_ZEROS_VERSION
    if not table and looks_up(kind):
        return LOOKUP_VERSION
    return BIT_VERSIONS[scheme.bits]


def newest(versions: Iterable[str]) -> str:
    """The largest of some versions; the oldest one that is tested where there is none."""
    known = [BASE_VERSION, *versions]
    return max(known, key=lambda version: tuple(int(part) for part in version.split(".")))


def supports(node: ir.Node, target: Target) -> Support:
    """How ONNX Runtime runs a node on the target."""
    rule = _RULES.get(node.op)
    if rule is None:
        return Support.no(f"the ONNX Runtime backend has no kernel for {node.op}")
    return rule(node, target)


def _quantized(node: ir.Node, target: Target) -> Support:
    kind = node.weights[0].type if node.weights else None
    if not isinstance(kind, QuantizedType):
        return Support.no("its matrix is not a weight of the model")
    scheme, columns = kind.scheme, kind.shape[1]
    if scheme.bits not in BIT_VERSIONS:
        known = ", ".join(str(bits) for bits in BIT_VERSIONS)
        return Support.no(f"ONNX Runtime multiplies by {known} bits, not {scheme.bits}")
    if scheme.offset == "min":
        return Support.no("float minima take 8 ms where integer zero points take 40 µs")
    if scheme.act_order and node.op == "quant.embedding":
        return Support.no("a table cannot have its columns in another order")
    block = block_size(scheme, columns)
    if block is None:
        size = scheme.group_size(columns)
        return Support.no(f"groups of {size} cannot be cut into blocks of 16, 32, 64 or 128")
    if is_exact(node):
        return Support.slow(EXACT[scheme.bits])
    if node.op == "quant.linear" and (scheme.bits, block) in SLOW_BLOCKS:
        return Support.slow(f"{scheme.bits} bits in blocks of {block} are widened at every use")
    if target.arch not in MEASURED and scheme.bits == 2:
        return Support.slow(f"2-bit kernels were not measured on {target.arch}")
    return Support.fast()


def _dense(node: ir.Node, target: Target) -> Support:
    kind = node.weights[0].type if node.weights else None
    if not isinstance(kind, TensorType) or kind.dtype not in FLOATS:
        return Support.no("its weight is not a float tensor of the model")
    return Support.fast()


def _rows(node: ir.Node, target: Target) -> Support:
    """Elementwise and normalization: [T, width] only."""
    if len(node.values[0].tensor.shape) != 2:
        return Support.no(f"it works on {node.values[0].type}, not on rows")
    return _dense(node, target) if node.op == "nn.rms_norm" else Support.fast()


def _add(node: ir.Node, target: Target) -> Support:
    if node.attributes.get("scale", 1.0) != 1.0:
        return Support.slow("its scale costs a pass of its own; rescale-residual avoids it")
    return _rows(node, target)


def _attention(node: ir.Node, target: Target) -> Support:
    try:
        match = match_attention(node)
    except NoMatch as reason:
        return Support.no(f"it {reason}")
    return INT8_CACHE if match.cache_scales else Support.fast()


def _absorbed(node: ir.Node, target: Target) -> Support:
    """Part of an attention; `compile` refuses one that no attention uses."""
    return Support.fast()


_RULES: dict[str, Callable[[ir.Node, Target], Support]] = {
    "attn.dense": _attention,
    "cache.append": _absorbed,
    "nn.add": _add,
    "nn.embedding": _dense,
    "nn.linear": _dense,
    "nn.rms_norm": _rows,
    "nn.rope": _absorbed,
    "nn.silu_mul": _rows,
    "quant.embedding": _quantized,
    "quant.linear": _quantized,
    "tensor.arange": _absorbed,
    "tensor.reshape": _absorbed,
    "tensor.slice": _absorbed,
    "tensor.take": _absorbed,
}
