"""The compiler: what it supports and refuses, for which processors, the same bytes every time."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.backend import compiler
from arkinfer.errors import DeviceError, UnsupportedError
from arkinfer.ir import Builder, CacheType, TensorType, Value, Weight, dim
from arkinfer.packing import parse_scheme
from arkinfer.targets import Target, load_target
from arkinfer_tvm import compiler as tvm_compiler
from arkinfer_tvm import cpu, kernels
from arkinfer_tvm.build import compile_kernels
from arkinfer_tvm.compiler import TvmCompiler, isas_of
from arkinfer_tvm.cpu import ISAS, isas_for
from arkinfer_tvm.layout import DenseStream, Stream
from arkinfer_tvm.storage import STORED, Cache
from arkinfer_tvm.support import AS_THEY_ARE

CPU = load_target("cpu")


def node(op: str, *operands: Value | Weight, **attributes: Any) -> ir.Node:
    builder = Builder(ir.infer_types)
    builder.add_multi(op, *operands, **attributes)
    return builder.nodes[0]


def value(*shape: int | str, dtype: str = "f32") -> Value:
    return Value(TensorType(dtype, tuple(dim(d) for d in shape)), "x")


def weight(*shape: int, dtype: str = "f32") -> Weight:
    return Weight("w", TensorType(dtype, shape))


def coded(name: str, rows: int = 8, columns: int = 64) -> Weight:
    return Weight("w", ir.QuantizedType(parse_scheme(name), (rows, columns)))


def cache(dtype: str = "f32", size: int = 8) -> Value:
    return Value(CacheType(dtype, (dim("S"), 2, size)), "c")


@pytest.mark.parametrize("scheme", ["int4-g32", "int2-g64-asym", "int8-row-min", "int3-g32"])
def test_quantized_matrices_are_fast_unless_activations_stay_as_they_are(scheme: str) -> None:
    supports, x = TvmCompiler().supports, value("T", 64)
    for kind in ("any", "i8"):
        rounded = node("quant.linear", x, coded(scheme), activations=kind)
        assert supports(rounded, CPU).level == "fast"
    look_up = node("quant.embedding", value("T", dtype="i64"), coded(scheme), scale=1.0)
    assert supports(look_up, CPU).level == "fast"
    exact = supports(node("quant.linear", x, coded(scheme), activations="f32"), CPU)
    assert (exact.level, exact.reason) == ("slow", AS_THEY_ARE)


def test_dense_ops_are_fast() -> None:
    q, positions = value("T", 4, 8), value("T", dtype="i64")
    for found in (
        node("nn.linear", value("T", 8), weight(3, 8, dtype="bf16")),
        node("nn.embedding", positions, weight(9, 8, dtype="f16"), scale=1.0),
        node("nn.rms_norm", value("T", 8), weight(8), eps=1e-5),
        node("nn.rope", q, positions, weight(4), factor=1.0),
        node("nn.add", value("T", 8), value("T", 8), scale=0.5),
        node("cache.append", cache(), value("T", 2, 8)),
        node("attn.dense", q, cache(), cache(), scale=1.0),
        node("cache.append", cache("i8"), value("T", 2, 8), weight(2, 8)),
        node("attn.dense", q, cache("i8"), cache("i8"), weight(2, 8), weight(2, 8), scale=1.0),
        node("cache.append", cache("i8"), value("T", 2, 8), cache(size=1)),
        node("attn.dense", q, *[cache("i8")] * 2, *[cache(size=1)] * 2, scale=1.0),
        node("tensor.slice", q, axis=1, start=0, stop=2),
        node("tensor.slice", q, axis=-2, start=0, stop=2),
        node("tensor.reshape", q, shape=(dim("T"), 32)),
    ):
        assert TvmCompiler().supports(found, CPU).level == "fast", found.op


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (node("nn.linear", value("T", 8), weight(3, 8, dtype="f64")),
         "its kernels read f32, bf16, f16 weights, not f64"),
        (node("nn.linear", value(2, "T", 8), weight(3, 8)),
         "its input must have 2 dims, not 3"),
        (node("nn.linear", value("T", 8), value(3, 8)),
         "its matrix must be a weight, and its input a value"),
        (node("nn.rms_norm", value("T", 2, 8), weight(8), eps=1.0),
         "its input must have 2 dims, not 3"),
        (node("nn.rms_norm", value("T", 8), value(8), eps=1.0), "its gain must be a weight"),
        (node("nn.embedding", value("T", dtype="i64"), value(9, 8), scale=1.0),
         "its table must be a weight"),
        (node("nn.rope", value("T", 4, 8), value("T", dtype="i64"), weight(4, dtype="f16"),
              factor=1.0),
         "its frequencies must be an f32 weight"),
        (node("nn.add", value(8), weight(8), scale=1.0),
         "its operands must be values, not weights"),
        (node("cache.append", cache("i8"), value("T", 2, 8), weight(2, 8, dtype="f16")),
         "the scales of its caches must be f32 weights, or caches themselves"),
        (node("cache.append", cache("i8"), value("T", 2, 8), value(2, 8)),
         "the scales of its caches must be f32 weights, or caches themselves"),
        (node("tensor.slice", value("T", 4, 8), axis=2, start=0, stop=4),
         "it slices along axis 1, not 2"),
        (node("tensor.reshape", value("T", 8), shape=(2, dim("T"), 4)),
         "it can reshape within rows only, axis 0 stays"),
        (node("tensor.cos", value("T", 8)), "it has no kernel for tensor.cos"),
    ],
)  # fmt: skip
def test_what_no_kernel_covers(found: ir.Node, reason: str) -> None:
    support = TvmCompiler().supports(found, CPU)
    assert (support.level, support.reason) == ("no", reason)


def test_an_architecture_without_kernels() -> None:
    target = CPU.model_copy(update={"arch": "riscv64"})
    support = TvmCompiler().supports(node("tensor.cos", value("T")), target)
    assert support.reason == "it has no kernels for riscv64, only for x86_64, aarch64"


def test_every_node_of_a_model_is_supported(model: Any) -> None:
    levels = {TvmCompiler().supports(n, CPU).level for n in model.module.nodes()}
    assert levels <= {"fast", "slow"}


def test_supports_does_without_the_compiler_wheel() -> None:
    code = (
        "import sys; sys.modules['tvm'] = None\n"
        "from arkinfer_tvm.compiler import TvmCompiler\n"
        "from arkinfer.errors import DeviceError\n"
        "from arkinfer.targets import load_target\n"
        "from arkinfer import ir\n"
        "try: TvmCompiler().compile(ir.Module(), load_target('cpu'), None)\n"
        "except DeviceError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        'The compiler of the backend "tvm" cannot run here. The Python package "tvm" is missing. '
        'Install it: pip install "arkinfer[build]".\n'
    )


def test_two_builds_give_the_same_bytes(
    small: Any, make_artifact: Any, make_store: Any, tmp_path: Path
) -> None:
    again = make_artifact(tmp_path / "again.ark", small.module, small.store, CPU)
    assert again.read_bytes() == small.path.read_bytes()


BUILD = """
import hashlib
from arkinfer_tvm import kernels as k
from arkinfer_tvm.build import build_library
from arkinfer_tvm.compiler import isas_of
from arkinfer_tvm.layout import DenseStream
from arkinfer.targets import load_target
dense, x = DenseStream.of("bf16", (32, 64)), k.Strided(64, 64)
names = {k.FloatLinear(x, dense, k.Finish(), 1): "linear_0", k.Range(): "range_1",
         k.RMSNorm(k.Strided(64, 64), "f32", 1e-5): "rms_norm_2"}
