"""How a matrix is quantized: bits, group, offset, order; and the scheme's name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from arkinfer.errors import UnsupportedError, UsageError

OFFSETS = {"none": "", "zero": "-asym", "min": "-min"}
"""What stands for the offset in a scheme's name: symmetric, integer zero point, float minimum."""

_NAME = re.compile(r"int([2-8])-(?:g(\d+)|(row))(-asym|-min)?(-actorder)?")


@dataclass(frozen=True)
class Scheme:
    """One way to write a matrix [N, K] with few bits.

    Attributes:
        bits: per code, 2 … 8.
        group: inputs that share a scale; 0 means the whole row.
        offset: "none" (codes centred on 2^(bits-1)), "zero" (an integer zero point per group)
            or "min" (a float minimum per group).
        act_order: the inputs are permuted before they are grouped (GPTQ's `desc_act`).
    """

    bits: int
    group: int
    offset: str = "none"
    act_order: bool = False

    def __post_init__(self) -> None:
        whole = self.group == 0 or (self.group > 0 and self.group * self.bits % 8 == 0)
        if not (2 <= self.bits <= 8 and whole and self.offset in OFFSETS):
            raise UsageError(
                f"{self.bits} bits in groups of {self.group} with offset {self.offset} is not a "
                "quantization scheme",
                "",
                "Use 2 to 8 bits, groups that fill whole bytes, and offset none, zero or min.",
            )

    @property
    def name(self) -> str:
        """`int4-g128`, `int8-row`, `int4-g32-asym`, `int4-g128-actorder`."""
        group = f"g{self.group}" if self.group else "row"
        order = "-actorder" if self.act_order else ""
        return f"int{self.bits}-{group}{OFFSETS[self.offset]}{order}"

    @property
    def midpoint(self) -> int:
        """The code that stands for 0 where there is no offset."""
        return 1 << (self.bits - 1)

    def group_size(self, columns: int) -> int:
        """Inputs per scale in a matrix of K = `columns`.

        Raises:
            UnsupportedError: the group does not divide K, or a row does not fill whole bytes.
        """
        size = self.group or columns
        if columns % size or size * self.bits % 8:
            raise UnsupportedError(
                f"{self.name} does not fit a matrix with {columns} inputs",
                f"groups of {size} must divide the inputs and fill whole bytes",
                "Choose another group size, or row.",
            )
        return size

    def bits_per_weight(self, columns: int) -> float:
        """Bits that one weight costs, with its share of a float32 scale and the offset."""
        size = self.group_size(columns)
        extra = {"none": 0, "zero": self.bits, "min": 32}[self.offset]
        return self.bits + (32 + extra) / size


def parse_scheme(name: str) -> Scheme:
    """The inverse of `Scheme.name`.

    Raises:
        UsageError: it is no scheme's name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f'"{name}" is not a quantization scheme', "", "Write one like int4-g128 or int8-row."
        )
    offset = next(kind for kind, suffix in OFFSETS.items() if suffix == (match[4] or ""))
    return Scheme(int(match[1]), int(match[2] or 0), offset, bool(match[5]))
