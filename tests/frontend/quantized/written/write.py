"""Writes small matrices with the formats' own libraries, and what each library reads of them.

`python write.py LIBRARY`, where the library is installed; the files beside this one came from
GPTQModel 7.7.0, AutoGPTQ 0.7.1, AutoAWQ 0.2.9, compressed-tensors 0.20.0, MLX 0.32.4 (mlx-cpu)
and CPM.cu (`gptq2marlin.py` of its `scripts/model_convert`, on the module path). A file holds for
every case its tensors, `case.dequantized` [N, K], and in its metadata what config.json would say.
Knows nothing of arkinfer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensor = torch.Tensor
Tensors = dict[str, Tensor]

ROWS, COLUMNS = 32, 96


def weights(case: str, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """float32 [N, K]; of each case its own."""
    generator = torch.Generator().manual_seed(sum(case.encode()))
    matrix = torch.randn(rows, columns, generator=generator) * 0.05
    matrix[0] = matrix[0].abs()  # zero points at the end of their range
    return matrix


def range_of(matrix: Tensor, bits: int, size: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales in float16 and integer zero points, [N, K / size], by least and largest."""
    groups = matrix.reshape(len(matrix), -1, size)
    top = (1 << bits) - 1
    if symmetric:
        scale = (groups.abs().amax(-1) * 2 / top).half().float()
        return scale, torch.full_like(scale, 1 << (bits - 1))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = ((high - low) / top).half().float()
    return scale, (-low / scale).round().clamp(0, top)


def linear(matrix: Tensor, dtype: torch.dtype = torch.float32) -> torch.nn.Linear:
    module = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, dtype=dtype)
    module.weight.data = matrix.to(dtype)
    return module


def rounded(matrix: Tensor, scale: Tensor, zero: Tensor, bits: int, index: Tensor) -> Tensor:
    """The numbers that the codes stand for, as the packers expect them."""
    s, z = scale[:, index], zero[:, index]
    return ((matrix / s + z).round().clamp(0, (1 << bits) - 1) - z) * s


def gptqmodel() -> tuple[Tensors, dict[str, Any]]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT, QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    tensors: Tensors = {}
    said: dict[str, Any] = {}
    for bits in (2, 3, 4, 8):
        for symmetric, version, order in (
            (True, "gptq", False),
            (False, "gptq", True),
            (False, "gptq_v2", False),
            (True, "gptq_v2", True),
        ):
            kind = "sym" if symmetric else "asym"
            case = f"{bits}-{kind}-{version}" + ("-order" if order else "")
            matrix = weights(case)
            index = torch.arange(COLUMNS) // 32
            if order:
                index = index[torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(1))]
            places = torch.argsort(index, stable=True)
            scale, zero = range_of(matrix[:, places], bits, 32, symmetric)
            module = TorchLinear(
                bits=bits, group_size=32, sym=symmetric, desc_act=order,
                in_features=COLUMNS, out_features=ROWS, bias=False, format=FORMAT.GPTQ_V2,
            )  # fmt: skip
            module.pack_original(
                linear(rounded(matrix, scale, zero, bits, index)), scale, zero, index.int()
            )
            module.qzero_format(format=2)
            module.post_init()
            dense = module.dequantize_weight().T
            config = QuantizeConfig(bits=bits, group_size=32, sym=symmetric, desc_act=order)
            if version == "gptq":
                convert_gptq_v2_to_v1_format_module(module, config)
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                tensors[f"{case}.{part}"] = getattr(module, part).clone()
            tensors[f"{case}.dequantized"] = dense
            said[case] = {
                "quant_method": "gptq", "bits": bits, "group_size": 32, "sym": symmetric,
                "desc_act": order, "checkpoint_format": version,
                "meta": {"quantizer": ["gptqmodel:7.7.0"]},
            }  # fmt: skip
    return tensors, said


def auto_gptq() -> tuple[Tensors, dict[str, Any]]:
    from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear

    tensors: Tensors = {}
    said: dict[str, Any] = {}
    for bits in (2, 3, 4, 8):
        for order in (False, True):
            case = f"{bits}" + ("-order" if order else "")
            matrix = weights(case)
            matrix[0] = -matrix[0]  # a zero of 0 would spoil the other fields of its word
            index = torch.arange(COLUMNS) // 32
            if order:
                index = index[torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(2))]
            places = torch.argsort(index, stable=True)
            scale, zero = range_of(matrix[:, places], bits, 32, False)
            zero = zero.clamp(min=1)
            module = QuantLinear(bits, 32, COLUMNS, ROWS, False, weight_dtype=torch.float16)
            dense = rounded(matrix, scale, zero, bits, index)
            module.pack(linear(dense), scale, zero, index.int())
            module.scales = module.scales.half()
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                tensors[f"{case}.{part}"] = getattr(module, part)
            eye = torch.eye(COLUMNS).half()
            tensors[f"{case}.dequantized"] = module(eye).T.half()
            said[case] = {
                "quant_method": "gptq", "bits": bits, "group_size": 32, "sym": False,
                "desc_act": order,
            }  # fmt: skip
    return tensors, said


