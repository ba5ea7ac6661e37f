"""What key-value caches are kept in: what backends prefer and take, whoever they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arkinfer
from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.backend import CacheKeeper, Compiler, Support
from arkinfer.cli.plan import plan as plan_command
from arkinfer.compiler.build import build
from arkinfer.compiler.kv_form import with_kv_form
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.compiler.plan import plan
from arkinfer.errors import UnsupportedError
from arkinfer.models.config import parse_config
from arkinfer.targets import Target
from arkinfer.testing import make_checkpoint, preset
from arkinfer.verify.checks import checks
from arkinfer.verify.tolerance import CACHES
from arkinfer_ref.compiler import ReferenceCompiler

CONFIG = parse_config(preset("tiny"))


@dataclass
class Takes:
    """A compiler that runs caches of these dtypes only."""

    dtypes: tuple[str, ...]
    name: str = "takes"
    legalizations: tuple[str, ...] = ()
    activations: tuple[str, ...] = ("f32",)

    def supports(self, node: ir.Node, target: Target) -> Support:
        kept = {o.type.dtype for o in node.operands[:2] if isinstance(o.type, ir.CacheType)}
        if kept <= set(self.dtypes):
            return Support.fast()
        return Support.no(f"nobody here reads {'-'.join(sorted(kept))}")

    def compile(self, module: ir.Module, target: Target, out: Any) -> None:
        pytest.fail("how a cache is kept is decided without compiling")


@dataclass
class Prefers(Takes):
    """The same, and it says what it would rather have."""

    wanted: tuple[str, ...] = ()

    def caches(self, target: Target) -> tuple[str, ...]:
        assert isinstance(target, Target)
        return self.wanted


class HalfReference(ReferenceCompiler):
    """The real one, if it preferred other caches."""

    def caches(self, target: Target) -> tuple[str, ...]:
        return "bf16", "f32"


ALL = ("f32", "bf16", "f16", "i8")


def options(*compilers: Compiler, kv: str | None = None, beside: str = "") -> BuildOptions:
    made = BuildOptions.make(Asked(quant="none", backend="reference", kv=kv))
    return replace(made, compilers=compilers, beside=beside)


@pytest.mark.parametrize(
    ("compilers", "kept"),
    [
        ([Takes(ALL)], ["fp32"]),
        ([Prefers(ALL, wanted=("bf16", "f32"))], ["bf16"]),
        ([Prefers(ALL, wanted=("f16",))], ["fp16"]),
        ([Prefers(ALL, wanted=())], ["fp32"]),
        ([Prefers(("f32", "f16"), wanted=("bf16", "f16"))], ["fp16"]),
        # one that prefers nothing has what the first has, if it takes that
        ([Prefers(ALL, wanted=("bf16",)), Takes(("f32", "bf16"), "b")], ["bf16", "bf16"]),
        ([Prefers(ALL, wanted=("bf16",)), Takes(("f32", "i8"), "b")], ["bf16", "fp32"]),
        ([Takes(ALL), Prefers(ALL, "b", wanted=("bf16",))], ["fp32", "bf16"]),
        ([Takes(ALL), Prefers(("f32",), "b", wanted=("bf16",))], ["fp32", "fp32"]),
        (
            [Prefers(ALL, wanted=("f16", "bf16")), Prefers(ALL, "b", wanted=("bf16",))],
            ["fp16", "bf16"],
        ),
        ([Takes(())], ["fp32"]),  # placement says why not
    ],
)
@pytest.mark.parametrize("asked", [None, "auto"])
def test_what_each_prefers_and_takes(
    compilers: list[Compiler], kept: list[str], asked: str | None
) -> None:
    found = with_kv_form(options(*compilers, kv=asked), CONFIG)
    assert [found.kv_of(each.name) for each in compilers] == kept
    assert found.kv == (kept[0] if len(set(kept)) == 1 else "fp32")
    assert found.kv_scales is None
    assert with_kv_form(found, CONFIG) == found


def test_all_sections_keep_what_was_asked_for() -> None:
    pair = (Prefers(ALL, wanted=("bf16",)), Takes(ALL, "b"))
    found = with_kv_form(options(*pair, kv="int8"), CONFIG)
    assert [found.kv_of(each.name) for each in pair] == ["int8", "int8"]
    assert found.kv_scales == "token"


@pytest.mark.parametrize("kv", ["fp32", "bf16", "fp16"])
def test_what_was_asked_for_stays(kv: str) -> None:
    asked = options(Prefers(ALL, wanted=("i8",)), kv=kv)
    assert with_kv_form(asked, CONFIG) is asked


def test_a_refusal_names_backend_reason_and_what_it_takes() -> None:
    pair = options(Takes(ALL), Takes(("f32", "i8"), "narrow"), kv="bf16")
    with pytest.raises(UnsupportedError) as refusal:
        with_kv_form(pair, CONFIG)
    assert str(refusal.value) == (
        "narrow does not keep key-value caches in bf16. Nobody here reads bf16; it takes them in "
        "fp32 or int8. Give one of these as --kv, or leave it out: each section then keeps them as "
        "its backend prefers."
    )
    with pytest.raises(UnsupportedError) as refusal:
        with_kv_form(options(Takes(("f32",)), kv="bf16"), CONFIG)
    assert refusal.value.fix == "Give one of these as --kv, or another --backend"
    beside = options(Takes(ALL), Takes(ALL[:3], "narrow"), kv="int8", beside="narrow")
    with pytest.raises(UnsupportedError) as refusal:
        with_kv_form(beside, CONFIG)
    assert str(refusal.value) == (
        "narrow does not keep key-value caches in int8. Nobody here reads i8; it takes them in "
        "fp32, bf16 or fp16. Give one of these as --kv, or leave out the section for the target's "
        "own cores with --no-cpu."
    )


def test_who_runs_no_attention_at_all_is_left_to_placement() -> None:
    asked = options(Takes(()), kv="bf16")
    assert with_kv_form(asked, CONFIG) is asked


@pytest.mark.parametrize(
    ("backends", "kept"),
    [
        (("tvm",), ["bf16"]),
        (("reference",), ["fp32"]),
        (("onnxruntime",), ["fp32"]),
        (("tvm", "reference"), ["bf16", "bf16"]),
        (("tvm", "onnxruntime"), ["bf16", "fp32"]),
        (("reference", "tvm"), ["fp32", "bf16"]),
        (("tensorrt", "tvm"), ["fp32", "bf16"]),
    ],
)
def test_what_the_backends_here_prefer(backends: tuple[str, ...], kept: list[str]) -> None:
    target = "jetson-orin" if "tensorrt" in backends else None
    made = BuildOptions.make(Asked(target, quant="none", backend=backends))
    assert [with_kv_form(made, CONFIG).kv_of(each) for each in backends] == kept


@pytest.mark.parametrize(
    ("backend", "taken"),
    [
        ("tvm", "fp32 bf16 fp16 int8"),
        ("reference", "fp32 bf16 fp16 int8"),
        ("onnxruntime", "fp32 int8"),
        (("reference", "onnxruntime"), "fp32 int8"),
    ],
)
def test_what_the_backends_here_take(backend: str | tuple[str, ...], taken: str) -> None:
    for kv in ("fp32", "bf16", "fp16", "int8"):
        made = BuildOptions.make(Asked(quant="none", backend=backend, kv=kv))
        if kv in taken.split():
            assert with_kv_form(made, CONFIG).kv == kv
        else:
            with pytest.raises(UnsupportedError, match="it takes them in fp32 or int8"):
                with_kv_form(made, CONFIG)


def test_tensorrt_keeps_float16_by_either_name() -> None:
    jetson = Asked(target="jetson-orin", quant="none", backend="tensorrt")
    for kv, kept in (("fp16", "fp16"), (None, "fp32")):
        made = BuildOptions.make(replace(jetson, kv=kv))
        assert with_kv_form(made, CONFIG).kv == kept
    with pytest.raises(UnsupportedError, match="it takes them in fp32 or fp16"):
        with_kv_form(BuildOptions.make(replace(jetson, kv="bf16")), CONFIG)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("tiny") / "tiny")


def test_a_build_takes_what_its_backend_prefers(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the report, the manifest, the graph and the plan; an option may say otherwise."""
    assert not isinstance(ReferenceCompiler(), CacheKeeper)
    monkeypatch.setattr("arkinfer.compiler.options.compiler", lambda name: HalfReference())
    dumps = tmp_path / "ir"
    report = build(
        tiny, quant="none", backend="reference", output=tmp_path / "m.ark", dump_ir=dumps
    )
    assert (report.kv, report.kv_scales, report.caches) == ("bf16", None, {"reference": "bf16"})
    assert (dumps / "bf16-cache" / "01-store-cache.ir").is_file()
    with open_artifact(report.path) as artifact:
        assert artifact.manifest["kv"] == "bf16"
        assert "cache<bf16>" in artifact.read("ir.txt").decode()
    planned = plan(tiny, quant="none", backend="reference")
    assert (planned.kv, planned.kv_bytes_per_token) == ("bf16", 2 * 2 * 64 * 2)
    plan_command(str(tiny), backend=["reference"])
    assert "(512 bytes a token in bf16)" in capsys.readouterr().out
    assert plan(tiny, quant="none", backend="reference", kv="fp32").kv == "fp32"


