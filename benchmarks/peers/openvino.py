"""OpenVINO on a stateful model such as OpenVINO GenAI runs, made here operation by operation.

Its caches are states of the model, so that a depth is reached by filling them with random numbers;
`openvino_genai.LLMPipeline` gives no such access. It runs the same model at the same speed; with
bf16 caches the two were seen to differ by 7 to 16 %. Knows no measurement.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.bench.worker import FIRST
from benchmarks.peers import KEPT, PROBE, Form, serve_peer, token_ids

PACKAGE = "openvino"
INSTALL = "openvino nncf safetensors torch"
_HOW = "int4 in groups of 128, head and embedding too, activations quantized in groups of 128"
FORMS = {
    "openvino": Form("int4", f"{_HOW}, its default caches (8 bits)", {"cache": None}),
    "openvino-kv-bf16": Form("int4", f"{_HOW}, bf16 caches", {"cache": "bf16"}),
}
GROUP = 128


def prepare(checkpoint: Path, folder: Path, options: dict[str, Any]) -> Path:
    """Writes its model once, compressed by its own tool."""
    path = folder / "openvino" / "openvino_model.xml"
    if not path.exists():
        import nncf
        import openvino as ov

        from benchmarks.openvino_graph import llama

        model = nncf.compress_weights(
            llama(checkpoint),
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=GROUP,
            ratio=1.0,
            all_layers=True,
        )
        partial = folder / "openvino.part"
        partial.mkdir(parents=True, exist_ok=True)
        ov.save_model(model, partial / path.name)
        (partial / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
        partial.rename(path.parent)
    return path


class OpenVino:
    """One request, whose states are the caches."""

    def __init__(
        self, path: Path, threads: int, capacity: int, seed: int, cache: str | None
    ) -> None:
        import openvino as ov

        self._ov = ov
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP,
        }
        if cache is not None:
            settings["KV_CACHE_PRECISION"] = cache
        self._request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
        config = json.loads((path.parent / "config.json").read_text())
        heads = config["num_key_value_heads"]
        size = config["hidden_size"] // config["num_attention_heads"]
        self._row = (1, heads, 0, size)
        self._ids = np.array(token_ids(config["vocab_size"], capacity, seed), np.int64)
        self._random = np.random.default_rng(seed)
        self._length = 0

    def seek(self, depth: int) -> None:
        """The last token is computed, so that room for those that follow has been made."""
        self._request.reset_state()
        self._length = 0
        if depth == 0:
            return
        batch, heads, _, size = self._row
        for state in self._request.query_state():
            shape = (batch, heads, depth - 1, size)
            rows = self._random.standard_normal(shape, np.float32)
            state.state = self._ov.Tensor(rows)
        self._length = depth - 1
        self.decode(1)

    def prefill(self, count: int) -> None:
        self._append(count)

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._append(1)

    def probe(self) -> list[float]:
        """Logits after the first tokens."""
        self.seek(0)
        self._append(PROBE)
        return self._request.get_output_tensor(0).data[0, -1, :KEPT].astype(float).tolist()

    def _append(self, count: int) -> None:
        start, stop = self._length, self._length + count
        self._request.infer(
            {
                "input_ids": self._ids[None, start:stop],
                "attention_mask": np.ones((1, stop), np.int64),
                "position_ids": np.arange(start, stop, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            },
            share_outputs=True,
        )
        self._length = stop


def open_engine(given: dict[str, Any]) -> tuple[OpenVino, dict[str, Any]]:
    began = time.perf_counter()
    path, cache = Path(given["path"]), given["cache"]
    engine = OpenVino(path, given["threads"], given["capacity"], given["seed"], cache)
    loaded = time.perf_counter() - began
    engine.prefill(min(FIRST, given["capacity"]))
    return engine, {"load_seconds": loaded, "filled": "random numbers", "logits": engine.probe()}


if __name__ == "__main__":
    serve_peer(prepare, open_engine)
