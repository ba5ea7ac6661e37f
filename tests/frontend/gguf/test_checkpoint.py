"""GGUF files as checkpoints: tensors, settings, and whole builds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import arkinfer
from arkinfer.errors import ArkError, CheckpointError, UnsupportedError, UsageError
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint, open_config, stored_schemes
from arkinfer.frontend.gguf.blocks import TYPES, type_name
from arkinfer.testing import make_checkpoint, preset
from arkinfer.testing.torch_model import torch_model, torch_step
from tests.backends.expectations import TOLERANCES
from tests.frontend.gguf.blocks import PACKED, random_rows
from tests.frontend.gguf.converted import Raw, convert, gguf_name

LLAMA = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "rope_scaling": None,
         "num_key_value_heads": 2}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "minicpm": make_checkpoint("tiny", 0, folder / "minicpm"),
        "llama": make_checkpoint(preset("tiny", **LLAMA), 1, folder / "llama"),
    }


class Numbers:
    """Stores random blocks of a type, and keeps what ggml's routines say that they stand for."""

    def __init__(self, config: Any, kind: int) -> None:
        self._config, self._kind = config, kind
        self.dense: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, name: str, rows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
        data = random_rows(PACKED[self._kind], *rows.shape, seed=len(self.dense))
        matrix = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(self._kind))
        if name.endswith((".q_proj.weight", ".k_proj.weight")):  # neighbours back into halves
            heads = matrix.reshape(-1, self._config.head_dim // 2, 2, rows.shape[1])
            matrix = heads.transpose(0, 2, 1, 3).reshape(rows.shape)
        self.dense[name] = matrix.astype(np.float32)
        return data, self._kind

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        return self.dense[name][start:stop]


def plain(dtype: npt.DTypeLike, kind: int) -> Raw:
    def store(name: str, rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], int]:
        cast = rows.astype(dtype)
        return (cast.view(np.uint8) if kind == 30 else cast), kind

    return store


@pytest.mark.parametrize("architecture", ["minicpm", "llama"])
@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, 0), (np.float16, 1), (ml_dtypes.bfloat16, 30)]
)
def test_plain_numbers_come_in_the_order_of_hugging_face(
    folders: dict[str, Path], tmp_path: Path, architecture: str, dtype: npt.DTypeLike, kind: int
) -> None:
    with open_checkpoint(folders[architecture]) as original:
        file = convert(original, tmp_path / "m.gguf", plain(dtype, kind), pre="gpt-2")
        with open_checkpoint(file) as found:
            assert found.names() == original.names()
            assert found.schemes() == {}
            for name in original.names():
                expected = original.read(name)
                expected = expected.astype(np.float32 if expected.ndim == 1 else dtype)
                assert (found.dtype(name), found.shape(name)) == (expected.dtype, expected.shape)
                for rows in (slice(0, None), slice(3, 77), slice(70, 71), slice(5, 5)):
                    part = found.read(name, rows.start, rows.stop)
                    np.testing.assert_array_equal(part, expected[rows])


@pytest.mark.parametrize("kind", PACKED, ids=type_name)
def test_blocks_come_bit_by_bit(folders: dict[str, Path], tmp_path: Path, kind: int) -> None:
    with open_checkpoint(folders["llama"]) as original:
        store = Numbers(original.config, kind)
        file = convert(original, tmp_path / "m.gguf", store, pre="gpt-2")
    with open_checkpoint(file) as found:
        assert found.schemes() == dict.fromkeys(store.dense, TYPES[kind].scheme)
        for name, matrix in store.dense.items():
            assert found.dtype(name) == np.float32
            for rows in (slice(0, len(matrix)), slice(3, 77), slice(70, 71)):
                part = found.quantized(name, rows.start, rows.stop)
                np.testing.assert_array_equal(part.dequantize(), matrix[rows])
                np.testing.assert_array_equal(found.read(name, rows.start, rows.stop), matrix[rows])


