"""The GEMV plug-in in the hands of TensorRT's own Python code, version 10.16, over libraries that
tests make: the published bindings need them to be there, and nothing here calls into them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arkinfer_trt.kernels.gemv import TILES, Gemv, kernel_name, tactics
from tests.backends.trt.bindings import run_with

GEMV, OTHER = Gemv(4, 128, 4096, 1001), Gemv(2, 1024, 1024, 7)


@pytest.fixture(scope="module")
def session(libraries: Path) -> dict[str, Any]:
    """What TensorRT learns of one node, and how it fails with two others."""
    given = [",".join(map(str, gemv.attribute)) for gemv in (GEMV, OTHER)]
    printed = run_with(libraries, "-m", "tests.backends.trt.plugin_session", *given)
    return json.loads(printed.splitlines()[-1])


def test_this_is_the_tensorrt_of_jetpack(session: dict[str, Any]) -> None:
    assert session["version"].startswith("10.16.")
    assert session["fields"] == [["matrix", "PluginFieldType.INT32"]]


def test_the_output_is_as_wide_as_the_matrix(session: dict[str, Any]) -> None:
    assert session["types"] == ["DataType.HALF"]
    assert session["y"] == [[1, 1, 1], [1, 4, 7], [1001, 1001, 1001]]
    assert session["aliased"] == -1


def test_types_are_the_kernels(session: dict[str, Any]) -> None:
    kinds = ("HALF", "INT32", "HALF", "HALF")
    assert session["formats"] == [[f"DataType.{k}", "TensorFormat.LINEAR"] for k in kinds]


def test_the_builder_times_every_kernel(session: dict[str, Any]) -> None:
    assert set(session["launches"]) == {str(number) for number in tactics(GEMV)}


@pytest.mark.parametrize("number", tactics(GEMV))
def test_launches_are_those_that_tests_of_the_kernel_use(
    number: int, session: dict[str, Any]
) -> None:
    """Evaluated by TensorRT's symbols for 1, 4 and 7 tokens."""
    tile, found = TILES[number - 1], session["launches"][str(number)]
    grids = [tile.grid(GEMV, tokens, lambda n, by: -(-n // by)) for tokens in (1, 4, 7)]
    assert found["launch"] == {
        "grid_x": [along for along, _ in grids],
        "grid_y": [across for _, across in grids],
        "grid_z": [1, 1, 1],
        "block_x": [tile.threads] * 3,
        "block_y": [1, 1, 1],
        "block_z": [1, 1, 1],
        "shared_mem": [64 * number] * 3,
    }
    assert found["scalars"] == [[1, 4, 7], [1001, 1001, 1001]]
    assert found["scalar types"] == ["PluginArgDataType.INT32"] * 2
    name = kernel_name(GEMV, tile)
    assert found["kernel"] == [name, f"ptx of {name}"]


def test_weights_that_are_not_the_nodes_are_refused(session: dict[str, Any]) -> None:
    assert session["other weights"] == (
        "InternalError: A node ArkGemv multiplies by Gemv(bits=4, group=128, inputs=4096, "
        "width=1001). Its weights are ((2, 64, 4), (2, 1, 4)), not ((251, 512, 4), (251, 32, 4))."
    )


def test_a_product_without_a_kernel_is_refused(session: dict[str, Any]) -> None:
    assert session["other matrix"].startswith(
        "InternalError: The network multiplies by Gemv(bits=2, group=1024, inputs=1024, width=7), "
        "for which the artifact has no kernel. It has ark_gemm_int4_g128_k4096_"
    )
