"""GGUF files that we write: readable by ggml's own library, and the same checkpoint when read."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from arkinfer.compiler.export import export
from arkinfer.errors import ArkError, CheckpointError, UnsupportedError, UsageError
from arkinfer.export import gguf as exporter
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.frontend.gguf.file import read_header
from arkinfer.frontend.gguf.tokenizer import tokenizer_json
from arkinfer.frontend.gguf.vocabulary import read_vocabulary
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.runtime.tokenizer_file import load
from arkinfer.testing import make_checkpoint, preset
from tests.export.test_gguf_encode import ternary as ternary_matrix
from tests.frontend.gguf.converted import convert
from tests.frontend.gguf.pieces import TEXT, spm_metadata

LLAMA = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "rope_scaling": None,
         "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float16, which GGUF has, too."""
    config = {**preset("tiny"), "torch_dtype": "float16"}
    return make_checkpoint(config, 3, tmp_path_factory.mktemp("plain") / "tiny")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**preset("tiny", **LLAMA), "torch_dtype": "float16"}
    return make_checkpoint(config, 4, tmp_path_factory.mktemp("llama") / "tiny")


def changed(folder: Path, target: Path, **tensors: np.ndarray) -> Path:
    """A copy with other numbers; dots of names are written as __."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    weights |= {name.replace("__", "."): values for name, values in tensors.items()}
    save_file(weights, target / "model.safetensors")
    return target


def test_ggml_reads_what_its_converter_would_write(tmp_path: Path) -> None:
    ours = export(None, "gguf", tmp_path / "ours.gguf", type="f16").path
    with open_checkpoint(demo_checkpoint()) as demo:
        theirs = convert(demo, tmp_path / "theirs.gguf", lambda _, rows: (rows.astype("f2"), 1))
    found, expected = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    keys = {key for key in expected.fields if not key.startswith("GGUF.")}
    for key in sorted(keys):
        assert found.fields[key].contents() == expected.fields[key].contents(), key
        assert found.fields[key].types == expected.fields[key].types, key
    more = {key for key in found.fields if not key.startswith("GGUF.")} - keys
    assert {key: found.fields[key].contents() for key in more} == {
        "general.type": "model", "general.name": "demo", "general.file_type": 1,
        "general.quantization_version": 2, "minicpm.rope.scaling.attn_factor": 1.0,
        "tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_eos_token": False,
    }  # fmt: skip
    tensors = {tensor.name: tensor for tensor in found.tensors}
    assert sorted(tensors) == sorted(tensor.name for tensor in expected.tensors)
    for tensor in expected.tensors:
        same = tensors[tensor.name]
        assert same.tensor_type == tensor.tensor_type
        np.testing.assert_array_equal(same.data, tensor.data)


@pytest.mark.parametrize("name", ["plain", "llama"])
def test_float16_comes_back_as_it_was(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    source = request.getfixturevalue(name)
    report = export(source, "gguf", tmp_path / "m.gguf")
    with open_checkpoint(source) as before, open_checkpoint(report.path) as after:
        assert report.schemes == {"f16": 15 if name == "plain" else 16}
        assert after.names() == before.names()
        for tensor in before.names():
            np.testing.assert_array_equal(after.read(tensor), before.read(tensor))
        ours, theirs = vars(after.config), vars(before.config)
        assert {k for k in ours if ours[k] != theirs[k]} <= {"rope", "residual_scale"}
        assert after.config.residual_scale == pytest.approx(before.config.residual_scale, 1e-7)
        factor = pytest.approx(before.config.rope_attention_factor, 1e-7)
        assert after.config.rope_attention_factor == factor
        assert after.chat_template == before.chat_template
        assert after.tokenizer_facts["model"] == before.tokenizer_facts["model"]
    assert report.size == report.path.stat().st_size
    assert report.notes == ()


def same_codes(before: Checkpoint, after: Checkpoint) -> None:
    for name, scheme in before.schemes().items():
        rows = before.shape(name)[0]
        ours, theirs = after.quantized(name, 0, rows), before.quantized(name, 0, rows)
        assert ours.scheme.bits == scheme.bits
        np.testing.assert_array_equal(ours.unpacked().ravel(), theirs.unpacked().ravel())
        np.testing.assert_array_equal(ours.dequantize(), theirs.dequantize())


@pytest.mark.parametrize(
    ("quant", "type", "schemes"),
    [
        ("int4-g32", "q4_0", {"q4_0": 14, "q8_0": 1}), ("int4-g128", None, {"q4_0": 14, "f16": 1}),
        ("int8-g64", None, {"q8_0": 14, "f16": 1}), ("int8-row", "q8_0", {"q8_0": 15}),
    ],
)  # fmt: skip
def test_codes_of_a_quantized_checkpoint_are_kept(
    plain: Path, tmp_path: Path, quant: str, type: str | None, schemes: dict[str, int]
) -> None:
    folder = export(plain, "gptq", tmp_path / "quantized", quant=quant).path
    report = export(folder, "gguf", tmp_path / "m.gguf", type=type)
    assert (report.schemes, report.notes) == (schemes, ())
    with open_checkpoint(folder) as before, open_checkpoint(report.path) as after:
        same_codes(before, after)
    back = export(report.path, "gptq", tmp_path / "back").path if type is None else None
    if back is not None:
        with open_checkpoint(report.path) as before, open_checkpoint(back) as after:
            same_codes(before, after)
            assert after.tokenizer_facts["model"] == before.tokenizer_facts["model"]


def test_ternary_matrices_become_tq2_0_without_a_loss(plain: Path, tmp_path: Path) -> None:
    weights = load_file(plain / "model.safetensors")
    trits = {
        name.replace(".", "__"): ternary_matrix(*values.shape, seed=len(name)).astype(np.float16)
        for name, values in weights.items()
        if "_proj" in name
    }
    folder = changed(plain, tmp_path / "ternary", **trits)
    assert export(folder, "gguf", tmp_path / "a.gguf").schemes == {"tq2_0": 14, "f16": 1}
    said = export(folder, "gguf", tmp_path / "b.gguf", quant="ternary")
    assert said.path.read_bytes() == (tmp_path / "a.gguf").read_bytes()
    report = export(folder, "gguf", tmp_path / "m.gguf", type="tq2_0")
    assert report.schemes == {"tq2_0": 14, "q8_0": 1}
    with open_checkpoint(folder) as before, open_checkpoint(report.path) as after:
        for name in trits:
            name = name.replace("__", ".")
            assert after.schemes()[name].name == "int2-g256"
            np.testing.assert_array_equal(after.read(name), before.read(name).astype(np.float32))


def test_ternary_scales_of_smaller_groups_take_four_bits(plain: Path, tmp_path: Path) -> None:
    weights = load_file(plain / "model.safetensors")
    trits = {
        name.replace(".", "__"): ternary_matrix(values.size // 64, 64, seed=len(name))
        .reshape(values.shape)
        .astype(np.float16)
        for name, values in weights.items()
        if "_proj" in name
    }
    folder = changed(plain, tmp_path / "ternary", **trits)
    report = export(folder, "gguf", tmp_path / "m.gguf", type="tq2_0")
    assert (report.schemes, report.notes) == ({"q4_0": 14, "q8_0": 1}, ())
    with open_checkpoint(folder) as before, open_checkpoint(report.path) as after:
        for name in trits:
            name = name.replace("__", ".")
            np.testing.assert_array_equal(after.read(name), before.read(name).astype(np.float32))


def test_scales_that_are_rounded_are_counted(plain: Path, tmp_path: Path) -> None:
    """compressed-tensors has scales in bfloat16, whose smallest ones fp16 does not have."""
    small = np.full((64, 256), 1e-7, np.float16)
    folder = changed(
        plain, tmp_path / "s", **{"model__layers__0__self_attn__k_proj__weight": small}
    )
    source = export(folder, "compressed-tensors", tmp_path / "ct", quant="int4-g32").path
    config = json.loads((source / "config.json").read_text())
    assert config["torch_dtype"] == "float16"
    weights = load_file(source / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight_scale"
    weights[name] = np.full(weights[name].shape, 1e-3 * (1 + 2**-13), np.float32)
    save_file(weights, source / "model.safetensors")
    report = export(source, "gguf", tmp_path / "m.gguf", type="q4_0")
    count = weights[name].size
    assert report.notes == (
        f"{count:,} scales of 1 quantized matrices were rounded to fp16, which GGUF has; their "
        "codes are as they were.",
    )


def test_what_no_type_holds_is_rounded_only_when_asked(plain: Path, tmp_path: Path) -> None:
    folder = export(plain, "gptq", tmp_path / "asym", quant="int4-g32-asym").path
    with pytest.raises(UnsupportedError) as caught:
        export(folder, "gguf", tmp_path / "m.gguf", type="q4_0")
    assert str(caught.value) == (
        "model.layers.0.self_attn.q_proj.weight is int4-g32-asym. Q4_0 and Q8_0 hold symmetric "
        "codes of up to 8 bits, with inputs in their order and groups of a multiple of 32 (14 of "
        "14 matrices). Give --requantize to round these once more, or --type f16."
    )
    assert not (tmp_path / "m.gguf").exists()
    report = export(folder, "gguf", tmp_path / "m.gguf", type="q8_0", requantize=True)
    assert report.notes == ("14 quantized matrices were rounded once more.",)
    report = export(folder, "gguf", tmp_path / "m.gguf", requantize=True)
    assert report.schemes == {"q4_0": 14, "f16": 1}
    assert export(folder, "gguf", tmp_path / "f.gguf", type="f16").schemes == {"f16": 15}


def test_memory_is_bounded_and_blocks_do_not_matter(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export(plain, "gguf", tmp_path / "a.gguf", type="q8_0").path.read_bytes()
    monkeypatch.setattr(exporter, "_BLOCK", 1 << 15)
    tracemalloc.start()
    parts = export(
        plain, "gguf", tmp_path / "b.gguf", type="q8_0",
        on_progress=lambda at: tracemalloc.reset_peak() if at.total and not at.done else None,
    ).path  # fmt: skip
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parts.read_bytes() == whole
    assert peak < 4 << 20


def test_a_sentencepiece_tokenizer_becomes_scores(tmp_path: Path) -> None:
    content = tokenizer_json(read_vocabulary(spm_metadata()))
    source = make_checkpoint(preset("tiny", vocab_size=800), 0, tmp_path / "spm",
                             tokenizer=json.dumps(content).encode())  # fmt: skip
    report = export(source, "gguf", tmp_path / "m.gguf")
    assert report.notes == ()
    keys = read_header(report.path).metadata
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    known = len(spm_metadata()["tokenizer.ggml.tokens"])
    np.testing.assert_array_equal(
        np.asarray(keys["tokenizer.ggml.token_type"])[:known],
        spm_metadata()["tokenizer.ggml.token_type"],
    )
    with open_checkpoint(report.path) as found:
        again = load(found.tokenizer_json)
    original = load((source / "tokenizer.json").read_bytes())
    for text in [TEXT, " a", "<|im_start|>the dog<|im_end|>", "Æ🙃 今天"]:
        assert again.encode(text).ids == original.encode(text).ids
    ranked = content["model"]["merges"]
    made = ["".join(pair) for pair in ranked]
    twice = next(i for i, piece in enumerate(made) if made.count(piece) > 1)
    ranked.append(ranked.pop(twice))
    (source / "tokenizer.json").write_text(json.dumps(content))
    report = export(source, "gguf", tmp_path / "n.gguf")
    assert "merges of the tokenizer do not follow from scores" in report.notes[0]


def with_tokenizer(folder: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(folder, target)
    content = json.loads((target / "tokenizer.json").read_text())
    for key, value in changes.items():
        content[key] = value
    (target / "tokenizer.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"type": "q5_1"}, UsageError, 'There is no type "q5_1" of gguf. Known: f16, q4_0, q8_0'),
        ({"quant": "ternary"}, UnsupportedError, "is not ternary"),
        ({"type": "tq2_0"}, UnsupportedError,
         "model.layers.0.self_attn.q_proj.weight is not ternary. TQ2_0 holds -s, 0 and s only, and "
         "row 0 holds"),
        ({"quant": "int4-g32-asym"}, UsageError, "The format does not hold int4-g32-asym"),
        ({"output": "missing/m.gguf"}, UsageError, 'There is no folder "'),
    ],
)  # fmt: skip
def test_wrong_requests_are_one_sentence(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any],
    kind: type[ArkError], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        export(plain, "gguf", **{"output": "m.gguf", **options})
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_type_belongs_to_gguf(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export(plain, "gptq", tmp_path / "out", type="q4_0")
    assert str(caught.value) == (
        'There is no type "q4_0" of gptq. It has no types; --quant says how to quantize. Leave '
        "--type out, or add --format gguf."
    )


@pytest.mark.parametrize(
    ("value", "words"), [(np.inf, "numbers that are not finite"), (np.nan, "not finite")]
)
def test_numbers_that_are_none_leave_nothing_behind(
    plain: Path, tmp_path: Path, value: float, words: str
) -> None:
    matrix = np.zeros((512, 256), np.float16)
    matrix[300, 7] = value
    folder = changed(plain, tmp_path / "bad", **{"model__layers__1__mlp__up_proj__weight": matrix})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "m.gguf").write_text("old")
    with pytest.raises(CheckpointError) as caught:
        export(folder, "gguf", tmp_path / "out" / "m.gguf", type="q8_0")
    assert "model.layers.1.mlp.up_proj.weight cannot be exported" in str(caught.value)
    assert words in str(caught.value)
    assert [f.read_text() for f in (tmp_path / "out").iterdir()] == ["old"]


def test_tokenizers_that_llama_cpp_has_not(plain: Path, tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    folder = with_tokenizer(plain, tmp_path / "split", pre_tokenizer=split)
    with pytest.raises(UnsupportedError, match="has no name for the way in which it splits words"):
        export(folder, "gguf", tmp_path / "m.gguf")
    words = {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "a"}
    folder = with_tokenizer(plain, tmp_path / "words", model=words)
    with pytest.raises(UnsupportedError, match="It is of the kind 'WordLevel', and not BPE"):
        export(folder, "gguf", tmp_path / "m.gguf")
    folder = with_tokenizer(plain, tmp_path / "nfc", normalizer={"type": "NFC"})
    (note,) = export(folder, "gguf", tmp_path / "m.gguf").notes
    assert note.startswith("The tokenizer normalizes texts, which GGUF cannot say")
