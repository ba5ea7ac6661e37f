"""A GGUF file: its metadata, its config and tokenizer, its table and every block of its tensors."""

from __future__ import annotations

import numpy as np

from arkinfer.errors import ArtifactError, CheckpointError, UnsupportedError
from arkinfer.export.gguf.writer import Tensor, Value, write_gguf
from arkinfer.frontend.checkpoint import open_checkpoint
from arkinfer.frontend.gguf.blocks import TYPES
from arkinfer.runtime.tokenizer_file import load
from fuzz.files import file, folder, refusing

DICTIONARY = ["GGUF", "general.architecture", "general.alignment", "minicpm", "llama", "gpt2",
              "minicpm.block_count", "llama.rope.scaling.type", "longrope", "split.count",
              "rope_freqs.weight", "rope_factors_long.weight", "tokenizer.ggml.tokens",
              "tokenizer.ggml.scores", "tokenizer.ggml.merges", "tokenizer.ggml.pre",
              "tokenizer.chat_template", "blk.0.attn_q.weight", "output.weight"]  # fmt: skip
LENGTH = 12288


def seeds() -> list[bytes]:
    """Whole models of one layer: of blocks with SentencePiece, and of plain numbers with BPE."""
    pieces = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "▁a", "aa"]
    spm: dict[str, Value] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": -np.arange(8, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 6, 1, 1, 1, 1], np.int32),
    }
    letters = ["<s>", "a", "b", "ab", "Ġ", "Ġab", "</s>", "Ċ"]
    bpe: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.merges": ["a b", "Ġ ab"],
        "tokenizer.ggml.token_type": np.array([3, 1, 1, 1, 1, 1, 3, 1], np.int32),
        "tokenizer.ggml.eos_token_id": np.uint32(6),
        "tokenizer.chat_template": "{{ messages[0]['content'] }}</s>",
    }
    return [
        _model("minicpm", 32, (2, 3, 6, 7, 8), spm, pieces),
        _model("minicpm", 256, (12, 13, 14, 34, 35), spm, pieces),
        _model("llama", 8, (0, 1, 30), bpe, letters),
    ]


def one(data: bytes) -> None:
    with (
        refusing(ArtifactError, CheckpointError, UnsupportedError),
        open_checkpoint(file("m.gguf", data)) as checkpoint,
    ):
        load(checkpoint.tokenizer_json)
        checkpoint.source_digest()
        for name in checkpoint.names():
            checkpoint.read(name)


def _model(
    architecture: str, width: int, kinds: tuple[int, ...], keys: dict[str, Value], tokens: list[str]
) -> bytes:
    """One layer with one head of two numbers; its matrices take turns in the types."""
    shape: dict[str, Value] = {
        "block_count": np.uint32(1), "embedding_length": np.uint32(width),
        "feed_forward_length": np.uint32(2), "context_length": np.uint32(64),
        "attention.head_count": np.uint32(1), "attention.key_length": np.uint32(2),
        "attention.value_length": np.uint32(2),
        "attention.layer_norm_rms_epsilon": np.float32(1e-5),
    }  # fmt: skip
    metadata = {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in shape.items()},
        "tokenizer.ggml.tokens": tokens,
        **keys,
    }
    vectors = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    tensors = [_tensor(name, (width,), 0) for name in vectors]
    wide = {"token_embd": 8, "blk.0.attn_q": 2, "blk.0.attn_k": 2, "blk.0.attn_v": 2,
            "blk.0.ffn_gate": 2, "blk.0.ffn_up": 2}  # fmt: skip
    for number, (name, rows) in enumerate(wide.items()):
        tensors.append(_tensor(name, (rows, width), kinds[number % len(kinds)]))
    for name in ("blk.0.attn_output", "blk.0.ffn_down"):
        tensors.append(_tensor(name, (width, 2), 1))
    path = folder() / "seed.gguf"
    write_gguf(path, metadata, tensors)
    return path.read_bytes()


def _tensor(name: str, shape: tuple[int, ...], kind: int) -> Tensor:
    """A tensor of zeros, which every type has."""
    elements = int(np.prod(shape)) // TYPES[kind].elements
    nbytes = elements * TYPES[kind].nbytes
    return Tensor(f"{name}.weight", shape, kind, nbytes, lambda: [np.zeros(nbytes, np.uint8)])
