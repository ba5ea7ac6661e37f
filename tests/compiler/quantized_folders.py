"""The tiny model in the forms in which others publish quantized checkpoints.

GPTQ and compressed-tensors in groups come from our exporters; the rest is packed here, from the
layouts' descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from arkinfer.compiler.export import export
from arkinfer.export.gptq import gptq_parts
from arkinfer.packing import QuantizedTensor, encode, parse_scheme
from arkinfer.quant import round_to_nearest

Array = Any
Tensors = dict[str, Array]


def linears(tensors: Mapping[str, Array]) -> list[str]:
    return [name for name in tensors if name.endswith("_proj.weight")]


def write(plain: Path, folder: Path, parts: Callable[[str, Array], Tensors], **config: Any) -> Path:
    """A copy of a checkpoint whose linears became `parts` of theirs."""
    tensors = load_file(plain / "model.safetensors")
    for name in linears(tensors):
        module = name.removesuffix(".weight")
        made = parts(module, tensors.pop(name).astype(np.float32))
        tensors |= {f"{module}.{part}": np.ascontiguousarray(each) for part, each in made.items()}
    return finish(plain, folder, tensors, config)


def finish(plain: Path, folder: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    folder.mkdir()
    for file in plain.iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    said = json.loads((plain / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def halved(tensor: QuantizedTensor) -> QuantizedTensor:
    """With scales in float16, as files have them."""
    parts = tensor.parts()
    return QuantizedTensor.from_parts(
        tensor.scheme, tensor.shape, parts | {"scale": parts["scale"].astype(np.float16)}
    )


def gptq(plain: Path, folder: Path) -> Path:
    return export(plain, "gptq", folder, quant="int4-g64").path


def gptq_with_order(plain: Path, folder: Path) -> Path:
    """Asymmetric, and each matrix has its inputs in an order of its own."""

    def parts(module: str, matrix: Array) -> Tensors:
        order = np.random.default_rng(len(module)).permutation(matrix.shape[1])
        plain = round_to_nearest(matrix[:, order], parse_scheme("int4-g32-asym"))
        scheme = parse_scheme("int4-g32-asym-actorder")
        moved = encode(
            scheme, plain.unpacked(), plain.scale, zero=plain.zeros(), order=order.astype(np.int32)
        )
        return gptq_parts(halved(moved), 2)

    said = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True, "sym": False}
    return write(plain, folder, parts, quantization_config={**said, "checkpoint_format": "gptq_v2"})


def awq(plain: Path, folder: Path) -> Path:
    def words(fields: Array) -> Array:
        """[n, N] -> int32 [n, N / 8]."""
        lanes = fields.astype(np.uint32).reshape(len(fields), -1, 8)
        found = np.zeros(lanes.shape[:2], np.uint32)
        for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            found |= lanes[:, :, column] << np.uint32(4 * place)
        return found.view(np.int32)

    def parts(module: str, matrix: Array) -> Tensors:
        made = halved(round_to_nearest(matrix, parse_scheme("int4-g128-asym")))
        codes = made.unpacked().reshape(matrix.shape)
        return {"qweight": words(codes.T), "qzeros": words(made.zeros().T), "scales": made.scale.T}

    said = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
    return write(plain, folder, parts, quantization_config=said)


def int8(plain: Path, folder: Path) -> Path:
    """compressed-tensors' int-quantized: a scale for each row."""

    def parts(module: str, matrix: Array) -> Tensors:
        made = halved(round_to_nearest(matrix, parse_scheme("int8-row")))
        codes = made.unpacked().reshape(matrix.shape).astype(np.int16) - 128
        return {"weight": codes.astype(np.int8), "weight_scale": made.scale}

    said = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    return write(plain, folder, parts, quantization_config=said)


def compressed(plain: Path, folder: Path) -> Path:
    return export(plain, "compressed-tensors", folder, quant="int4-g32-asym").path


def marlin(plain: Path, folder: Path) -> Path:
    """As CPM.cu has it: q, k, v and gate, up in one."""
    tensors = load_file(plain / "model.safetensors")
    stacks = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
    homes = {part: stack for stack, parts in stacks.items() for part in parts}
    found: dict[str, list[QuantizedTensor]] = {}
    for name in linears(tensors):
        module = name.removesuffix(".weight")
        parent, _, leaf = module.rpartition(".")
        made = round_to_nearest(tensors.pop(name), parse_scheme("int4-g64"))
        found.setdefault(f"{parent}.{homes.get(leaf, leaf)}", []).append(halved(made))
    for module, pieces in found.items():
        whole = QuantizedTensor.concatenate(pieces)
        rows, columns = whole.shape
        codes = whole.unpacked().reshape(rows, columns).T
        tiles = codes.reshape(columns // 16, 16, rows // 16, 16).transpose(0, 2, 1, 3)
        moved = tiles.reshape(-1, 1024)[:, order_in_a_run()].reshape(-1, 8).astype(np.uint32)
        words = sum(moved[:, i] << np.uint32(4 * i) for i in range(8))
        assert isinstance(words, np.ndarray)
        tensors[f"{module}.qweight"] = words.view(np.int32).reshape(columns // 16, 2 * rows)
        places = [i + 8 * j for i in range(8) for j in range(8)]
        scale = np.ascontiguousarray(whole.scale.T)
        tensors[f"{module}.scales"] = scale.reshape(-1, 64)[:, places].reshape(scale.shape)
    said = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}
    config = {"quantization_config": {**said, "checkpoint_format": "gptq"}}
    finish(plain, folder, tensors, config)
    (folder / "model.safetensors").rename(folder / "model_gptq.safetensors")
    return folder


def order_in_a_run() -> list[int]:
    """Which of the 1,024 numbers of four tiles stands at each place."""
    order: list[int] = []
    for thread in range(32):
        first, column = 2 * (thread % 4), thread // 4
        own = [16 * row + column + 8 * block for block in (0, 1)
               for row in (first, first + 1, first + 8, first + 9)]  # fmt: skip
        for tile in range(4):
            order += [own[place] + 256 * tile for place in (0, 2, 4, 6, 1, 3, 5, 7)]
    return order


def mlx(plain: Path, folder: Path) -> Path:
    """The embedding, too, and with 6 bits."""

    def parts(bits: int, matrix: Array) -> Tensors:
        rows, columns = matrix.shape
        groups = matrix.reshape(rows, -1, 64)
        least = groups.min(-1).astype(np.float16)
        scale = ((groups.max(-1) - least) / ((1 << bits) - 1)).astype(np.float16)
        steps = (groups - least[..., None].astype(np.float32)) / scale[..., None].astype(np.float32)
        codes = np.rint(steps).clip(0, (1 << bits) - 1).astype(np.uint8).reshape(rows, columns)
        string = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
        packed = np.packbits(string.reshape(rows, -1), axis=-1, bitorder="little")
        return {"weight": packed.view(np.uint32), "scales": scale, "biases": least}

    table = "model.embed_tokens"
    folder = write(
        plain, folder, lambda module, matrix: parts(4, matrix),
        quantization={"bits": 4, "group_size": 64, table: {"bits": 6, "group_size": 64}},
    )  # fmt: skip
    tensors = load_file(folder / "model.safetensors")
    made = parts(6, tensors.pop(f"{table}.weight").astype(np.float32))
    tensors |= {f"{table}.{part}": each for part, each in made.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


FOLDERS: dict[str, Callable[[Path, Path], Path]] = {
    "gptq": gptq,
    "gptq-order": gptq_with_order,
    "awq": awq,
    "compressed": compressed,
    "int8": int8,
    "marlin": marlin,
    "mlx": mlx,
}
