"""What one node of the GEMV plug-in computes, and with which launches: the one source for the
network, the kernel, the plug-in and their tests. Knows neither Triton nor TensorRT.

    y[t, n] = sum over k of x[t, k] * scale[n, k // group] * (code[n, k] - 2^(bits - 1))

x is float16 [..., inputs], y float16 [..., width]; products are summed in float32. Codes have 2, 4
or 8 bits: ternary, int4 and int8 matrices without an offset. `layout.py` tells how they lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

from arkinfer.errors import UnsupportedError
from arkinfer.packing import Scheme

N = TypeVar("N")

NAMESPACE, OP, VERSION = "arkinfer", "ArkGemv", "1"
"""Of the plug-in; the op's name is none that TensorRT's ONNX parser knows itself."""

ATTRIBUTE = "matrix"
"""The only one that is ours, an int32 array. TensorRT 10.16 reads single numbers in a way that
NumPy 2.4 refuses, and passes several by position, in the order in which it read them."""

NODE = {"plugin_namespace": NAMESPACE, "plugin_version": VERSION, "aot": 1}
"""Attributes by which TensorRT's parser of ONNX finds the plug-in."""

TENSORS, SCALARS, OUTPUT = ("x", "words", "scale"), ("tokens", "width"), "y"
"""Arguments of a kernel, in the order in which TensorRT passes them to ahead-of-time plug-ins:
inputs, scalars that depend on shapes alone, outputs."""

BITS = (2, 4, 8)
ROWS = 4
"""Of the matrix, whose words lie side by side: what a thread loads at once (128 bits)."""

MOST_WORDS = 2**31
"""Offsets are signed 32-bit numbers."""


