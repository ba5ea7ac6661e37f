"""The manager: verifies after each pass, dumps, times, and says what had run when one fails."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from arkinfer.errors import InternalError, UnsupportedError, UsageError
from arkinfer.ir import Module, TensorType, Value, parse_module, print_module
from arkinfer.passes import (
    NAMES,
    Pass,
    parse_passes,
    pass_class,
    pass_named,
    run_pipeline,
    spec_of,
    standard_pipeline,
)
from arkinfer.passes.base import parse_spec
from arkinfer.quant import parse_quant

TEXT = """\
module
func @f(%x: f32[T, 4], %z: f32[T, 4]) {
  %0 = tensor.silu(%x) : f32[T, 4]
  %1 = tensor.mul(%0, %z) : f32[T, 4]  // mlp
  %2 = tensor.silu(%z) : f32[T, 4]  // alone
  return y = %1, z = %2
}
"""


@dataclass(frozen=True)
class Break:
    """Leaves a result with a type that its op does not give."""

    name = "break-types"

    def run(self, module: Module) -> bool:
        node = module.functions["f"].nodes[0]
        node.results[0].type = TensorType("f16", (3,))
        return True


@dataclass(frozen=True)
class Crash:
    how: str = "index"

    name = "crash"

    def run(self, module: Module) -> bool:
        if self.how == "user":
            raise UnsupportedError("no such layer")
        return [True][7]


def test_runs_in_order_and_tells() -> None:
    module, told = parse_module(TEXT), []
    passes = parse_passes("fuse-silu-mul,eliminate-dead-code")
    runs = run_pipeline(module, passes, on_pass=told.append)
    assert told == runs
    assert [(r.spec, r.changed, r.remarks) for r in runs] == [
        ("fuse-silu-mul", True, 1),
        ("eliminate-dead-code", False, 0),
    ]
    assert all(run.seconds >= 0 for run in runs)
    assert str(module.remarks[0]).startswith("fuse-silu-mul: tensor.silu at alone: the gate")


def test_dumps_read_back_and_hold_the_remarks(tmp_path: Path) -> None:
    module = parse_module(TEXT)
    run_pipeline(module, parse_passes("fuse-silu-mul"), dump_dir=tmp_path / "a" / "b")
    files = sorted((tmp_path / "a" / "b").iterdir())
    assert [file.name for file in files] == ["00-input.ir", "01-fuse-silu-mul.ir"]
    assert files[0].read_text() == TEXT
    assert parse_module(files[1].read_text()) == module
    assert "// remark: fuse-silu-mul: tensor.silu at alone: " in files[1].read_text()


def test_a_pass_that_breaks_the_module_is_named(tmp_path: Path) -> None:
    passes: list[Pass] = [*parse_passes("fuse-silu-mul"), Break()]
    with pytest.raises(InternalError) as caught:
        run_pipeline(parse_module(TEXT), passes, dump_dir=tmp_path)
    assert caught.value.what == "the pass break-types failed (passes before it: fuse-silu-mul)"
    assert "its result is f16[3], but the op gives f32[T, 4]" in caught.value.why
    assert "f16[3]" in (tmp_path / "02-break-types.ir").read_text()


def test_a_pass_that_crashes_is_named() -> None:
    with pytest.raises(InternalError) as caught:
        run_pipeline(parse_module(TEXT), [Crash()])
    assert caught.value.what == "the pass crash failed (passes before it: none)"
    assert caught.value.why == "IndexError: list index out of range"


def test_what_the_user_can_mend_stays_as_it_is() -> None:
    with pytest.raises(UnsupportedError, match="no such layer"):
        run_pipeline(parse_module(TEXT), [Crash("user")])


def test_a_wrong_module_is_refused_before_any_pass() -> None:
    module = parse_module(TEXT)
    module.functions["f"].outputs[0] = Value(TensorType("f32", (4,)))
    with pytest.raises(InternalError, match="returns y, which no node makes"):
        run_pipeline(module, [Crash()])


def test_every_pass_is_found_under_its_name() -> None:
    for name in NAMES:
        kind = pass_class(name)
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
        assert kind.name == name
        assert kind.__module__ == f"arkinfer.passes.{name.replace('-', '_')}"


def test_an_import_of_the_package_loads_no_pass() -> None:
    import subprocess
    import sys

    code = (
        "import sys, arkinfer.passes\n"
        "print([m for m in sys.modules if 'fuse_' in m or 'torch' in m or m == 'arkinfer.quant'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "spec",
    [
        "fuse-rope",
        "store-weights{dtype=bf16}",
        "quantize{linear=int4-g32, embedding=int8-row, clip=false}",
    ],
)
def test_a_spec_is_what_it_came_from(spec: str) -> None:
    assert spec_of(pass_named(spec)) == spec
    assert pass_named(spec_of(pass_named(spec))) == pass_named(spec)


def test_values_that_are_not_text() -> None:
    assert pass_named("quantize{linear=none}") == pass_class("quantize")()
    assert parse_spec(" a{b = c,d=1} ") == ("a", {"b": "c", "d": "1"})
    for wrong in ("", "a b", "a{b}", "a{b=1, b=2}", "a{=1}", "a{b=}", "a}"):
        with pytest.raises(UsageError, match="does not name a pass"):
            parse_spec(wrong)


def test_the_standard_pipeline_follows_the_options() -> None:
    plain = [spec_of(each) for each in standard_pipeline()]
    assert plain[0] == "fuse-rms-norm"
    assert plain[-1] == "eliminate-dead-code"
    quantized = [spec_of(each) for each in standard_pipeline(parse_quant("int4-g64"), "f16")]
    assert quantized == [
        *plain[:-1],
        "quantize{linear=int4-g64, embedding=int8-g64}",
        "store-weights{dtype=f16}",
        "eliminate-dead-code",
    ]
    assert [spec_of(each) for each in standard_pipeline(parse_quant("none"))] == plain


def test_passes_change_nothing_the_second_time() -> None:
    module = parse_module(TEXT)
    run_pipeline(module, parse_passes("fuse-silu-mul"))
    before = print_module(module)
    (run,) = run_pipeline(module, parse_passes("fuse-silu-mul"))
    assert not run.changed
    assert print_module(module) == before