def test_types_may_be_mixed(folders: dict[str, Path], tmp_path: Path) -> None:
    """As in Q4_K_M: some matrices in more bits, and some plain."""

    def store(name: str, rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], int]:
        kind = 14 if "v_proj" in name else 12 if "layers.0" in name else 1
        return (rows.astype(np.float16), 1) if kind == 1 else (
            random_rows(PACKED[kind], *rows.shape, seed=0), kind
        )  # fmt: skip

    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "m.gguf", store, pre="gpt-2")
    with open_checkpoint(file) as found:
        names = {name: scheme.name for name, scheme in found.schemes().items()}
        assert names["model.layers.1.self_attn.v_proj.weight"] == "int6-g16"
        assert names["model.layers.0.mlp.up_proj.weight"] == "int4-g32-min"
        assert "model.layers.1.mlp.up_proj.weight" not in names
        assert stored_schemes(file, found.config) == found.schemes()


def test_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "Tiny-F16.gguf", plain(np.float16, 1), pre="gpt-2")
        with open_config(file) as found:
            assert (found.name, found.path, found.generation) == ("Tiny-F16", file, {})
            assert found.chat_template == original.chat_template
            assert found.config.eos_token_ids == original.config.eos_token_ids
            assert found.config.bos_token_id == original.config.bos_token_id
            assert found.tokenizer_facts["model"] == original.tokenizer_facts["model"]
            assert json.loads(found.tokenizer_json) == found.tokenizer_facts
            assert found.tokenizer_config["bos_token"] == "<s>"


def test_the_digest_is_of_the_content(folders: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "a.gguf", plain(np.float16, 1), pre="gpt-2")
    content = bytearray(file.read_bytes())
    other = tmp_path / "b.gguf"
    digests: list[str] = []
    for place in (None, -100, bytes(content).index(b"im_start|>' +") + 3):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 1
        other.write_bytes(changed)
        with open_checkpoint(other) as checkpoint:
            digests.append(checkpoint.source_digest())
    with open_checkpoint(file) as checkpoint:
        assert checkpoint.source_digest() == digests[0]
    assert len(set(digests)) == 3


def test_a_folder_with_one_model_is_that_model(folders: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "a.gguf", plain(np.float16, 1), pre="gpt-2")
    with open_checkpoint(tmp_path) as found:
        assert found.path == file
    (tmp_path / "b.gguf").write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="holds 2 GGUF models"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="architectures"):
        open_checkpoint(tmp_path)


Change = Callable[[gguf.GGUFWriter], None]


def without(name: str) -> Change:
    def change(writer: gguf.GGUFWriter) -> None:
        add = writer.add_tensor
        writer.add_tensor = lambda n, *a, **k: None if n == name else add(n, *a, **k)

    return change


def extra(name: str, *shape: int) -> Change:
    return lambda writer: writer.add_tensor(name, np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (without("blk.1.ffn_up.weight"), CheckpointError,
         "The tensor blk.1.ffn_up.weight is missing from m.gguf. Its metadata describes a "
         "MiniCPMForCausalLM of 2 layers."),
        (without("token_embd.weight"), CheckpointError, "Every model has an embedding"),
        (without("rope_factors_long.weight"), CheckpointError, "longrope needs factors"),
        (extra("blk.0.attn_q.bias", 256), UnsupportedError,
         "The tensor blk.0.attn_q.bias of m.gguf is not part of the model"),
        (extra("blk.2.attn_norm.weight", 256), UnsupportedError, "blk.2.attn_norm.weight"),
        (extra("output.weight", 500, 256), CheckpointError,
         'Its tensor "output.weight" has the shape [500, 256], and the metadata needs [512, 256]'),
        (lambda w: w.add_uint32("minicpm.expert_count", 4), UnsupportedError, "expert_count = 4"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, change: Change, kind: type[ArkError], words: str
) -> None:
    file = tmp_path / "m.gguf"
    with open_checkpoint(folders["minicpm"]) as original:
        convert(original, file, plain(np.float16, 1), pre="gpt-2", more=change)
    with pytest.raises(kind) as caught:
        open_checkpoint(file)
    assert words in str(caught.value)


def test_a_number_that_no_model_has_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "m.gguf", plain(np.float16, 1), pre="gpt-2")
    content = bytearray(file.read_bytes())
    at = content.index(key := b"rms_epsilon") + len(key) + 4
    content[at : at + 4] = bytes(4)
    file.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(file)
    assert str(caught.value) == (
        'The metadata of m.gguf has an impossible "rms_norm_eps". 0.0 is not a positive number. '
        "Restore the metadata of the checkpoint."
    )


