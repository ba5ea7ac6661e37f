"""The checkpoint that the packaged demo-ternary.ark was built from, as far as the file has its
numbers: the linears exactly, the embedding as it was rounded to int4.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy.typing as npt
from safetensors.numpy import save_file

from arkinfer import ir
from arkinfer.artifact import Artifact, open_artifact
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.packing import QuantizedTensor, part_specs

DEMO = Path(str(files("arkinfer"))) / "demo"


def write(folder: Path) -> Path:
    """Makes the folder, which `arkinfer.build` takes with --quant ternary."""
    shutil.copytree(DEMO / "checkpoint", folder)
    with open_checkpoint(folder) as checkpoint:
        shapes = checkpoint.config.tensor_shapes()
    tensors: dict[str, npt.NDArray[Any]] = {}
    with open_artifact(DEMO / "demo-ternary.ark") as artifact:
        module = ir.parse_module(artifact.read("ir.txt").decode())
        for weight in {w.name: w for node in module.nodes() for w in node.weights}.values():
            matrix, first = _read(artifact, weight), 0
            for name in _names(weight.name):
                if name in shapes:
                    tensors[name] = matrix[first : first + shapes[name][0]].astype(
                        ml_dtypes.bfloat16
                    )
                    first += shapes[name][0]
    assert tensors.keys() == shapes.keys()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def _read(artifact: Artifact, weight: ir.Weight) -> npt.NDArray[Any]:
    kind = weight.type
    if not isinstance(kind, ir.QuantizedType):
        return artifact.tensor(weight.name)
    rows, columns = kind.shape
    specs = part_specs(kind.scheme, (rows, columns))
    parts = {part: artifact.tensor(f"{weight.name}.{part}") for part in specs}
    return QuantizedTensor.from_parts(kind.scheme, (rows, columns), parts).dequantize()


def _names(stored: str) -> list[str]:
    """The checkpoint's names of what an artifact's weight holds, one below the other."""
    name = stored.rpartition(".")[0] if not stored.endswith("weight") else stored
    if "qkv_proj" in name:
        return [name.replace("qkv_proj", f"{each}_proj") for each in "qkv"]
    return [name]
