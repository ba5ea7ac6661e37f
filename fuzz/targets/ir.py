"""The text form of the IR: parsed, verified, and printed again."""

from __future__ import annotations

import re
from pathlib import Path

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir.ops.base import OPS
from fuzz.files import DEMO, refusing

DICTIONARY = [*OPS, "module {", "weight @w : ", "func @f(", "return ", "cache<f32>[S, 1, 4]",
              "quant<int4-g32>[4, 32]", "f32[T, 4]", " = ", "@", "%0", "// ", "inf", "[S, 2]",
              "concat(", "scale("]  # fmt: skip
LENGTH = 4096
_PASSES = DEMO.parents[1] / "tests" / "passes"


def seeds() -> list[bytes]:
    texts: list[str] = []
    for file in sorted(Path(_PASSES).glob("*.ir")):
        texts += re.split(r"\n(?=module)", file.read_text("utf-8"))
    return [text.encode() for text in texts if len(text) < LENGTH]


def one(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with refusing(InternalError):
        module = ir.parse_module(text)
        ir.verify_module(module)
        printed = ir.print_module(module)
        assert ir.print_module(ir.parse_module(printed)) == printed, "print and parse disagree"
