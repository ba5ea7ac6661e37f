"""Which products get 16 bits of their input: those that 8 cost too much, and where it is told."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from arkinfer import ir
from arkinfer.align.run import align
from arkinfer.artifact import open_artifact
from arkinfer.cli.build import build as build_command
from arkinfer.cli.inspect import inspect as inspect_command
from arkinfer.cli.plan import plan as plan_command
from arkinfer.compiler import activation_bits
from arkinfer.compiler.activation_bits import LIMIT, rounding_errors
from arkinfer.compiler.cache import Cache
from arkinfer.compiler.options import Asked, BuildOptions
from arkinfer.compiler.plan import plan
from arkinfer.compiler.prepare import Prepared, prepare
from arkinfer.compiler.text_pass import text_tokens
from arkinfer.compiler.weights import WeightStore
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.testing import make_checkpoint, preset
from tests.compiler.quantized_folders import FOLDERS

Array = np.ndarray[Any, Any]

LAYER = "model.layers.{}.{}.weight"
HOT = [3, 17, 70, 71, 140, 150, 200, 250]
FACTOR = 32.0
QUANT = "int4-g128"
BY_LAYER = 5
"""Products: q, k and v together, o, gate, up, down."""


def plant(folder: Path, norm: str, readers: tuple[str, ...]) -> None:
    """Makes channels behind a norm hot, and the columns of some readers as much smaller."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[norm][HOT] *= FACTOR
    for reader in readers:
        tensors[reader][:, HOT] /= FACTOR
    save_file(tensors, file, {"format": "pt"})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("tiny", 0, tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture(scope="module")
def hot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where q, k and v of the second layer lose much, and the gate of the first."""
    folder = make_checkpoint("tiny", 0, tmp_path_factory.mktemp("hot") / "tiny")
    qkv = tuple(LAYER.format(1, f"self_attn.{each}_proj") for each in "qkv")
    plant(folder, LAYER.format(1, "input_layernorm"), qkv)
    gate = LAYER.format(0, "mlp.gate_proj")
    plant(folder, LAYER.format(0, "post_attention_layernorm"), (gate,))
    return folder


WANTED = (
    LAYER.format(0, "mlp.gate_proj"),
    LAYER.format(0, "mlp.up_proj"),
    LAYER.format(1, "self_attn.qkv_proj"),
)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests here share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def shared(own_cache: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARKINFER_CACHE", str(cached))


@pytest.fixture(scope="module")
def built(hot: Path, cached: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file, and what its build printed."""
    path, printed = tmp_path_factory.mktemp("built") / "m.ark", StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("ARKINFER_CACHE", str(cached))
        build_command(
            str(hot), quant=QUANT, backend=["tvm", "onnxruntime"], output=path, chunk=1, context=64
        )
    return path, printed.getvalue()


def prepared(folder: Path, cache: Cache | None = None, **asked: Any) -> Prepared:
    options = BuildOptions.make(Asked(**{"quant": QUANT, "backend": ("tvm",), **asked}))
    with open_checkpoint(folder) as checkpoint:
        options = options.for_checkpoint(checkpoint.schemes())
        return prepare(options, checkpoint, cache=cache or Cache.open())


def kinds(module: ir.Module) -> dict[str, object]:
    """By matrix, what its product is asked for."""
    products = [node for node in module.nodes() if node.op == "quant.linear"]
    return {node.weights[0].name: node.attributes["activations"] for node in products}


def with_more(module: ir.Module) -> list[str]:
    """The matrices whose products take 16 bits, by the names that they have in the checkpoint."""
    found = [name for name, kind in kinds(module).items() if kind == "i16"]
    return [name.removesuffix(f".{QUANT}") for name in found]


def test_they_are_those_beside_hot_channels(hot: Path) -> None:
    """The first layer's up_proj loses little, but it is fused with the gate, of the same input."""
    found = prepared(hot)
    (lowered,) = found.lowered
    assert with_more(lowered.module) == list(WANTED)
    errors = {each.matrix.removesuffix(f".{QUANT}"): each.error for each in found.products}
    assert len(errors) == 2 * BY_LAYER + 1
    gate, up, qkv = (errors[name] for name in WANTED)
    assert up < LIMIT < 0.05 < min(gate, qkv)
    assert max(error for name, error in errors.items() if name not in WANTED) < LIMIT
    assert lowered.activations == "int8, int16 in 3 of 11"
    assert set(kinds(found.module).values()) == {"any"}


@pytest.mark.parametrize("quant", ["int4-g32", "int4-g128", "int8-row"])
def test_a_plain_model_has_none(plain: Path, quant: str) -> None:
    found = prepared(plain, quant=quant)
    assert [each.activations for each in found.products] == ["int8"] * (2 * BY_LAYER + 1)
    assert all(0.001 < each.error < LIMIT for each in found.products)
    assert found.lowered[0].activations == "int8"


def test_small_groups_keep_hot_channels_to_themselves(hot: Path) -> None:
    few, many = ({p.matrix: p.error for p in prepared(hot, quant=q).products}
                 for q in ("int4-g32", "int4-g128"))  # fmt: skip
    name = WANTED[2]
    assert few[f"{name}.int4-g32"] < 0.8 * many[f"{name}.int4-g128"]


@pytest.mark.parametrize(
    "asked",
    [
        {"activations": "int8"},
        {"activations": "fp32"},
        {"backend": ("onnxruntime",)},
        {"backend": ("reference",)},
        {"quant": "none"},
    ],
    ids=str,
)
def test_without_a_choice_nothing_is_measured(
    hot: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_bits, "over_text", None)
    found = prepared(hot, Cache(None), **asked)
    assert found.products == ()
    assert "i16" not in kinds(found.lowered[0].module).values()


def test_a_second_build_measures_nothing(
    hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(hot, Cache(tmp_path))
    monkeypatch.setattr(activation_bits, "over_text", None)
    second = prepared(hot, Cache(tmp_path))
    assert second.products == first.products
    assert with_more(second.lowered[0].module) == list(WANTED)
    with pytest.raises(TypeError, match="not callable"):  # other groups are another question
        prepared(hot, Cache(tmp_path), quant="int4-g32")


def test_any_number_of_threads_finds_the_same(hot: Path) -> None:
    found: list[object] = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads, user_api="blas"):
            found.append(prepared(hot, Cache(None)).products)
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["gptq-order", "awq", "int8", "mlx"])
def test_quantized_checkpoints(form: str, tmp_path: Path) -> None:
    """By plain formulas on what the quantized model computes; the inputs of groups may be in an
    order of their own."""
    source = make_checkpoint(preset("tiny", torch_dtype="float16"), 3, tmp_path / "plain")
    with open_checkpoint(FOLDERS[form](source, tmp_path / form)) as checkpoint:
        options = BuildOptions.make(Asked(backend="tvm")).for_checkpoint(checkpoint.schemes())
        found = prepare(options, checkpoint)
        tokens = text_tokens(checkpoint, 512)[:24]
        module = found.lowered[0].module
        expected = plain_errors(module, WeightStore(module.weights, found.leaves), tokens)
        errors = rounding_errors(module, found.leaves, tokens)
    assert errors.keys() == expected.keys() == kinds(module).keys()
    np.testing.assert_allclose(list(errors.values()), list(expected.values()), rtol=0.03)