def test_a_vector_in_blocks_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    norm = random_rows(PACKED[kind], 1, 256, seed=0)[0]

    def change(writer: gguf.GGUFWriter) -> None:
        without("output_norm.weight")(writer)
        gguf.GGUFWriter.add_tensor(writer, "output_norm.weight", norm, raw_dtype=kind)

    store = plain(np.float16, 1)
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "m.gguf", store, pre="gpt-2", more=change)
    with pytest.raises(CheckpointError, match=r'^m\.gguf.* "output_norm\.weight" is a vector'):
        open_checkpoint(file)


def test_a_file_without_a_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "m.gguf", plain(np.float16, 1), pre="")
    with pytest.raises(UnsupportedError, match="The GGUF file has no tokenizer"):
        open_checkpoint(file)


def test_a_file_that_was_cut_off_while_it_is_read(folders: dict[str, Path], tmp_path: Path) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        file = convert(original, tmp_path / "m.gguf", plain(np.float16, 1), pre="gpt-2")
    with open_checkpoint(file) as found:
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size // 2)
        with pytest.raises(CheckpointError, match=r"m\.gguf is cut off"):
            [found.read(name) for name in found.names()]


BUILDS = [(kind, "reference", "fp32") for kind in PACKED]
BUILDS += [(k, "onnxruntime", each) for k in (2, 8, 35) for each in ("int8", "fp32")]
QUICK = {(12, "reference", "fp32"), (2, "onnxruntime", "int8"), (35, "onnxruntime", "fp32")}


@pytest.mark.parametrize(
    ("kind", "backend", "activations"),
    [
        pytest.param(
            *each,
            id=f"{type_name(each[0])}-{each[1]}-{each[2]}",
            marks=[] if each in QUICK else [pytest.mark.slow],
        )
        for each in BUILDS
    ],
)
def test_what_is_built_answers_as_the_dequantized_model(
    folders: dict[str, Path], tmp_path: Path, kind: int, backend: str, activations: str
) -> None:
    with open_checkpoint(folders["minicpm"]) as original:
        store = Numbers(original.config, kind)
        file = convert(original, tmp_path / "m.gguf", store, pre="gpt-2")
        for name in original.names():
            store.dense.setdefault(name, original.read(name).astype(np.float32))
        model = torch_model(original.config, store, context=64)
    report = arkinfer.build(
        file, output=tmp_path / "m.ark", backend=backend, context=64, activations=activations
    )
    scheme = TYPES[kind].scheme
    assert scheme is not None
    assert set(report.schemes) == {scheme.name}
    ids = np.random.default_rng(kind).integers(3, 500, 24)
    expected, _ = torch_step(model, ids)
    with arkinfer.load(tmp_path / "m.ark", threads=1) as engine:
        found = engine.logits(ids.tolist())
    most = 2e-3 if activations == "fp32" else TOLERANCES[backend].quantized
    assert np.abs(found - expected).max() <= most * np.abs(expected).max()


def test_names(folders: dict[str, Path]) -> None:
    from arkinfer.frontend.gguf import tensors

    with open_checkpoint(folders["llama"]) as original:
        assert isinstance(original, Checkpoint)
        for name in original.names():
            assert tensors.gguf_name(name) == gguf_name(name)
            assert tensors.hugging_face_name(gguf_name(name)) == name
    assert tensors.hugging_face_name("blk.0.attn_q.bias") is None
