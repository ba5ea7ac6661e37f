"""Checkpoints made from a seed are real ones: other libraries read them, and bytes repeat."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors import safe_open

from arkinfer.errors import UnsupportedError, UsageError
from arkinfer.models.config import parse_config
from arkinfer.testing import PRESETS, config_json, make_checkpoint, preset, random_rows


def digests(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    one = digests(make_checkpoint("tiny", 3, tmp_path / "a"))
    assert one == digests(make_checkpoint("tiny", 3, tmp_path / "b"))
    other = digests(make_checkpoint("tiny", 4, tmp_path / "c"))
    assert {name for name in one if one[name] != other[name]} == {"model.safetensors"}


def test_bytes_are_those_of_the_release(tmp_path: Path) -> None:
    """Golden artifacts of other tests hang on them: change them only with a reason."""
    found = digests(make_checkpoint("tiny", 0, tmp_path))
    assert found["model.safetensors"].startswith("50885abd58e4e4d1")
    assert found["tokenizer.json"].startswith("410d29df40cb791f")


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", 0, tmp_path)
    config = parse_config(preset("tiny"))
    with safe_open(folder / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(config.tensor_shapes())
        for name, shape in config.tensor_shapes().items():
            stored = file.get_tensor(name)
            assert stored.shape == shape
            assert stored.dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(stored, random_rows(config, 0, name))


def test_shards_hold_the_same_tensors(tmp_path: Path) -> None:
    folder = make_checkpoint("tiny", 0, tmp_path, shard_bytes=500_000)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    config = parse_config(preset("tiny"))
    assert len(files) >= 4
    assert set(index["weight_map"]) == set(config.tensor_shapes())
    assert index["metadata"]["total_size"] == 2 * config.num_parameters
    for name, shard in index["weight_map"].items():
        with safe_open(folder / shard, "np") as file:
            np.testing.assert_array_equal(file.get_tensor(name), random_rows(config, 0, name))


def test_any_rows_come_without_the_rest() -> None:
    config = parse_config(preset("tiny", intermediate_size=333))
    for name in ("model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
        whole = random_rows(config, 7, name)
        np.testing.assert_array_equal(random_rows(config, 7, name, 13, 101), whole[13:101])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_weights_have_the_stated_moments(dtype: str) -> None:
    config = parse_config(preset("tiny", torch_dtype=dtype))
    down = random_rows(config, 0, "model.layers.0.mlp.down_proj.weight")
    norm = random_rows(config, 0, "model.norm.weight")
    assert down.dtype.name == dtype
    assert abs(down.astype(np.float64).mean()) < 0.001
    assert down.astype(np.float64).std() == pytest.approx(1 / np.sqrt(512), rel=0.01)
    assert norm.astype(np.float64).mean() == pytest.approx(1.0, abs=0.03)


def test_bin_holds_the_same_tensors(tmp_path: Path) -> None:
    import torch

    folder = make_checkpoint("tiny", 0, tmp_path, format="bin", shard_bytes=1_000_000)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
    config = parse_config(preset("tiny"))
    for shard in sorted(set(index["weight_map"].values())):
        for name, tensor in torch.load(folder / shard, weights_only=True).items():
            rows = random_rows(config, 0, name)
            assert tensor.dtype == torch.bfloat16
            np.testing.assert_array_equal(tensor.view(torch.int16).numpy(), rows.view("i2"))


@pytest.mark.parametrize("name", PRESETS)
def test_the_tokenizer_fits_the_vocabulary(name: str, tmp_path: Path) -> None:
    raw = preset(name, num_hidden_layers=1, hidden_size=64, intermediate_size=64, head_dim=64)
    raw["rope_scaling"] = None
    folder = make_checkpoint(raw, 0, tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert max(tokenizer.get_vocab().values()) < raw["vocab_size"]
    assert tokenizer.token_to_id("<s>") == raw["bos_token_id"]
    assert tokenizer.token_to_id("</s>") == raw["eos_token_id"][0]
    assert tokenizer.token_to_id("<|im_end|>") == raw["eos_token_id"][1]
    text = "What is the capital of France? 你好, naïve 🙂\n\tdef f(): ..."
    encoded = tokenizer.encode(text)
    assert encoded.ids[0] == raw["bos_token_id"]
    assert tokenizer.decode(encoded.ids) == text
    assert len(tokenizer.encode("The capital of France is Paris").ids) <= 9


def test_a_vocabulary_too_small_for_bytes_has_no_tokenizer(tmp_path: Path) -> None:
    folder = make_checkpoint(preset("tiny", vocab_size=97, eos_token_id=2), 0, tmp_path)
    assert not (folder / "tokenizer.json").exists()


def test_a_given_tokenizer_is_kept_byte_for_byte(tmp_path: Path) -> None:
    first = make_checkpoint("tiny", 0, tmp_path / "a")
    given = (first / "tokenizer.json").read_bytes() + b"\n\n"
    second = make_checkpoint("tiny", 0, tmp_path / "b", tokenizer=given)
    assert (second / "tokenizer.json").read_bytes() == given


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_config_survives_its_json(name: str) -> None:
    config = parse_config(preset(name))
    assert parse_config(json.loads(json.dumps(config_json(config)))) == config


def test_published_shapes_have_their_published_sizes() -> None:
    parameters = {name: parse_config(preset(name)).num_parameters for name in PRESETS}
    assert parameters["minicpm4-0.5b"] == 433_873_920
    assert parameters["bitcpm4-1b"] == 1_360_258_560
    assert parameters["minicpm4-8b"] == 8_185_253_888
    assert parameters["minicpm5-1b"] == 1_080_632_832


def test_wrong_names_offer_the_nearest() -> None:
    with pytest.raises(UsageError, match=r'no preset "minicpm4-0\.5".*mean "minicpm4-0\.5b"'):
        preset("minicpm4-0.5")


def test_a_foreign_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match='torch_dtype "float8_e4m3fn"'):
        make_checkpoint(preset("tiny", torch_dtype="float8_e4m3fn"), 0, tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read there")
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """868 MB of the 0.5B shape in a process of its own."""
    code = (
        "import re, sys; from arkinfer.testing import make_checkpoint;"
        f"make_checkpoint('minicpm4-0.5b', 0, {str(tmp_path)!r}, shard_bytes=300_000_000);"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]);"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 128 * 1024  # KiB
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