@dataclass(frozen=True)
class Gemv:
    """The product with a matrix [width, inputs].

    Attributes:
        bits: of a code, 2, 4 or 8.
        group: inputs that share a scale; all of them where a row has one scale.
        inputs: K.
        width: N.

    Raises:
        UnsupportedError: no kernel does it; says why.
    """

    bits: int
    group: int
    inputs: int
    width: int

    def __post_init__(self) -> None:
        what = f"The GEMV kernel cannot multiply by {self.width} x {self.inputs} codes"
        if self.bits not in BITS:
            raise UnsupportedError(what, f"It has codes of 2, 4 or 8 bits, not {self.bits}")
        if self.group < 1 or self.inputs % self.group or self.group % self.per_word:
            raise UnsupportedError(
                what,
                f"Groups of {self.group} must divide the inputs, and fill words of "
                f"{self.per_word} codes",
            )
        if self.width < 1 or self.quads * self.columns * ROWS >= MOST_WORDS:
            raise UnsupportedError(what, f"It takes 1 to {MOST_WORDS - 1:,} words of 32 bits")

    @classmethod
    def of(cls, scheme: Scheme, shape: tuple[int, int]) -> Gemv:
        """The product with a matrix [N, K] of that scheme.

        Raises:
            UnsupportedError: the scheme has an offset or an order of its own, or see the class.
        """
        width, inputs = shape
        if scheme.offset != "none" or scheme.act_order:
            raise UnsupportedError(
                f"The GEMV kernel cannot multiply by {scheme.name}",
                "It has neither zero points nor minima, and inputs stay in their order",
            )
        return cls(scheme.bits, scheme.group_size(inputs), inputs, width)

    @property
    def per_word(self) -> int:
        """Codes in a word of 32 bits."""
        return 32 // self.bits

    @property
    def columns(self) -> int:
        """Words in a row."""
        return self.inputs // self.per_word

    @property
    def groups(self) -> int:
        """Scales in a row."""
        return self.inputs // self.group

    @property
    def quads(self) -> int:
        """Sets of four rows; the last one may be padded."""
        return -(-self.width // ROWS)

    def parts(self) -> dict[str, tuple[str, tuple[int, int, int]]]:
        """dtype and shape of what is stored, by the names of the kernel's arguments."""
        return {
            "words": ("int32", (self.quads, self.columns, ROWS)),
            "scale": ("float16", (self.quads, self.groups, ROWS)),
        }

    @property
    def nbytes(self) -> int:
        """What a step reads of the matrix."""
        sizes = {"int32": 4, "float16": 2}
        return sum(sizes[dtype] * math.prod(shape) for dtype, shape in self.parts().values())

    @property
    def attribute(self) -> list[int]:
        """What the node says of itself, `ATTRIBUTE`: bits, group, inputs, width."""
        return [self.bits, self.group, self.inputs, self.width]


@dataclass(frozen=True)
class Tile:
    """What one program (a block of threads) does, and one choice that a board can time: rows of
    the matrix times few rows of x, by multiplications in float32; `gemv_triton.py`.

    Attributes:
        tokens: rows of x.
        quads: sets of four rows of the matrix.
        warps: of 32 threads, which share the inputs.
        lanes: words of a row in a step; where they are more than threads, each loads several
            before it uses the first.
    """

    tokens: int
    quads: int
    warps: int
    lanes: int

    function: ClassVar = "ark_gemv"

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def name(self) -> str:
        return f"t{self.tokens}q{self.quads}w{self.warps}l{self.lanes}"

    def grid(self, gemv: Gemv, tokens: N, divide: Callable[[N, int], N]) -> tuple[N | int, N | int]:
        """Programs along the two dimensions of a launch; one may be a symbol of TensorRT's.

        Args:
            gemv: the product.
            tokens: rows of x.
            divide: divides such a number and rounds up.
        """
        return -(-gemv.quads // self.quads), divide(tokens, self.tokens)

    def constants(self, gemv: Gemv) -> dict[str, int]:
        """What the kernel is specialized for."""
        return {
            "BITS": gemv.bits,
            "GROUP": gemv.group,
            "INPUTS": gemv.inputs,
            "TOKENS": self.tokens,
            "QUADS": self.quads,
            "LANES": self.lanes,
        }


@dataclass(frozen=True)
class DotTile:
    """The same for many rows of x: by tensor cores; `gemm_triton.py`.

    Attributes:
        tokens: rows of x, 16 or more.
        quads: sets of four rows of the matrix, 4 or more.
        depth: inputs of a step, 16 or more.
        stages: steps whose x and words are on their way or in shared memory.
        warps: of 32 threads, which share the tile of y.
    """

    tokens: int
    quads: int
    depth: int
    stages: int
    warps: int

    function: ClassVar = "ark_gemm"

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def name(self) -> str:
        return f"t{self.tokens}q{self.quads}d{self.depth}s{self.stages}w{self.warps}"

    def grid(self, gemv: Gemv, tokens: N, divide: Callable[[N, int], N]) -> tuple[N | int, N | int]:
        """As a `Tile`'s, but first along x: neighbours share the matrix, which is the larger."""
        return divide(tokens, self.tokens), -(-gemv.quads // self.quads)

    def constants(self, gemv: Gemv) -> dict[str, int]:
        """What the kernel is specialized for."""
        return {
            "BITS": gemv.bits,
            "GROUP": gemv.group,
            "INPUTS": gemv.inputs,
            "TOKENS": self.tokens,
            "QUADS": self.quads,
            "DEPTH": self.depth,
            "STAGES": self.stages,
        }


AnyTile: TypeAlias = Tile | DotTile

TILES: tuple[AnyTile, ...] = (
    *(Tile(1, 2, 4, 256), Tile(1, 1, 4, 512), Tile(1, 1, 4, 128), Tile(1, 1, 1, 64)),
    *(Tile(1, 4, 4, 128), Tile(4, 1, 4, 128)),
    *(DotTile(16, 8, 128, 4, 2), DotTile(64, 16, 64, 3, 4), DotTile(128, 16, 32, 4, 4)),
)
"""TensorRT numbers tactics from 1: tile i is tactic i + 1, in every engine. The builder times them
on the board, once for each optimization profile, so that decoding and prompts get a tile each.

The first five are for one token: on an H100, the first is the best of them or within a tenth of
it for all matrices of MiniCPM4-8B in int4, and each of the others is better for some. The sixth
and seventh are for a few tokens, e.g. of a draft, and the last two for prompts. Nobody has timed
them on Orin. None needs more than 48 KiB of shared memory: beyond that a kernel has to be told so
before it is launched, and NVIDIA does not say whether TensorRT does that."""

MOST_SHARED = 48 << 10
"""Bytes that a launch may ask for as it is."""


def tactics(gemv: Gemv) -> dict[int, AnyTile]:
    """The tiles worth timing, by TensorRT's number: in wider ones, some threads would have no
    word of any row."""
    most = max(64, gemv.columns)
    return {
        i: tile
        for i, tile in enumerate(TILES, 1)
        if isinstance(tile, DotTile) or tile.lanes <= most
    }


def kernel_name(gemv: Gemv, tile: AnyTile) -> str:
    """Of the entry that multiplies so; products that differ in width alone share it.

    >>> kernel_name(Gemv(4, 128, 4096, 4096), TILES[0])
    'ark_gemv_int4_g128_k4096_t1q2w4l256'
    """
    return f"{tile.function}_int{gemv.bits}_g{gemv.group}_k{gemv.inputs}_{tile.name}"


@dataclass(frozen=True)
class Kernel:
    """What a board needs of a compiled kernel.

    Attributes:
        name: of its entry.
        ptx: its text, for one compute capability and later ones.
        threads: in a block.
        shared: bytes of shared memory that a launch asks for.
    """

    name: str
    ptx: str
    threads: int
    shared: int
