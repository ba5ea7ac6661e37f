"""Which scheme takes the place of one that cannot be kept. Knows no backend and no format."""

from __future__ import annotations

from arkinfer.errors import UnsupportedError
from arkinfer.packing import Scheme

GROUPS = (32, 64, 128)


def replacement(scheme: Scheme, columns: int, wanted: Scheme | None) -> Scheme:
    """What a matrix with `columns` inputs is quantized to instead of `scheme`.

    Args:
        scheme: what it is now.
        columns: K.
        wanted: what the user asked for; None: 4 bits stay 4 bits and all others become 8, in the
            smallest group that fits, as each rounding adds to the error.

    Raises:
        UnsupportedError: the wanted group does not divide K.
    """
    if wanted is not None:
        wanted.group_size(columns)
        return wanted
    bits = 4 if scheme.bits == 4 else 8
    for group in GROUPS:
        try:
            found = Scheme(bits, group)
            found.group_size(columns)
            return found
        except UnsupportedError:
            continue
    return Scheme(bits, 0)
