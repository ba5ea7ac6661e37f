"""pytorch_model.bin: what torch.save writes is read, and no pickle ever runs."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.frontend.slots import SlotReader
from arkinfer.frontend.torch_bin import read_table
from arkinfer.models.config import parse_config
from arkinfer.testing import make_checkpoint, preset, random_rows


def why(file: Path, kind: type[ArkError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read_table(file)
    assert file.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shard_bytes", [10**9, 900_000])
def test_a_bin_checkpoint_equals_the_safetensors_one(tmp_path: Path, shard_bytes: int) -> None:
    folder = make_checkpoint("tiny", 0, tmp_path, format="bin", shard_bytes=shard_bytes)
    config = parse_config(preset("tiny"))
    with open_checkpoint(folder) as checkpoint:
        for name in config.tensor_shapes():
            np.testing.assert_array_equal(checkpoint.read(name), random_rows(config, 0, name))


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    make_checkpoint("tiny", 0, tmp_path, format="bin")
    code = (
        "import sys; sys.modules['torch'] = None;"
        "from arkinfer.frontend.checkpoint import open_checkpoint;"
        f"c = open_checkpoint({str(tmp_path)!r}); print(c.read('model.norm.weight').shape)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "(256,)"


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_dtype(tmp_path: Path, dtype: str, protocol: int) -> None:
    x = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
    torch.save({"x": x}, tmp_path / "w.bin", pickle_protocol=protocol)
    slot = read_table(tmp_path / "w.bin")["x"]
    rows = SlotReader().rows(slot, 1, 3)
    assert rows.dtype.name == dtype
    np.testing.assert_array_equal(rows.astype(np.int64), np.arange(24).reshape(4, 6)[1:3])


def test_state_dicts_views_parameters_and_ties(tmp_path: Path) -> None:
    big = torch.arange(100, dtype=torch.float32)
    module = torch.nn.Linear(3, 2)
    state: dict[str, Any] = OrderedDict(module.state_dict())
    state |= {"view": big[10:22].reshape(3, 4), "scalar": torch.tensor(2.5)}
    state |= {"parameter": module.weight, "one": torch.arange(4.0).reshape(4, 1).T}
    state["tied"] = state["view"]
    torch.save(state, tmp_path / "w.bin")
    table, reader = read_table(tmp_path / "w.bin"), SlotReader()
    weight = module.weight.detach().numpy()
    np.testing.assert_array_equal(reader.rows(table["weight"], 0, 2), weight)
    np.testing.assert_array_equal(reader.rows(table["parameter"], 0, 2), weight)
    np.testing.assert_array_equal(reader.rows(table["view"], 0, 3), state["view"].numpy())
    np.testing.assert_array_equal(reader.rows(table["one"], 0, 1), [[0, 1, 2, 3]])
    assert table["tied"] == table["view"]
    assert table["scalar"].shape == ()
    torch.save(module.state_dict(), tmp_path / "w.bin")  # with its `_metadata`
    assert sorted(read_table(tmp_path / "w.bin")) == ["bias", "weight"]


def test_strided_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(4, 6).T}, tmp_path / "w.bin")
    text = why(tmp_path / "w.bin", UnsupportedError)
    assert "x in w.bin is not stored row by row" in text
    assert "strides are [1, 6] for the shape [6, 4]" in text


def archive(file: Path, content: bytes, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/data.pkl", content)
        for key, data in (storages or {}).items():
            out.writestr(f"a/data/{key}", data)
    return file


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


MARKER = "arkinfer-was-here"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "evil",
    [
        Evil(os.system, f"touch {MARKER}"),
        Evil(eval, f"open('{MARKER}', 'w')"),
        Evil(getattr, os, "remove"),
        {"x": Evil(subprocess.check_call, ["touch", MARKER])},
        Evil(pickle.loads, b"cos\nsystem\n(S'touch arkinfer-was-here'\ntR."),
        Evil(torch.load, "w.bin"),
    ],
)
def test_malicious_pickles_do_not_run(
    tmp_path: Path, monkeypatch: Any, evil: Any, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        content = pickle.dumps(evil, protocol)
    except TypeError:  # a module cannot be pickled
        content = b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR."
    text = why(archive(tmp_path / "w.bin", content))
    assert "is not a plain state dict" in text
    assert "which could run code" in text
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n\x94.",
        b"\x80\x02ccollections\nOrderedDict\n.",  # a class, not a dictionary
        b"\x80\x02]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x02}(K\x01K\x02u.",  # a key that is no string
        b"\x80\x02}(X\x01\x00\x00\x00au.",  # a key without a value
        b"\x80\x02" + b")\x85" * 3 + b"R.",  # a call of a tuple
        b"\x80\x02u.",
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 10,
        b"",
        b"\x80\x02}.\xff",
        b"\x80\x02}X\x01\x00\x00\x00aK\x01s.",  # a number, not a tensor
    ],
)
def test_nonsense_pickles_are_damage(tmp_path: Path, content: bytes) -> None:
    file = archive(tmp_path / "w.bin", content)
    if content == b"\x80\x02}.\xff":
        assert read_table(file) == {}
    else:
        assert "w.bin is damaged" in why(file)


def tensor_pickle(*, shape: tuple[int, ...], strides: tuple[int, ...], start: int = 0) -> bytes:
    buffer = io.BytesIO()

    class Writer(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if obj is Evil else None

    rebuild = torch._utils._rebuild_tensor_v2
    Writer(buffer, 2).dump({"x": Evil(rebuild, Evil, start, shape, strides, False, {})})
    return buffer.getvalue()


def test_tensors_larger_than_their_storage(tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    archive(file, tensor_pickle(shape=(2, 2), strides=(2, 1)), {"0": b"\0" * 16})
    assert read_table(file)["x"].shape == (2, 2)
    archive(file, tensor_pickle(shape=(2, 2), strides=(2, 1), start=1), {"0": b"\0" * 16})
    assert "The storage of x is smaller than the tensor" in why(file)
    archive(file, tensor_pickle(shape=(2, -2), strides=(2, 1)), {"0": b"\0" * 16})
    assert "impossible shape" in why(file)
    archive(file, tensor_pickle(shape=(2, 2), strides=(2, 1)))
    assert "The storage of x is not in it" in why(file)


def test_files_that_are_not_of_this_format(tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    torch.save({"x": torch.zeros(2)}, file, _use_new_zipfile_serialization=False)
    assert "the format of torch before 1.6" in why(file, UnsupportedError)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer" in why(file)
    file.write_bytes(b"GGUF" + bytes(100))
    assert "It is not a ZIP file" in why(file)
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/other", b"")
    assert "It has no data.pkl" in why(file)
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/data.pkl", b"}.")
        out.writestr("a/byteorder", b"big")
    assert "big-endian" in why(file, UnsupportedError)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bytes_of_the_pickle_are_named(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tensor_pickle(shape=(2, 2), strides=(2, 1)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    file = archive(tmp_path / "w.bin", bytes(content[:cut]), {"0": bytes(16)})
    try:
        table = read_table(file)
    except (CheckpointError, UnsupportedError):
        return
    for slot in table.values():
        SlotReader().rows(slot, 0, slot.shape[0] if slot.shape else 1)
