"""Kernels in the artifact: a JSON file of their text and launches, written where they are compiled
and read on the board. Knows neither Triton nor TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from arkinfer.limits import count, parse_json
from arkinfer_trt.kernels.gemv import Kernel

LONGEST = 32 << 20
"""Bytes of such a file; a kernel has 10 to 60 KB, and a model a few dozen of them."""

MOST_THREADS, MOST_SHARED = 1024, 227 << 10
"""Of a block, on any GPU that kernels are compiled for."""


def kernel_json(kernel: Kernel) -> bytes:
    """One kernel."""
    facts = {name: asdict(kernel)[name] for name in ("name", "ptx", "threads", "shared")}
    return json.dumps(facts, separators=(",", ":")).encode()


def kernels_file(sm: int, kernels: Sequence[bytes]) -> bytes:
    """The file, of what `kernel_json` made for a compute capability, 87 for 8.7."""
    return b'{"sm":%d,"kernels":[%b]}\n' % (sm, b",\n".join(kernels))


def read_kernels(data: bytes) -> dict[str, Kernel]:
    """The kernels of such a file by name.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError: it is something else.
    """
    facts: Any = parse_json(data, most=LONGEST)
    count(facts["sm"])
    found: dict[str, Kernel] = {}
    for each in facts["kernels"]:
        kernel = Kernel(
            name=_text(each["name"]),
            ptx=_text(each["ptx"]),
            threads=_number(each["threads"], 1, MOST_THREADS),
            shared=_number(each["shared"], 0, MOST_SHARED),
        )
        if kernel.name in found:
            raise ValueError(f"the kernel {kernel.name} is there twice")
        found[kernel.name] = kernel
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError("a kernel has no name or no text")
    return value


def _number(value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"a launch cannot have {value!r}")
    return value