def test_sections_differ_where_their_backends_do(tiny: Path, tmp_path: Path) -> None:
    """In the graphs, the manifest, the report, and in what `verify` holds each of them to."""
    path, backends = tmp_path / "m.ark", ("tvm", "onnxruntime")
    report = build(tiny, quant="none", backend=backends, chunk=1, output=path)
    assert (report.kv, report.caches) == ("fp32", {"tvm": "bf16", "onnxruntime": "fp32"})
    with open_artifact(path) as artifact:
        assert artifact.manifest["kv"] == "fp32"
        sections = artifact.sections
        assert [sections[each].caches for each in backends] == ["bf16", None]
        graphs = ["ir.txt", *(sections[each].ir for each in backends)]
        kinds = [re.findall(r"cache<(\w+)>", artifact.read(name).decode()) for name in graphs]
        assert [set(each) for each in kinds] == [{"f32"}, {"bf16"}, {"f32"}]
    limits: list[float] = []
    for backend in backends:
        found = {each.name: each for each in checks(path, backend=backend, threads=1)}
        limits.append(found["reference"].facts["error_limit"])
    assert limits[0] == pytest.approx(limits[1] + CACHES["tvm", "bf16"].error)
    planned = plan(tiny, quant="none", backend=backends)
    assert (planned.kv, planned.kv_bytes_per_token) == ("bf16", 2 * 2 * 64 * 2)


@pytest.mark.parametrize(("kv", "most"), [("bf16", 0.02), ("fp16", 0.003)])
def test_logits_stay_near(tiny: Path, tmp_path: Path, kv: str, most: float) -> None:
    ids = np.random.default_rng(0).integers(0, 500, 200).tolist()
    logits: list[np.ndarray] = []
    for each in (kv, "fp32"):
        report = build(
            tiny, quant="none", kv=each, backend="reference", output=tmp_path / f"{each}.ark"
        )
        with arkinfer.load(report.path, threads=1) as engine:
            logits.append(engine.logits(ids))
    error = (logits[0] - logits[1]) / logits[1].std()
    assert 1e-6 < np.sqrt(np.mean(error**2)) < most
