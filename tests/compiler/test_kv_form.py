"""Which scales an int8 cache gets: by what backends claim, whoever they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from arkinfer import ir
from arkinfer.backend import Support
from arkinfer.compiler.kv_form import with_kv_form
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.models.config import parse_config
from arkinfer.targets import Target
from arkinfer.testing import preset

CONFIG = parse_config(preset("tiny"))
FAST, SLOW, NO = Support.fast(), Support.slow("it is"), Support.no("it cannot")


@dataclass
class Claims:
    """A compiler that runs attention over either form so well, and all else fast."""

    token: Support
    channel: Support
    name: str = "claims"
    legalizations: tuple[str, ...] = ()

    def supports(self, node: ir.Node, target: Target) -> Support:
        if node.op != "attn.dense":
            return FAST
        per_token = any(isinstance(o.type, ir.CacheType) for o in node.operands[3:])
        return self.token if per_token else self.channel

    def compile(self, module: ir.Module, target: Target, out: Any) -> None:
        pytest.fail("the form of a cache is decided without compiling")


def options(*compilers: Claims, kv: str = "int8") -> BuildOptions:
    made = BuildOptions.make(Asked(quant="none", backend="reference", kv=kv))
    return replace(made, compilers=compilers)


@pytest.mark.parametrize(
    ("claims", "scales"),
    [
        ([(FAST, FAST)], "token"),
        ([(SLOW, SLOW)], "token"),
        ([(FAST, NO)], "token"),
        ([(SLOW, FAST)], "channel"),
        ([(NO, SLOW)], "channel"),
        ([(NO, NO)], "channel"),  # placement says why not, of the form that most backends know
        ([(FAST, FAST), (FAST, FAST)], "token"),
        ([(FAST, FAST), (NO, SLOW)], "channel"),
        ([(FAST, NO), (NO, FAST)], "channel"),
    ],
)
def test_the_form_that_all_backends_claim(
    claims: list[tuple[Support, Support]], scales: str
) -> None:
    asked = options(*(Claims(*each) for each in claims))
    found = with_kv_form(asked, CONFIG)
    assert found.kv_scales == scales
    assert found.calibrates_cache == (scales == "channel")
    assert replace(found, kv_scales=None) == asked


def test_what_is_decided_stays_and_other_caches_have_none() -> None:
    compiler = Claims(FAST, FAST)
    known = replace(options(compiler), kv_scales="channel")
    assert with_kv_form(known, CONFIG) is known
    plain = options(compiler, kv="fp32")
    assert with_kv_form(plain, CONFIG) is plain
    assert not plain.calibrates_cache


@pytest.mark.parametrize(
    ("backend", "scales"),
    [
        ("reference", "token"),
        ("tvm", "token"),
        ("onnxruntime", "channel"),
        (("tvm", "reference"), "token"),
        (("tvm", "onnxruntime"), "channel"),
    ],
)
def test_what_the_backends_here_claim(backend: str | tuple[str, ...], scales: str) -> None:
    made = BuildOptions.make(Asked(quant="none", backend=backend, kv="int8"))
    assert with_kv_form(made, CONFIG).kv_scales == scales
