"""Opening checkpoints: what is read, and one named error for each way to be wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError, UsageError
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.frontend.leaves import INV_FREQ, LeafSource
from arkinfer.models.config import parse_config
from arkinfer.testing import make_checkpoint, preset, random_rows

UP = "model.layers.1.mlp.up_proj.weight"


def message(path: Path, kind: type[ArkError]) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(path)
    assert type(caught.value) is kind
    return str(caught.value).replace(str(path.parent), "")


def resave(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_rows_come_as_they_are_stored(tiny: Path, sharded: Path) -> None:
    config = parse_config(preset("tiny"))
    for folder in (tiny, sharded):
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.config == config
            assert checkpoint.names() == list(config.tensor_shapes())
            for name, shape in config.tensor_shapes().items():
                assert checkpoint.shape(name) == shape
                assert checkpoint.dtype(name) == ml_dtypes.bfloat16
                np.testing.assert_array_equal(checkpoint.read(name), random_rows(config, 0, name))
            some = checkpoint.read(UP, 5, 9)
            np.testing.assert_array_equal(some, random_rows(config, 0, UP, 5, 9))
            assert some.flags.writeable
            assert checkpoint.read(UP, 510, 600).shape == (2, 256)
            assert checkpoint.read(UP, 600).shape == (0, 256)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_other_dtypes(dtype: str, tmp_path: Path) -> None:
    raw = preset("tiny", torch_dtype=dtype)
    with open_checkpoint(make_checkpoint(raw, 0, tmp_path)) as checkpoint:
        assert checkpoint.dtype(UP) == np.dtype(dtype)
        expected = load_file(tmp_path / "model.safetensors")[UP]
        np.testing.assert_array_equal(checkpoint.read(UP), expected)


def test_settings_beside_the_weights(tiny: Path) -> None:
    with open_checkpoint(tiny) as checkpoint:
        assert checkpoint.raw_config["scale_emb"] == 12
        assert checkpoint.generation["top_p"] == 0.8
        assert checkpoint.tokenizer_config["add_bos_token"] is True
        assert json.loads(checkpoint.tokenizer_json)["model"]["type"] == "BPE"
        assert checkpoint.chat_template is not None
        assert "<|im_start|>assistant" in checkpoint.chat_template


def test_names(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    for path in (tiny, Path("."), Path("../tiny")):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.name == "tiny"
    cached = tiny.parent / "models--openbmb--MiniCPM4-0.5B" / "snapshots" / "01ab"
    for folder, name in ((cached, "MiniCPM4-0.5B"), (tiny.parent / "demo" / "checkpoint", "demo")):
        shutil.copytree(tiny, folder)
        with open_checkpoint(folder) as checkpoint:
            assert checkpoint.name == name


def test_end_tokens_are_the_union_of_both_configs(tiny: Path) -> None:
    (tiny / "generation_config.json").write_text('{"eos_token_id": 7}')
    with open_checkpoint(tiny) as checkpoint:
        assert checkpoint.config.eos_token_ids == (2, 7, 504)


def test_the_jinja_file_wins_and_named_templates_have_a_default(tiny: Path) -> None:
    file = tiny / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    file.write_text(json.dumps({**settings, "chat_template": named}))
    with open_checkpoint(tiny) as checkpoint:
        assert checkpoint.chat_template == "D"
    (tiny / "chat_template.jinja").write_text("J ü")
    with open_checkpoint(tiny) as checkpoint:
        assert checkpoint.chat_template == "J ü"
    (tiny / "chat_template.jinja").unlink()
    file.unlink()
    with open_checkpoint(tiny) as checkpoint:
        assert checkpoint.chat_template is None
        assert checkpoint.tokenizer_config == {}


def test_harmless_extras_are_ignored(tiny: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(32, np.float32)

    resave(tiny, add)
    with open_checkpoint(tiny) as checkpoint:
        assert "lm_head.weight" not in checkpoint.names()


def test_the_digest_follows_content_not_sharding(tiny: Path, sharded: Path) -> None:
    def digest(folder: Path) -> str:
        with open_checkpoint(folder) as checkpoint:
            return checkpoint.source_digest()

    first = digest(tiny)
    assert first == digest(sharded)
    weights = tiny / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    assert digest(tiny) != first
    (sharded / "tokenizer.json").write_bytes((sharded / "tokenizer.json").read_bytes() + b" ")
    assert digest(sharded) != first


def test_the_digest_samples_a_large_checkpoint(tiny: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("arkinfer.frontend.checkpoint._SMALL", 0)
    monkeypatch.setattr("arkinfer.frontend.checkpoint._SAMPLE", 1024)
    digests: list[str] = []
    for change in (None, "begin", "middle", "end"):
        with open_checkpoint(tiny) as checkpoint:
            slot = checkpoint._table[UP]
            at = {"begin": 0, "middle": slot.nbytes // 2, "end": slot.nbytes - 1}.get(change or "")
            content = bytearray(slot.file.read_bytes())
            if at is not None:
                content[slot.offset + at] ^= 1
            slot.file.write_bytes(content)
            digests.append(checkpoint.source_digest())
    assert len(set(digests)) == 4


def test_leaves_cover_the_checkpoint_and_what_the_config_gives(tiny: Path) -> None:
    with open_checkpoint(tiny) as checkpoint:
        leaves = LeafSource(checkpoint, checkpoint.config, context=2048)
        assert leaves.names() == [*checkpoint.names(), INV_FREQ]
        assert leaves.shape(INV_FREQ) == (32,)
        assert leaves.dtype(INV_FREQ) == np.float32
        long = checkpoint.config.rope.inv_freq(64, 2048)
        np.testing.assert_array_equal(leaves.rows(INV_FREQ), long)
        np.testing.assert_array_equal(leaves.rows(INV_FREQ, 3, 5), long[3:5])
        np.testing.assert_array_equal(leaves.rows(UP, 3, 5), checkpoint.read(UP, 3, 5))
        assert leaves.shape(UP) == (512, 256)
        short = LeafSource(checkpoint, checkpoint.config, context=1024).rows(INV_FREQ)
        assert (short[1:] > long[1:]).all()


def test_wrong_paths(tiny: Path) -> None:
    fix = "Give the folder of a checkpoint's config.json, a GGUF file, or a hub id like org/name."
    assert message(tiny / "gone", UsageError) == f"/gone does not exist. {fix}"
    file = tiny / "config.json"
    assert message(file, UsageError) == f"/config.json is a file, not a folder. {fix}"
    file.unlink()
    expected = f"/tiny is not a checkpoint. It has no config.json. {fix}"
    assert message(tiny, UsageError) == expected


def test_a_missing_tensor_is_named(tiny: Path) -> None:
    resave(tiny, lambda tensors: tensors.pop(UP))
    assert message(tiny, CheckpointError) == (
        "The tensor model.layers.1.mlp.up_proj.weight is missing. config.json needs it with the "
        "shape [512, 256], and it is in no weight file. Use the config.json that belongs to these "
        "weights, or download them again."
    )


def test_renamed_tensors_are_named(tiny: Path) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for layer in (0, 1):
            old = f"model.layers.{layer}.mlp.up_proj"
            tensors[f"{old}.values"] = tensors.pop(f"{old}.weight")

    resave(tiny, rename)
    assert message(tiny, CheckpointError) == (
        "The tensor model.layers.0.mlp.up_proj.weight is missing. config.json needs it with the "
        "shape [512, 256], and it is in no weight file, nor are 1 others; "
        '"model.layers.0.mlp.up_proj.values" is there instead. Use the config.json that belongs '
        "to these weights, or download them again."
    )


def test_an_extra_tensor_is_named(tiny: Path) -> None:
    def add(tensors: dict[str, Any]) -> None:
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(256, np.float32)

    resave(tiny, add)
    assert message(tiny, CheckpointError) == (
        "The tensor model.layers.0.self_attn.q_proj.bias in model.safetensors is not part of the "
        "model. config.json describes a MiniCPMForCausalLM without it; its shape is [256]. Use "
        "the config.json that belongs to these weights."
    )


def test_a_head_beside_a_tied_embedding_of_an_untied_config_is_needed(
    tiny: Path, edit_config: Callable[..., None]
) -> None:
    edit_config(tiny, tie_word_embeddings=False)
    assert "The tensor lm_head.weight is missing" in message(tiny, CheckpointError)


def test_a_wrong_shape_is_named(tiny: Path, edit_config: Callable[..., None]) -> None:
    edit_config(tiny, intermediate_size=768)
    assert message(tiny, CheckpointError) == (
        "The tensor model.layers.0.mlp.gate_proj.weight in model.safetensors has the shape "
        "[512, 256]. config.json needs [768, 256]. Use the config.json that belongs to these "
        "weights."
    )


def test_a_foreign_dtype_is_named(tiny: Path) -> None:
    def narrow(tensors: dict[str, Any]) -> None:
        tensors[UP] = tensors[UP].astype(np.int8)

    resave(tiny, narrow)
    assert message(tiny, UnsupportedError) == (
        "The tensor model.layers.1.mlp.up_proj.weight in model.safetensors is stored as int8. "
        "Weights must be of bfloat16, float16, float32. Use the checkpoint's bf16 release."
    )


def test_no_weights_and_missing_shards(sharded: Path) -> None:
    second = sharded / "model-00002-of-00003.safetensors"
    second.unlink()
    assert message(sharded, CheckpointError) == (
        "The shard model-00002-of-00003.safetensors is missing from /sharded. "
        "model.safetensors.index.json says that weights are in it. "
        "Download model-00002-of-00003.safetensors again."
    )
    (sharded / "model.safetensors.index.json").write_text('{"metadata": {}}')
    assert "model.safetensors.index.json is damaged" in message(sharded, CheckpointError)
    (sharded / "model.safetensors.index.json").unlink()
    assert message(sharded, CheckpointError) == (
        "/sharded holds no weights. It has neither model.safetensors nor model_gptq.safetensors "
        "nor pytorch_model.bin, nor an index of shards. "
        "Download the checkpoint again, with its weight files."
    )


def test_shards_that_contradict_their_index(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    escape = json.loads(json.dumps(content))
    escape["weight_map"][UP] = "../tiny.safetensors"
    index.write_text(json.dumps(escape))
    assert "The shard ../tiny.safetensors is missing" in message(sharded, CheckpointError)
    extra = json.loads(json.dumps(content))
    extra["weight_map"]["ghost"] = content["weight_map"][UP]
    index.write_text(json.dumps(extra))
    assert f"ghost is missing from {content['weight_map'][UP]}" in message(sharded, CheckpointError)
    shutil.copy(sharded / content["weight_map"][UP], sharded / "copy.safetensors")
    double = json.loads(json.dumps(content))
    double["weight_map"][UP] = "copy.safetensors"
    index.write_text(json.dumps(double))
    assert "is in two shards" in message(sharded, CheckpointError)


def test_damaged_settings(tiny: Path) -> None:
    (tiny / "generation_config.json").write_text("[]")
    assert "generation_config.json is not a JSON object" in message(tiny, CheckpointError)
    (tiny / "config.json").write_text('{"architectures": ')
    assert "config.json cannot be read. Reason: it is not JSON" in message(tiny, CheckpointError)
    (tiny / "config.json").write_bytes(b'{"a": "\xff"}')
    assert "config.json cannot be read. Reason: it is not JSON: 'utf-8'" in message(
        tiny, CheckpointError
    )


def test_no_tokenizer_json(tiny: Path) -> None:
    (tiny / "tokenizer.json").unlink()
    with open_checkpoint(tiny) as checkpoint, pytest.raises(CheckpointError) as caught:
        _ = checkpoint.tokenizer_json
    assert "has no tokenizer.json" in str(caught.value)
    assert "AutoTokenizer" in caught.value.fix


def test_a_file_cut_off_after_opening(tiny: Path) -> None:
    with open_checkpoint(tiny) as checkpoint:
        file = tiny / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100_000])
        with pytest.raises(CheckpointError, match="is cut off"):
            checkpoint.read(UP)


def test_the_architecture_is_checked_first(tiny: Path, edit_config: Callable[..., None]) -> None:
    edit_config(tiny, architectures=["MiniCPM3ForCausalLM"])
    assert message(tiny, UnsupportedError) == (
        'The architecture "MiniCPM3ForCausalLM" is not supported. Only the MiniCPM family '
        'and plain Llama models are. Did you mean "MiniCPMForCausalLM"? Known: LlamaForCausalLM, '
        "MiniCPMForCausalLM."
    )