def plain_errors(module: ir.Module, store: WeightStore, tokens: list[int]) -> dict[str, float]:
    step = module.functions["step"]
    seen: dict[ir.Value, Array] = {}
    empty = {v.name: np.zeros((0, *v.type.shape[1:]), ir.DTYPES[v.type.dtype])
             for v in step.inputs[2:]}  # fmt: skip
    every = np.arange(len(tokens))
    ir.run_function(
        step, {"tokens": np.array(tokens), "rows": every, **empty}, store, dtype=np.float64,
        observe=lambda node, results: seen.update(zip(node.results, results, strict=True)),
    )  # fmt: skip
    found: dict[str, float] = {}
    for node in step.nodes:
        if node.op == "quant.linear":
            x, weight = seen[node.values[0]], store.load(node.weights[0])
            matrix = weight.dequantize().T.astype(np.float64)
            order = np.arange(x.shape[1]) if weight.order is None else weight.order
            size = min(128, weight.scheme.group_size(x.shape[1]))
            rounded = np.zeros_like(x)
            for start in range(0, x.shape[1], size):
                part = order[start : start + size]
                scale = np.abs(x[:, part]).max(axis=1, keepdims=True) / 127
                rounded[:, part] = np.round(x[:, part] / scale) * scale
            apart = np.linalg.norm((rounded - x) @ matrix, axis=1)
            found[node.weights[0].name] = float(np.mean(apart / np.linalg.norm(x @ matrix, axis=1)))
    return found


# --- where it is told ---


def test_a_file_says_it(built: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    path, printed = built
    with open_artifact(path) as artifact:
        sections, report = artifact.sections, json.loads(artifact.read("report.json"))
        own, other = (
            ir.parse_module(artifact.read(sections[name].ir).decode())
            for name in ("tvm", "onnxruntime")
        )
    told = {"tvm": "int8, int16 in 3 of 11", "onnxruntime": "int8"}
    assert {name: section.activations for name, section in sections.items()} == told
    assert report["activations"] == told
    rows = [row for row in report["products"] if row["activations"] == "int16"]
    assert [row["matrix"] for row in rows] == [f"{name}.{QUANT}" for name in WANTED]
    assert all(row.keys() == {"matrix", "error", "activations"} for row in rows)
    assert with_more(own) == list(WANTED)
    assert set(kinds(other).values()) == {"any"}
    line = "products  with activations in int8, int16 in 3 of 11 (tvm), int8 (onnxruntime)"
    assert f"\n{line}\n" in printed
    inspect_command(str(path))
    assert " int8, int16 in 3 of 11 " in capsys.readouterr().out


def test_align_follows_it_without_measuring(
    built: tuple[Path, str], hot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation_bits, "over_text", None)
    with open_artifact(built[0]) as artifact, open_checkpoint(hot) as checkpoint:
        report = align(artifact, checkpoint, backend="tvm", tokens=1)
    stages = {stage.name: stage for stage in report.stages}
    assert stages["choose-activations"].compared == len(WANTED)
    graphs = stages["the file's graphs"]
    assert (graphs.findings, graphs.compared > 80) == ([], True)


def test_a_plan_says_that_a_build_will_measure(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_command(str(plain), quant=QUANT, backend=["tvm"], chunk=1, context=64)
    more = "; a build takes int16 where it measures that int8 loses too much"
    assert f"\nproducts    with activations in int8{more}\n" in capsys.readouterr().out
    assert not plan(plain, quant=QUANT, backend="onnxruntime").measures_bits
