"""Peers: who runs where, what is said of those that are missing, and what llama-bench says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.bench.cases import Case
from arkinfer.bench.process import Worker
from arkinfer.errors import DeviceError, UsageError
from arkinfer.testing import make_checkpoint, preset
from benchmarks import peers
from benchmarks.gguf_file import write_gguf
from benchmarks.peers import llama_bench
from tests.benchmarks import fake_peer

SAMPLES = Path(__file__).with_name("samples")
"""What the program of ik_llama.cpp at 8337e4c printed, unchanged; it ran the 0.5B shape."""


def test_every_peer_says_what_it_is():
    assert peers.names() == ["genai", "llamacpp-q4_0", "llamacpp-tq2_0", "openvino",
                             "openvino-kv-bf16", "torch-eager"]  # fmt: skip
    for module in [*peers.modules(), llama_bench]:
        assert module.PACKAGE
        assert module.INSTALL
        assert callable(module.prepare)
        assert module.__name__.startswith("benchmarks.peers.")


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peers, "python_with", lambda package: None)
    said: list[str] = []
    assert peers.chosen(None, said.append) == []
    assert said[0] == (
        'genai is skipped: "onnxruntime_genai" is not installed; pip install onnxruntime-genai '
        "onnx-ir transformers torch, or all peers beside ours: make peers"
    )
    assert len(said) == len(peers.names())
    with pytest.raises(UsageError) as caught:
        peers.chosen(["openvino"], said.append)
    assert str(caught.value) == (
        'The peer "openvino" cannot run. The Python package "openvino" is not installed. Install '
        "it: pip install openvino nncf safetensors torch, or all peers beside ours: make peers."
    )


def test_the_first_python_that_has_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """That of `make peers` where it has it, else ours."""
    beside = tmp_path / "bin" / "python"
    beside.parent.mkdir()
    beside.write_text('#!/bin/sh\n[ "$3" = only_there ]\n')
    beside.chmod(0o755)
    monkeypatch.setattr(peers, "VENV", tmp_path)
    peers.python_with.cache_clear()
    assert peers.python_with("only_there") == beside
    assert peers.python_with("numpy") == Path(sys.executable)
    assert peers.python_with("no_such_package") is None
    peers.python_with.cache_clear()


def test_a_peers_process_finds_no_package_of_ours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert peers.environment()["PYTHONPATH"] == str(peers.ROOT)


def test_a_model_that_cannot_be_made(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho first >&2\necho 'No module named onnx_ir' >&2\nexit 1\n")
    python.chmod(0o755)
    peer = peers.Peer("fake", fake_peer, fake_peer.FORMS["fake"], python)
    with pytest.raises(DeviceError) as caught:
        peer.prepare(tmp_path, tmp_path)
    assert str(caught.value) == (
        'The model for the peer "fake" could not be made. No module named onnx_ir. It needs: pip '
        "install numpy, or all peers beside ours: make peers."
    )


def test_what_tools_print_does_not_hide_the_model(tmp_path: Path):
    peer = peers.Peer("fake", fake_peer, fake_peer.FORMS["fake"], Path(sys.executable))
    assert peer.prepare(tmp_path, tmp_path) == tmp_path / "fake"


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_what_llama_bench_says(path: Path):
    """Seconds are those that it prints as tokens per second, too."""
    _, kind, *rest = path.stem.split("_")
    tokens = int(rest[-1]) if kind == "prefill" else 8
    text = path.read_text()
    seconds = llama_bench.seconds_of(text, kind, tokens)
    (found,) = json.loads(text)
    assert tokens / seconds == pytest.approx(found["avg_ts"], rel=1e-4)
    with pytest.raises(DeviceError, match=f"{tokens} tokens, not 99"):
        llama_bench.seconds_of(text, kind, 99)


@pytest.mark.parametrize("text", ["", "[\n", "[]", "[{}]", "main: error: failed to load model"])
def test_what_llama_bench_should_not_say(text: str):
    with pytest.raises(DeviceError, match=r"What llama-bench says cannot be read\. It says: "):
        llama_bench.seconds_of(text, "decode", 8)


def test_commands_of_both_kinds():
    def words(depth: int, has_depth: bool, kind: str = "decode") -> str:
        made = llama_bench.command("bench", "m.gguf", 2, has_depth, kind, depth, 8)
        return " ".join(made).removeprefix("bench -m m.gguf -t 2 -r 1 -o json ")

    assert words(0, True) == words(0, False) == "-p 0 -n 8"
    assert words(32, True) == "-p 0 -n 8 -d 32"
    assert words(32, False) == "-p 0 -n 0 -gp 32,8"
    assert words(0, False, "prefill") == "-p 8 -n 0"


def program(folder: Path, script: str) -> Path:
    path = folder / "llama-bench"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_program_as_an_engine(tmp_path: Path):
    """It prints what the real one printed; that counts, not how long it takes to start."""
    said = f'case "$*" in *--help*) ;; *"-p 32"*) cat {SAMPLES}/ik_prefill_32.json;; '
    said += f"*-gp*) cat {SAMPLES}/ik_decode_at_32.json;; *) echo 'no model' >&2; exit 1;; esac"
    (peer,) = llama_bench.peers_of(program(tmp_path, said), ["IQ2_BN_R4"], Path(sys.executable))
    assert (peer.name, peer.form.weights) == ("llama-bench-iq2_bn_r4", "ternary")
    command = peer.command(tmp_path / "m.gguf", 2, 64)
    with Worker(peer.name, command, peers.environment()) as worker:
        assert worker.ready()["filled"] == "prefilled in every sample"
        (sample,) = json.loads((SAMPLES / "ik_decode_at_32.json").read_text())
        assert worker.seconds(Case("decode", 32, 8)) == sample["samples_ns"][0] / 1e9
        assert worker.memory()["peak"] > 1 << 18
        with pytest.raises(DeviceError, match=r"llama-bench failed\. no model\. Give shorter"):
            worker.seconds(Case("decode", 0, 8))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "checkpoint"
    raw = preset("tiny", architectures=["LlamaForCausalLM"], rope_scaling=None)
    for key in ("scale_emb", "scale_depth", "dim_model_base"):
        raw.pop(key, None)
    make_checkpoint({**raw, "tie_word_embeddings": True}, seed=0, path=path)
    config = json.loads((path / "config.json").read_text()) | {"rope_theta": 10000.0}
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(("kind", "head"), [("TQ2_0", "Q4_0"), ("Q4_0", "Q4_0"), ("BF16", "BF16")])
def test_a_gguf_file(checkpoint: Path, tmp_path: Path, kind: str, head: str):
    import gguf

    path = write_gguf(checkpoint, tmp_path / "m.gguf", kind)
    made = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(made) == 2 + 2 * 9
    assert made["blk.1.ffn_down.weight"].tensor_type.name == kind
    assert made["token_embd.weight"].tensor_type.name == head
    assert made["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert list(tmp_path.iterdir()) == [path]


def test_rotary_pairs_are_neighbours(checkpoint: Path, tmp_path: Path):
    """llama.cpp turns rows 2 i and 2 i + 1 of a head, where checkpoints have i and i + half."""
    import gguf
    from safetensors import safe_open

    path = write_gguf(checkpoint, tmp_path / "m.gguf", "BF16")
    made = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    with safe_open(next(checkpoint.glob("*.safetensors")), "pt") as tensors:
        for name, own, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 1)):
            before = tensors.get_tensor(f"model.layers.0.self_attn.{name}.weight").float().numpy()
            size = len(before) // heads
            halves = np.arange(len(before)).reshape(heads, 2, size // 2)
            order = [halves[h, half, i] for h in range(heads) for i in range(size // 2)
                     for half in (0, 1)]  # fmt: skip
            kind = gguf.GGMLQuantizationType.BF16
            found: Any = gguf.quants.dequantize(made[f"blk.0.{own}.weight"], kind)
            np.testing.assert_array_equal(found.reshape(before.shape), before[order])


def test_types_that_only_the_engines_tools_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the `llama-quantize` beside the program, from BF16, with head and embedding in Q4_0."""
    tool = tmp_path / "llama-quantize"
    tool.write_text('#!/bin/sh\n[ "$7" = BAD ] && { echo "no such type" >&2; exit 1; }\n'
                    'echo "$*" > "$6"\n')  # fmt: skip
    tool.chmod(0o755)
    monkeypatch.setattr(llama_bench, "write_gguf", lambda checkpoint, path, kind: path)
    options = {"binary": str(tmp_path / "llama-bench"), "type": "IQ2_BN_R4"}
    made = llama_bench.prepare(Path("c"), tmp_path, options)
    assert made.read_text().split() == [
        "--token-embedding-type", "q4_0", "--output-tensor-type", "q4_0",
        f"{tmp_path}/c-bf16.gguf", f"{tmp_path}/iq2_bn_r4.part", "IQ2_BN_R4",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match=r"llama-quantize does not make BAD: no such type"):
        llama_bench.prepare(Path("c"), tmp_path, options | {"type": "BAD"})


def test_a_tool_that_is_not_there(tmp_path: Path):
    options = {"binary": str(tmp_path / "llama-bench"), "type": "IQ2_BN"}
    given = {"checkpoint": "c", "folder": str(tmp_path), "options": options}
    command = [sys.executable, "-m", "benchmarks.peers.llama_bench", "prepare", json.dumps(given)]
    done = subprocess.run(command, env=peers.environment(), capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"There is no program {tmp_path}/llama-quantize, which makes IQ2_BN")
