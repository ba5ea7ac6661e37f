"""PyTorch as a checkpoint's authors run it: transformers, eager, nothing compiled or quantized."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from arkinfer.bench.worker import FIRST
from benchmarks.peers import KEPT, PROBE, Form, serve_peer, token_ids

PACKAGE = "transformers"
INSTALL = "transformers torch"
FORMS = {"torch-eager": Form("bf16", "the checkpoint's own bf16 weights, nothing quantized")}
CHUNK = 512


def prepare(checkpoint: Path, folder: Path, options: dict[str, Any]) -> Path:
    """It reads the checkpoint as it is."""
    return checkpoint


class TorchEager:
    """A model and its cache."""

    def __init__(self, path: Path, threads: int, capacity: int, seed: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache

        torch.set_num_threads(threads)
        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        self._empty = lambda: DynamicCache(config=self._model.config)
        self._cache = self._empty()
        self._ids = torch.tensor([token_ids(self._model.config.vocab_size, capacity, seed)])

    def seek(self, depth: int) -> None:
        length = self._cache.get_seq_length()
        if length > depth:
            if depth:
                self._cache.crop(depth - length)
            else:  # crop keeps an empty cache of another shape
                self._cache = self._empty()
        for start in range(min(length, depth), depth, CHUNK):
            self._append(start, min(start + CHUNK, depth))

    def prefill(self, count: int) -> None:
        start = self._cache.get_seq_length()
        self._append(start, start + count)

    def decode(self, count: int) -> None:
        start = self._cache.get_seq_length()
        for index in range(start, start + count):
            self._append(index, index + 1)

    def probe(self) -> list[float]:
        """Logits after the first tokens."""
        self.seek(0)
        return self._append(0, PROBE)[0, -1, :KEPT].float().tolist()

    def _append(self, start: int, stop: int) -> Any:
        """Tokens [start, stop) in one call; logits of the last one, [1, 1, vocab]."""
        with self._torch.inference_mode():
            output = self._model(
                self._ids[:, start:stop], past_key_values=self._cache, logits_to_keep=1
            )
        return output.logits


def open_engine(given: dict[str, Any]) -> tuple[TorchEager, dict[str, Any]]:
    began = time.perf_counter()
    engine = TorchEager(Path(given["path"]), given["threads"], given["capacity"], given["seed"])
    loaded = time.perf_counter() - began
    engine.prefill(min(FIRST, given["capacity"]))
    return engine, {"load_seconds": loaded, "filled": "prefilled", "logits": engine.probe()}


if __name__ == "__main__":
    serve_peer(prepare, open_engine)
