"""llama.cpp by xllamacpp, its wheel with a server inside. Knows no measurement.

The checkpoint is written as GGUF, with matrices in Q4_0 (blocks of 32, 4.5 bits), as llama.cpp
calls its usual four bits. Vocabulary and merges are made up: only token ids are sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.bench.worker import FIRST, serve
from benchmarks.peers import options, token_ids

PACKAGE = "xllamacpp"
HOW = "Q4_0, which is int4 in blocks of 32 with 4.5 bits a weight, float16 caches"

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def prepare(checkpoint: Path, folder: Path) -> Path:
    """Writes the GGUF file once."""
    path = folder / "model.gguf"
    if path.exists():
        return path
    import gguf

    config = json.loads((checkpoint / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    partial = path.with_suffix(".part")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    size = config["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{index}" for index in range(size)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types([1] * size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kind = gguf.GGMLQuantizationType.Q4_0
    for name, array in _tensors(checkpoint, heads, kv_heads):
        data = gguf.quants.quantize(array, kind) if array.ndim == 2 else array
        writer.add_tensor(name, data, raw_dtype=kind if array.ndim == 2 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
    return path


def _tensors(
    checkpoint: Path, heads: int, kv_heads: int
) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """Names and numbers as llama.cpp has them: rotary pairs of queries and keys are neighbours."""
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                array = tensors.get_tensor(name).float().numpy()
                if name == "model.embed_tokens.weight":
                    yield "token_embd.weight", array
                elif name == "model.norm.weight":
                    yield "output_norm.weight", array
                elif name == "lm_head.weight":
                    yield "output.weight", array
                else:
                    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
                    if part in ("self_attn.q_proj", "self_attn.k_proj"):
                        array = _neighbours(array, heads if "q_proj" in part else kv_heads)
                    yield f"blk.{layer}.{_NAMES[part]}.weight", array


def _neighbours(
    matrix: np.ndarray[Any, np.dtype[np.float32]], heads: int
) -> np.ndarray[Any, np.dtype[np.float32]]:
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


class LlamaCpp:
    """A server of one slot in this process; each request sends all tokens, and it computes those
    that its cache does not have."""

    def __init__(self, path: Path, threads: int, capacity: int, seed: int) -> None:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = capacity + FIRST
        parameters.n_parallel = 1
        parameters.n_gpu_layers = 0
        parameters.warmup = False
        parameters.cpuparams.n_threads = threads
        parameters.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(parameters)
        self._ids = token_ids(_vocabulary(path), capacity + FIRST, seed)
        self._depth = 0

    def seek(self, depth: int) -> None:
        """The last token of a request is always computed; what is cached is kept."""
        """What is cached beyond is dropped by the next request."""
        self._depth = depth
        if depth:
            self._ask(depth, 1)

    def prefill(self, count: int) -> None:
        computed = self._ask(self._depth + count, 1)
        if computed != count:
            raise SystemExit(f"llama.cpp computed {computed} tokens of a prompt, not {count}")

    def decode(self, count: int) -> None:
        """As many rows as tokens: the last cached token is computed again for the first one, and
        the last one is not computed."""
        self._ask(max(self._depth, 1), count)

    def _ask(self, length: int, answer: int) -> int:
        """How many tokens of the prompt were computed."""
        found = self._server.handle_completions(
            {
                "prompt": self._ids[:length],
                "n_predict": answer,
                "cache_prompt": self._depth > 0,
                "ignore_eos": True,
                "temperature": 0.0,
            }
        )
        if "timings" not in found:
            raise SystemExit(f"llama.cpp refuses: {found}")
        return int(found["timings"]["prompt_n"])


def _vocabulary(path: Path) -> int:
    import gguf

    fields = gguf.GGUFReader(path).fields
    return len(fields["tokenizer.ggml.tokens"].data)


def open_engine() -> tuple[LlamaCpp, dict[str, Any]]:
    given = options()
    began = time.perf_counter()
    engine = LlamaCpp(Path(given["path"]), given["threads"], given["capacity"], given["seed"])
    loaded = time.perf_counter() - began
    engine.prefill(min(FIRST, given["capacity"]))
    return engine, {"load_seconds": loaded}


if __name__ == "__main__":
    serve(open_engine)
