"""The canonical form of quantized weights: schemes, packing, unpacking. Knows numpy only."""

from arkinfer.packing.bits import pack_bits, packed_size, unpack_bits
from arkinfer.packing.scheme import OFFSETS, Scheme, parse_scheme
from arkinfer.packing.tensor import QuantizedTensor, encode, part_specs

__all__ = [
    "OFFSETS",
    "QuantizedTensor",
    "Scheme",
    "encode",
    "pack_bits",
    "packed_size",
    "parse_scheme",
    "part_specs",
    "unpack_bits",
]
