"""Brings a weight of the artifact to where an engine has it: a constant in host memory while the
engine is built, or device memory for as long as it runs. Knows no network.
"""

from __future__ import annotations

from arkinfer.artifact import Artifact
from arkinfer_trt.build import Constant
from arkinfer_trt.cuda import Cuda, Memory
from arkinfer_trt.numbers import blocks, inputs, whole
from arkinfer_trt.section import NetworkWeight


def constants_of(artifact: Artifact, weight: NetworkWeight, dtype: str) -> dict[str, Constant]:
    """A weight's inputs as constants of an engine."""
    kinds = inputs(weight, dtype)
    arrays = whole(artifact, weight, dtype)
    return {name: Constant(kind, arrays[name]) for name, kind in kinds.items()}


def upload(
    artifact: Artifact, weight: NetworkWeight, dtype: str, cuda: Cuda, memory: Memory
) -> dict[str, int]:
    """A weight's inputs on the device: their addresses by name.

    Raises:
        DeviceError: there is no memory for them.
    """
    kinds = inputs(weight, dtype)
    what = f'the weight "{weight.stored.parts.get("", weight.inputs[0])}"'
    addresses = {name: memory.device(kind.nbytes, what) for name, kind in kinds.items()}
    for name, offset, numbers in blocks(artifact, weight, dtype):
        cuda.upload(addresses[name] + offset, numbers)
    return addresses
