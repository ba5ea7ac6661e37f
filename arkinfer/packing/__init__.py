"""The canonical form of quantized weights: schemes, packing, unpacking. Knows numpy only."""

from arkinfer.packing.bits import pack_bits, packed_size, unpack_bits
from arkinfer.packing.scheme import OFFSETS, Scheme, parse_scheme
from arkinfer.packing.tensor import QuantizedTensor, encode, part_specs
from arkinfer.packing.ternary import NotTernary, find_ternary, ternary_rows

__all__ = [
    "OFFSETS",
    "NotTernary",
    "QuantizedTensor",
    "Scheme",
    "encode",
    "find_ternary",
    "pack_bits",
    "packed_size",
    "parse_scheme",
    "part_specs",
    "ternary_rows",
    "unpack_bits",
]
