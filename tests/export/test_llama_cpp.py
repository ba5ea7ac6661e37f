"""What we export runs in llama.cpp, and answers there as the same weights do here.

Needs `llama_cpp` in this Python, in the one that the environment variable
ARKINFER_LLAMA_CPP_PYTHON names, or in that of `make llama-cpp`; skipped without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arkinfer.compiler.calibration.text import TextOptions
from arkinfer.compiler.export import export
from arkinfer.frontend.checkpoint import Checkpoint, open_checkpoint
from arkinfer.frontend.gguf.file import read_header
from arkinfer.frontend.gguf.tokenizer import tokenizer_json
from arkinfer.frontend.gguf.vocabulary import read_vocabulary
from arkinfer.frontend.hub import demo_checkpoint
from arkinfer.runtime.tokenizer_file import load
from arkinfer.testing import make_checkpoint, preset
from arkinfer.testing.torch_model import torch_model, torch_step
from tests.frontend.gguf.pieces import TEXT, spm_metadata

MADE = Path(__file__).parents[2] / ".venv-llama"
PYTHON = (
    os.environ.get("ARKINFER_LLAMA_CPP_PYTHON")
    or (sys.executable if find_spec("llama_cpp") else "")
    or (str(MADE / "bin" / "python") if (MADE / ".installed").exists() else "")
)
PEER = Path(__file__).with_name("llama_cpp_peer.py")
TEXTS = ["Hello, world!", "don't 1234 3.14", "中文，標點。🙂👩‍👩‍👧", "  a\n\n\tb  ",
         "<|im_start|>user\nx", "aaaaa banana the others", TEXT]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON, reason="llama.cpp is not here")]


def llama_cpp(
    file: Path, ids: list[list[int]], quantize: int | None = None
) -> tuple[list[np.ndarray], list[list[int]]]:
    """Logits after every token of each sequence, and the tokens of `TEXTS`."""
    request, answer = file.with_suffix(".json"), file.with_suffix(".npz")
    request.write_text(json.dumps({"ids": ids, "texts": TEXTS, "threads": 1, "quantize": quantize}))
    subprocess.run([PYTHON, PEER, file, request, answer], check=True, capture_output=True)
    with np.load(answer) as found:
        logits = [found[f"logits{number}"] for number in range(len(ids))]
        return logits, json.loads(str(found["texts"]))


def here(checkpoint: Checkpoint, ids: list[list[int]]) -> list[np.ndarray]:
    """What the same weights answer in our torch module."""
    model = torch_model(checkpoint.config, checkpoint, context=512)
    return [torch_step(model, np.array(each))[0] for each in ids]


def equal_top_1(checkpoint: Checkpoint, file: Path, ids: list[list[int]]) -> float:
    """Of all positions, where both choose the same token; there must be many different ones."""
    ours, (theirs, _) = here(checkpoint, ids), llama_cpp(file, ids)
    assert len(np.unique(np.concatenate([each.argmax(-1) for each in ours]))) > 20
    same = [a.argmax(-1) == b.argmax(-1) for a, b in zip(ours, theirs, strict=True)]
    return float(np.concatenate(same).mean())


def divergence(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The mean KL divergence of our next tokens from theirs, in nats."""
    logs = [torch.log_softmax(torch.from_numpy(np.concatenate(x)), -1) for x in (ours, theirs)]
    return float((logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean())


@pytest.fixture(scope="module")
def windows() -> list[list[int]]:
    """The beginning of the demo model's held-out text, in sequences of 256."""
    folder = demo_checkpoint()
    tokenizer = load((folder / "tokenizer.json").read_bytes())
    text = (folder.parent / "heldout.txt").read_text()[:12_000]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [[1, *ids[start : start + 255]] for start in range(0, 2040, 255)]


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with linears of {-s, 0, s} by the row: nonsense, but a ternary checkpoint."""
    folder = tmp_path_factory.mktemp("ternary") / "demo"
    shutil.copytree(demo_checkpoint(), folder)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if "_proj." in name:
            wide = tensor.float()
            scale = wide.abs().mean(1, keepdim=True).bfloat16().float()  # 0 of a row of zeros
            trits = (wide / scale.clamp_min(1e-9)).round().clamp(-1, 1)
            tensors[name] = (trits * scale).bfloat16()
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("type", ["f16", "q8_0", "q4_0", "tq2_0"])
def test_the_demo_model_answers_alike(
    windows: list[list[int]], ternary: Path, tmp_path: Path, type: str
) -> None:
    source = ternary if type == "tq2_0" else demo_checkpoint()
    report = export(source, "gguf", tmp_path / "m.gguf", type=type)
    with open_checkpoint(report.path) as checkpoint:
        share = equal_top_1(checkpoint, report.path, windows)
    print(f"{type}: {share:.2%} of {sum(map(len, windows)):,} positions")
    assert share >= 0.98


@pytest.mark.parametrize("quant", ["int4-g32", "int4-spgptq-g32"])
def test_a_quantized_model_answers_alike(
    windows: list[list[int]], tmp_path: Path, quant: str
) -> None:
    """The codes of int4-g32 are those of Q4_0; a calibrated model has other norms, too."""
    text = TextOptions(samples=4) if quant != "int4-g32" else None
    report = export(None, "gguf", tmp_path / "m.gguf", quant=quant, calib=text)
    assert report.schemes == {"f16": 1, "q4_0": 56}
    with open_checkpoint(report.path) as checkpoint:
        share = equal_top_1(checkpoint, report.path, windows[:4])
    assert share >= 0.98


@pytest.mark.parametrize(
    ("kind", "schemes"),
    [
        (3, {"int4-g32-min", "int6-g16"}), (9, {"int5-g32-min", "int6-g16"}),
        (15, {"int4-g32-min", "int6-g16"}), (17, {"int5-g32-min", "int6-g16"}), (18, {"int6-g16"}),
        (36, {"int2-g256", "int4-g32-min", "int6-g16"}),
    ],
    ids=["q4_1", "q5_1", "q4_k_m", "q5_k_m", "q6_k", "tq1_0"],
)  # fmt: skip
def test_what_llama_cpp_quantized_answers_alike_here(
    windows: list[list[int]], tmp_path: Path, kind: int, schemes: set[str]
) -> None:
    """Types that we do not write, in files that llama.cpp made."""
    report = export(None, "gguf", tmp_path / "m.gguf", type="f16")
    theirs, _ = llama_cpp(report.path, windows[:4], quantize=kind)
    with open_checkpoint(tmp_path / "m.gguf.quantized.gguf") as checkpoint:
        assert {scheme.name for scheme in checkpoint.schemes().values()} <= schemes
        found = divergence(here(checkpoint, windows[:4]), theirs)
    print(f"file type {kind}: KL {found:.2g}")
    assert found < 0.01  # from llama.cpp's activations, which have 8 bits


def test_a_llama_answers_alike(tmp_path: Path) -> None:
    """No scales, several heads of keys, a head of its own, and another base of the angles."""
    changes = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False, "head_dim": 32,
               "rope_scaling": None, "rope_theta": 500_000.0, "num_key_value_heads": 2}  # fmt: skip
    folder = make_checkpoint(preset("tiny", **changes), 5, tmp_path / "llama")
    report = export(folder, "gguf", tmp_path / "m.gguf", type="f16")
    ids = [np.random.default_rng(0).integers(5, 500, 64).tolist() for _ in range(4)]
    with open_checkpoint(report.path) as checkpoint:
        assert equal_top_1(checkpoint, report.path, ids) >= 0.98


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_texts_are_split_alike(tmp_path: Path, kind: str) -> None:
    """By byte-level BPE, and by a SentencePiece vocabulary whose scores follow from merges."""
    source, tokenizer_file = demo_checkpoint(), (demo_checkpoint() / "tokenizer.json").read_bytes()
    if kind == "llama":
        tokenizer_file = json.dumps(tokenizer_json(read_vocabulary(spm_metadata()))).encode()
        source = make_checkpoint(preset("tiny", vocab_size=800), 0, tmp_path / "spm",
                                 tokenizer=tokenizer_file)  # fmt: skip
    report = export(source, "gguf", tmp_path / "m.gguf", type="q8_0")
    assert report.notes == ()
    assert read_header(report.path).metadata["tokenizer.ggml.model"] == kind
    tokenizer = load(tokenizer_file)
    _, found = llama_cpp(report.path, [[1]])
    assert found == [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
