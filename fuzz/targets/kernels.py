"""The file of compiled kernels, and what else a board is told of the TensorRT section."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, cast

from arkinfer.errors import ArkError
from arkinfer.limits import parse_json
from arkinfer_trt.kernels.gemv import Kernel
from arkinfer_trt.kernels.stored import kernel_json, kernels_file, read_kernels
from arkinfer_trt.section import Stored, TensorRTSection

DICTIONARY = ["sm", "kernels", "name", "ptx", "threads", "shared", "networks", "gemv", "native",
              "weights", "inputs", "form", "dense", "int4", "stored", "probes", "files", "times",
              "caches", "shape", "scheme", "parts", "float16"]  # fmt: skip
IS_JSON = True
LENGTH = 2048

_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What an executor takes for a section that is not the compiler's."""


def seeds() -> list[bytes]:
    """A file with one kernel, and a section without weights."""
    section = TensorRTSection(
        dtype="float16", context=8, chunk=4, vocab_size=5, hidden_size=4, sm=87,
        networks={"gemv": "network.onnx"}, kernels="", embedding=Stored((5, 4), "", {"": "e"}),
        embedding_factor=1.0, caches=(), weights=(),
    )  # fmt: skip
    kernel = kernel_json(Kernel("k", ".entry k()", 64, 0))
    return [kernels_file(87, [kernel]), json.dumps(section.to_json()).encode()]


def one(data: bytes) -> None:
    with suppress(*_WRONG):
        for name, kernel in read_kernels(data).items():
            assert kernel.name == name
    with suppress(*_WRONG, ArkError):
        facts = cast("dict[str, Any]", parse_json(data))
        section = TensorRTSection.from_json(facts)
        assert TensorRTSection.from_json(json.loads(json.dumps(section.to_json()))) == section