target = load_target("cpu")
digest = hashlib.sha256(build_library(names, isas_of(target)[0])).hexdigest()
"""


def test_another_process_gives_the_same_library(tmp_path: Path) -> None:
    """Nothing depends on the hash seed, the folder or the names of temporary files."""
    here: dict[str, Any] = {}
    exec(BUILD, here)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONHASHSEED": "7",
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", BUILD + "print(digest)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here["digest"]
    assert list(tmp_path.iterdir()) == []


def test_the_section_says_what_it_needs(small: Any) -> None:
    with open_artifact(small.path) as artifact:
        section = artifact.sections["tvm"]
        (variant,) = section.config["variants"]
        assert section.variants == (variant["isa"],)
        code = artifact.read(variant["library"])
    (isa,) = isas_for(("host",), platform.machine(), cpu.cpu_flags())
    assert variant["isa"] == isa
    assert variant["flags"] == list(ISAS[platform.machine()][isa])
    assert section.config["platform"] == f"linux-{platform.machine()}"
    assert section.requires == {}
    assert code[:4] == b"\x7fELF"
    assert str(Path.cwd()).encode() not in code
    assert b"GCC_BUILD_ID" not in code
    assert b".note.gnu.build-id" not in code


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf (binutils)")
def test_the_library_needs_only_the_system(small: Any, tmp_path: Path) -> None:
    with open_artifact(small.path) as artifact:
        file = tmp_path / "library.so"
        file.write_bytes(artifact.read(artifact.sections["tvm"].config["variants"][0]["library"]))
    listed = subprocess.run(
        ["readelf", "-d", "-W", str(file)], capture_output=True, text=True, check=True
    ).stdout
    needed = {line.split("[")[1].rstrip("]") for line in listed.splitlines() if "NEEDED" in line}
    assert {name.split(".")[0].split("-")[0] for name in needed} <= {"libc", "libm", "ld"}


@pytest.mark.parametrize(
    ("arch", "isa", "names"),
    [
        ("x86_64", (), ["x86-64-v3"]),
        ("x86_64", ("x86-64-v4-vnni", "x86-64-v3"), ["x86-64-v3", "x86-64-v4-vnni"]),
        ("x86_64", ("unheard-of",), ["x86-64-v3"]),
        ("aarch64", ("dotprod",), ["dotprod"]),
    ],
)
def test_a_target_that_is_not_this_machine(
    arch: str, isa: tuple[str, ...], names: list[str]
) -> None:
    target = Target(name="t", summary="", arch=arch, isa=isa, backends=("tvm",))
    assert isas_of(target) == names


def test_a_processor_that_has_not_even_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    least, flags = next(iter(ISAS[CPU.arch].items()))
    monkeypatch.setattr(tvm_compiler, "cpu_flags", lambda: frozenset(flags[1:]))
    with pytest.raises(DeviceError) as refusal:
        TvmCompiler().check(CPU)
    assert str(refusal.value) == (
        f"The backend tvm has no kernels for this processor, only from {least} on. "
        f"This processor lacks: {flags[0]}."
    )


@pytest.mark.parametrize(("arch", "machine"), [("x86_64", 62), ("aarch64", 183)])
def test_kernels_compile_for_both_architectures(arch: str, machine: int) -> None:
    """ELF header, e_machine at byte 18. Linking for another machine needs its C compiler."""
    stream = Stream.of(parse_scheme("int4-g32-asym"), (64, 64), arch)
    dense = DenseStream.of("bf16", (64, 64))
    inputs = kernels.Inputs.of(stream)
    names: dict[kernels.Kernel, str] = {
        kernels.QuantLinear(stream, kernels.Gate(), 8): "quant_linear",
        kernels.FloatLinear(kernels.Strided(64, 64), dense, kernels.Finish(), 128): "linear",
        kernels.Quantize(kernels.Strided(64, 64), inputs, kernels.Norm("bf16", 1e-5)): "quantize",
        kernels.Angles(8, 1.0): "angles",
    }
    for dtype in STORED:
        cache = Cache(1, 16, dtype)
        rows, scales = kernels.Strided(64, 64), kernels.CHANNEL if dtype == "int8" else ""
        names[kernels.Attention(rows, 4, cache, 0.25, scales)] = f"attention_{dtype}"
        names[kernels.Append(kernels.Strided(16, 16), cache)] = f"append_{dtype}"
    for isa in ISAS[arch]:
        compiled = compile_kernels(names, isa)
        assert compiled[:4] == b"\x7fELF"
        assert int.from_bytes(compiled[18:20], "little") == machine
        assert all(f"__tvm_ffi_{name}".encode() in compiled for name in names.values())


def test_the_baseline_runs_here_too(
    small: Any, make_artifact: Any, opened: Any, tmp_path: Path
) -> None:
    target = CPU.model_copy(update={"isa": (next(iter(ISAS[CPU.arch])),)})
    path = make_artifact(tmp_path / "baseline.ark", small.module, small.store, target)
    tokens = small.tokens(12)
    got = opened(path).new_state(12).step(tokens, rows="all").logits
    expected = small.expected(tokens)
    assert np.abs(got - expected).max() <= small.allowed * np.abs(expected).max()


WITHOUT_A_KERNEL = """
module {context = 8, chunk = 4, vocab_size = 5}
weight @w : f32[5, 4]
func @step(%tokens: i64[T], %rows: i64[R], %k0: cache<f32>[S, 1, 4]) {
  %0 = nn.embedding(%tokens, @w) {scale = 1.0} : f32[T, 4]
  %1 = tensor.cos(%0) : f32[T, 4]  // model.odd
  %2 = nn.linear(%1, @w) : f32[T, 5]
  return logits = %2, k0 = %k0
}
"""


def test_a_node_without_a_kernel_is_named(
    make_artifact: Any, make_store: Any, tmp_path: Path
) -> None:
    module = ir.parse_module(WITHOUT_A_KERNEL)
    with pytest.raises(UnsupportedError) as refusal:
        make_artifact(tmp_path / "none.ark", module, make_store(module), CPU)
    assert str(refusal.value) == (
        "The backend tvm cannot run tensor.cos at model.odd. It has no kernel for tensor.cos. "
        "Build with another backend: --backend onnxruntime."
    )


def test_a_step_of_another_interface_is_refused(
    small: Any, make_artifact: Any, make_store: Any, tmp_path: Path
) -> None:
    text = ir.print_module(small.module)
    module = ir.parse_module(text)
    module.functions["step"].output_names[0] = "scores"
    with pytest.raises(UnsupportedError, match="The backend tvm cannot run this step"):
        make_artifact(tmp_path / "none.ark", module, make_store(module), CPU)


def test_it_is_registered() -> None:
    assert isinstance(compiler("tvm"), TvmCompiler)
