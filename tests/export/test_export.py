"""A folder in another format: whole, exact, with all that its loaders need; or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arkinfer.compiler.export import export
from arkinfer.errors import CheckpointError, UnsupportedError, UsageError
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.packing import parse_scheme
from arkinfer.quant import round_to_nearest
from arkinfer.testing import make_checkpoint, preset
from arkinfer.testing.torch_model import torch_model, torch_step

FORMATS = ("gptq", "compressed-tensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float16, so that all tensors can be read with numpy alone."""
    config = {**preset("tiny"), "torch_dtype": "float16"}
    return make_checkpoint(config, 3, tmp_path_factory.mktemp("plain") / "tiny")


def parts_of(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    return {
        name: checkpoint.quantized(name, 0, checkpoint.shape(name)[0]).parts()
        for name in checkpoint.schemes()
    }


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    """The same quantized matrices and the same other tensors, bit by bit."""
    assert found.schemes() == expected.schemes()
    ours, theirs = parts_of(found), parts_of(expected)
    for name, parts in ours.items():
        for part, array in parts.items():
            np.testing.assert_array_equal(array, theirs[name][part], err_msg=f"{name} {part}")
    for name in found.names():
        if name not in ours:
            np.testing.assert_array_equal(found.read(name), expected.read(name), err_msg=name)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("quant", ["int4-g32", "int4-g32-asym", "int8-g64", "int8-row"])
def test_what_is_read_back_is_what_round_to_nearest_makes(
    plain: Path, tmp_path: Path, format: str, quant: str
):
    report = export(plain, format, tmp_path / "out", quant=quant)
    scheme = parse_scheme(quant)
    with open_checkpoint(plain) as before, open_checkpoint(report.path) as after:
        linears = [n for n in before.names() if n.endswith("_proj.weight")]
        assert {name: s for name, s in after.schemes().items()} == dict.fromkeys(linears, scheme)
        assert report.schemes == {quant: len(linears)}
        assert report.size == sum(f.stat().st_size for f in report.path.iterdir())
        for name in before.names():
            if name in linears:
                expected = round_to_nearest(before.read(name), scheme)
                found = after.quantized(name, 0, expected.shape[0])
                np.testing.assert_array_equal(found.codes, expected.codes)
                np.testing.assert_array_equal(found.scale, expected.scale.astype(np.float16))
                np.testing.assert_array_equal(found.zeros(), expected.zeros())
            else:
                np.testing.assert_array_equal(after.read(name), before.read(name))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (report.path / name).read_bytes() == (plain / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_quantized_checkpoint_goes_from_format_to_format_unchanged(plain: Path, tmp_path: Path):
    first = export(plain, "gptq", tmp_path / "gptq", quant="int4-g32-asym")
    second = export(first.path, "compressed-tensors", tmp_path / "ct")
    third = export(second.path, "gptq", tmp_path / "again")
    with open_checkpoint(first.path) as a, open_checkpoint(second.path) as b:
        assert_same(b, a)
    for file in ("model.safetensors", "config.json"):
        assert (third.path / file).read_bytes() == (first.path / file).read_bytes()


def test_a_partly_quantized_checkpoint_says_which_parts_are_not(plain: Path, tmp_path: Path):
    from arkinfer.export.compressed_tensors import CompressedTensors
    from arkinfer.export.gptq import Gptq
    from arkinfer.export.source import Rounded

    with open_checkpoint(plain) as checkpoint:
        linears = [n for n in checkpoint.names() if n.endswith("_proj.weight")]
        schemes = dict.fromkeys(linears[1:], parse_scheme("int4-g32"))
        schemes[linears[-1]] = parse_scheme("int8-g64")
        source = Rounded(checkpoint, schemes, np.float16)
        gptq = Gptq(source, schemes).config()
        packed = CompressedTensors(source, schemes).config()
    dense, other = (name.removesuffix(".weight") for name in (linears[0], linears[-1]))
    assert gptq["dynamic"] == {
        f"-:^{dense.replace('.', chr(92) + '.')}$": {},
        f"+:^{other.replace('.', chr(92) + '.')}$": {"bits": 8, "group_size": 64},
    }
    assert packed["ignore"] == ["lm_head", dense]
    assert packed["config_groups"]["group_1"]["targets"] == [other]
    assert len(packed["config_groups"]["group_0"]["targets"]) == len(linears) - 2


def test_codes_that_a_format_cannot_hold_are_rounded_when_asked(plain: Path, tmp_path: Path):
    source = mlx_like(plain, tmp_path / "mlx")
    with pytest.raises(UnsupportedError, match=r"is int4-g32-min\. GPTQ has integer.*--requantize"):
        export(source, "gptq", tmp_path / "out")
    report = export(source, "gptq", tmp_path / "out", requantize=True)
    assert report.schemes == {"int4-g32": 1}
    assert report.notes[0].startswith("1 of 1 quantized matrices were rounded once more, to int4-g")
    with pytest.raises(UsageError, match="quantized already, to int4-g32-min"):
        export(source, "gptq", tmp_path / "other", quant="int8")
    report = export(source, "gptq", tmp_path / "other", quant="int8-g64", requantize=True)
    assert report.schemes == {"int8-g64": 1}


def mlx_like(plain: Path, folder: Path) -> Path:
    """A copy of which one matrix and the embedding are in MLX's form."""
    folder.mkdir()
    tensors = load_file(plain / "model.safetensors")
    rng = np.random.default_rng(0)
    for module in ("model.layers.0.mlp.up_proj", "model.embed_tokens"):
        rows, columns = tensors[f"{module}.weight"].shape
        tensors[f"{module}.weight"] = rng.integers(0, 2**32, (rows, columns // 8), dtype=np.uint32)
        tensors[f"{module}.scales"] = np.full((rows, columns // 32), 0.01, np.float16)
        tensors[f"{module}.biases"] = np.full((rows, columns // 32), -0.08, np.float16)
    save_file(tensors, folder / "model.safetensors")
    for file in plain.iterdir():
        if file.name not in ("model.safetensors", "config.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    config["quantization"] = {"bits": 4, "group_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_an_embedding_that_loses_its_codes_is_told(plain: Path, tmp_path: Path):
    source = mlx_like(plain, tmp_path / "mlx")
    report = export(source, "gptq", tmp_path / "out", requantize=True)
    assert report.notes[1].startswith("model.embed_tokens.weight lost their codes: the format has")
    with open_checkpoint(source) as before, open_checkpoint(report.path) as after:
        assert after.dtype("model.embed_tokens.weight") == np.float16
        np.testing.assert_array_equal(
            after.read("model.embed_tokens.weight"),
            before.read("model.embed_tokens.weight").astype(np.float16),
        )


def test_what_cannot_be_done_is_refused_and_nothing_stays(plain: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r'no format "gptg" to export\. Did you mean "gptq"'):
        export(plain, "gptg", out)
    with pytest.raises(UsageError, match="the checkpoint is not quantized, and --quant is none"):
        export(plain, "gptq", out, quant="none")
    with pytest.raises(UsageError, match='"ternary" cannot be exported in this'):
        export(plain, "gptq", out, quant="ternary")
    with pytest.raises(UsageError, match='no quantization "q4_0"'):
        export(plain, "gptq", out, quant="q4_0")
    with pytest.raises(UsageError, match="There is no folder"):
        export(plain, "gptq", tmp_path / "missing" / "out")
    with pytest.raises(UnsupportedError, match=r"q_proj\.weight: int4-g128 does not fit a"):
        export(make_checkpoint(preset("tiny", hidden_size=96), 0, tmp_path / "odd"), "gptq", out)
    out.write_text("a file")
    with pytest.raises(UsageError, match="It is there already"):
        export(plain, "gptq", out)
    out.unlink()
    tensors = load_file(plain / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = np.nan
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in plain.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: A weight holds numbers that are"):
        export(broken, "compressed-tensors", out, quant="int4-g32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "odd"]


def test_what_a_killed_export_left_is_removed(plain: Path, tmp_path: Path):
    dead, alive = tmp_path / ".out.999999999-a.tmp", tmp_path / ".out.1-a.tmp"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    export(plain, "gptq", tmp_path / "out", quant="int4-g32")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.1-a.tmp", "out"]


@pytest.mark.slow
@pytest.mark.parametrize("quant", ["int4-g32", "int4-g32-asym", "int8-g64", "int4-spgptq-g32"])
def test_transformers_loads_the_same_numbers(tmp_path: Path, quant: str):
    """A plain Llama through its loader of compressed-tensors: weights, logits, and an answer."""
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    config = preset("tiny", architectures=["LlamaForCausalLM"], model_type="llama")
    keys = ("rope_scaling", "rope_parameters", "scale_emb", "scale_depth", "dim_model_base")
    plain = {key: value for key, value in config.items() if key not in keys}
    made = make_checkpoint({**plain, "torch_dtype": "float32"}, 1, tmp_path / "llama")
    report = export(made, "compressed-tensors", tmp_path / "out", quant=quant, cache=False)
    model = AutoModelForCausalLM.from_pretrained(
        report.path,
        dtype=torch.float32,
        quantization_config=CompressedTensorsConfig(run_compressed=False),
    )
    state = model.state_dict()
    with open_checkpoint(report.path) as checkpoint:
        for name in checkpoint.schemes():
            np.testing.assert_array_equal(state[name].numpy(), checkpoint.read(name))
        ids = np.random.default_rng(0).integers(3, 500, 40)
        ours, _ = torch_step(torch_model(checkpoint.config, checkpoint, context=64), ids)
    with torch.inference_mode():
        given = torch.from_numpy(ids)[None]
        theirs = model(given).logits[0].numpy()
        answer = model.generate(given, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())
    assert answer[0, 40] == ours[-1].argmax()
