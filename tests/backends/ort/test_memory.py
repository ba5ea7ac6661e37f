"""Memory: weights are in it once, in the kernels' layout, and caches as far as tokens came."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arkinfer import ir
from arkinfer.artifact import open_artifact
from arkinfer.models.config import parse_config
from arkinfer.packing import encode, parse_scheme
from arkinfer.testing import preset
from arkinfer.testing.dense import dense_module
from arkinfer_ort.support import MEASURED

MIB = 1 << 20
CONTEXT, CHUNK = 4096, 512

MEASURE = """
import json, sys
import numpy as np
import onnxruntime
from arkinfer.artifact import open_artifact
from arkinfer.runtime.contract import LoadOptions
from arkinfer_ort.executor import OnnxRuntimeExecutor

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024

found = {"start": resident()}
with open_artifact(sys.argv[1]) as artifact:
    section = artifact.sections["onnxruntime"]
    executable = OnnxRuntimeExecutor().open(artifact, section, LoadOptions(2))
    found["open"] = resident()
    state = executable.new_state(4096)
    state.step(np.array([1]))
    found["one token"] = resident()
    for _ in range(3):
        state.truncate(0)
        state.step(np.arange(512))
    found["chunk"] = resident()
print(json.dumps(found))
"""


class RandomCodes:
    """Weights straight from random numbers: quantizing real ones would take longer."""

    def __init__(self, config) -> None:
        self._angles = config.rope.inv_freq(config.head_dim, CONTEXT)

    def rows(self, weight, start, stop):
        count = stop - start
        rng = np.random.default_rng([start, *weight.name.encode()])
        if isinstance(weight.type, ir.QuantizedType):
            scheme, columns = weight.type.scheme, weight.type.shape[1]
            size = scheme.group_size(columns)
            shape = (count, columns // size, size)
            codes = rng.integers(0, 1 << scheme.bits, shape, dtype=np.uint8)
            return encode(scheme, codes, np.full(shape[:2], 0.01, np.float32))
        if weight.name == "model.rotary.inv_freq":
            return self._angles[start:stop]
        return np.ones((count, *weight.type.shape[1:]), ir.DTYPES[weight.type.dtype])

    def load(self, weight):
        return self.rows(weight, 0, weight.type.shape[0])

    def blocks(self, weight):
        step = max(1, (1 << 22) // math.prod(weight.type.shape[1:]))
        for start in range(0, weight.type.shape[0], step):
            yield self.rows(weight, start, min(start + step, weight.type.shape[0]))


def written(write_section, path, linear, embedding, **changes):
    """An artifact of the 0.5B shape, and the number of weights of its linears."""
    config = parse_config(preset("minicpm4-0.5b", **changes))
    schemes = {"linear": parse_scheme(linear), "embedding": parse_scheme(embedding)}
    module = dense_module(config, context=CONTEXT, chunk=CHUNK, **schemes)
    write_section(module, RandomCodes(config), path)
    shapes = config.tensor_shapes().items()
    return sum(math.prod(s) for name, s in shapes if ".layers." in name and len(s) == 2)


def measured(path):
    """Resident bytes at the steps of MEASURE, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
def test_weights_are_in_memory_once(write_section, tmp_path):
    path = tmp_path / "model.ark"
    written(write_section, path, "int4-g128", "int4-g128", num_hidden_layers=6, vocab_size=32768)
    found = measured(path)
    with open_artifact(path) as artifact:
        section = artifact.section_bytes("onnxruntime")
    assert section > 50 * MIB
    assert found["open"] - found["start"] < 1.15 * section + 32 * MIB
    token = 6 * 2 * 2 * 64 * 4
    assert found["one token"] - found["open"] < 8 * MIB  # of 24 MiB that the caches may take
    assert found["chunk"] < 1.15 * section + 512 * token + 120 * MIB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
@pytest.mark.skipif(platform.machine() not in MEASURED, reason="the kernels are for x86-64")
def test_ternary_weights_take_little_more_than_two_bits(write_section, tmp_path):
    """By the difference of two models, which have everything in common but the MLP's width."""
    narrow, wide = tmp_path / "narrow.ark", tmp_path / "wide.ark"
    shape = {"linear": "int2-row", "embedding": "int4-g128", "vocab_size": 4096}
    shape |= {"num_hidden_layers": 8, "hidden_size": 2048, "num_attention_heads": 32}
    weights = -written(write_section, narrow, intermediate_size=2048, **shape)
    weights += written(write_section, wide, intermediate_size=6144, **shape)
    before, after = measured(narrow), measured(wide)
    assert weights > 150e6
    for step in ("open", "one token"):
        assert 2 < (after[step] - before[step]) * 8 / weights < 2.2, step