def awq() -> tuple[Tensors, dict[str, Any]]:
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    tensors: Tensors = {}
    said: dict[str, Any] = {}
    for case, symmetric in (("asym", False), ("sym", True)):
        matrix = weights(case)
        scale, zero = range_of(matrix, 4, 32, symmetric)
        index = torch.arange(COLUMNS) // 32
        dense = rounded(matrix, scale, zero, 4, index)
        module = WQLinear_GEMM.from_linear(
            linear(dense, torch.float16), 4, 32, scales=scale.T.half(), zeros=zero.T.int()
        )
        for part in ("qweight", "qzeros", "scales"):
            tensors[f"{case}.{part}"] = getattr(module, part)
        found = dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, 32)
        tensors[f"{case}.dequantized"] = found.T
        said[case] = {
            "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm",
            "zero_point": True,
        }  # fmt: skip
    return tensors, said


def compressed_tensors() -> tuple[Tensors, dict[str, Any]]:
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    tensors: Tensors = {}
    said: dict[str, Any] = {}
    for bits, size, symmetric, form in (
        (4, 32, True, "pack-quantized"),
        (4, 32, False, "pack-quantized"),
        (8, 32, False, "pack-quantized"),
        (3, 32, True, "pack-quantized"),
        (4, None, True, "pack-quantized"),
        (8, None, True, "int-quantized"),
        (8, None, False, "int-quantized"),
    ):
        case = f"{bits}-{size or 'row'}-{'sym' if symmetric else 'asym'}-{form.split('-')[0]}"
        matrix = weights(case, 19)
        scale, zero = range_of(matrix, bits, size or COLUMNS, symmetric)
        args = QuantizationArgs(
            num_bits=bits, group_size=size, symmetric=symmetric,
            strategy="group" if size else "channel",
        )  # fmt: skip
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        state = {
            "weight": matrix.bfloat16(),
            "weight_scale": scale.bfloat16(),
            "weight_zero_point": (zero - (1 << (bits - 1))).to(torch.int8),
        }
        compressor = BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, scheme)
        dense = compressor.decompress(dict(stored), scheme)["weight"]
        tensors |= {f"{case}.{part}": tensor for part, tensor in stored.items()}
        tensors[f"{case}.dequantized"] = dense
        said[case] = {
            "quant_method": "compressed-tensors", "format": form,
            "config_groups": {"group_0": json.loads(scheme.model_dump_json())},
        }  # fmt: skip
    return tensors, said


def mlx() -> tuple[Tensors, dict[str, Any]]:
    import mlx.core as mx
    import numpy as np

    tensors: Tensors = {}
    said: dict[str, Any] = {}
    for bits in (2, 3, 4, 5, 6, 8):
        for size, dtype in ((32, "bfloat16"), (64, "float16")):
            case = f"{bits}-{size}-{dtype}"
            matrix = mx.array(weights(case, 11, 128).numpy()).astype(getattr(mx, dtype))
            codes, scales, biases = mx.quantize(matrix, group_size=size, bits=bits)
            wide = [array.astype(mx.float32) for array in (scales, biases)]
            # in float32: in half precision it rounds the product, and then the sum
            dense = mx.dequantize(codes, *wide, group_size=size, bits=bits)
            tensors[f"{case}.dequantized"] = torch.from_numpy(np.array(dense))
            for part, array in zip(("scales", "biases"), wide, strict=True):
                whole = torch.from_numpy(np.array(array))
                tensors[f"{case}.{part}"] = whole.to(getattr(torch, dtype))
            tensors[f"{case}.weight"] = torch.from_numpy(np.array(codes).view(np.int32)).view(
                torch.uint32
            )
            said[case] = {"bits": bits, "group_size": size, "mode": "affine"}
    return tensors, said


def marlin() -> tuple[Tensors, dict[str, Any]]:
    from gptq2marlin import marlin_permute_scales, marlin_repack_qweight

    tensors: Tensors = {}
    said: dict[str, Any] = {}
    for case, columns, size in (("groups", 128, 32), ("row", 64, 64)):
        matrix = weights(case, 128, columns)
        scale, _ = range_of(matrix, 4, size, True)
        index = torch.arange(columns) // size
        codes = (matrix / scale[:, index] + 8).round().clamp(0, 15).int().T  # [K, N]
        words = torch.zeros(columns // 8, 128, dtype=torch.int64)
        for lane in range(8):
            words |= codes[lane::8].long() << (4 * lane)
        qweight = torch.where(words >= 1 << 31, words - (1 << 32), words).int()
        tensors[f"{case}.qweight"] = marlin_repack_qweight(qweight, 4, columns, 128)
        tensors[f"{case}.scales"] = marlin_permute_scales(
            scale.T.contiguous().half(), columns, 128, size
        )
        tensors[f"{case}.dequantized"] = ((codes.T - 8) * scale[:, index]).half()
        said[case] = {
            "quant_method": "gptq", "bits": 4, "group_size": size, "sym": True,
            "checkpoint_format": "gptq", "desc_act": False, "lm_head": False,
        }  # fmt: skip
    return tensors, said


def main() -> None:
    library = sys.argv[1]
    tensors, said = globals()[library]()
    metadata = {"config": json.dumps(said)}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, Path(__file__).with_name(f"{library}.safetensors"), metadata)


if __name__ == "__main__":
    main()
