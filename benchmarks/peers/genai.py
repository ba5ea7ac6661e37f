"""onnxruntime-genai on the model that its own builder makes. Knows no measurement."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.bench.worker import FIRST
from benchmarks.peers import KEPT, PROBE, Form, serve_peer, token_ids

PACKAGE = "onnxruntime_genai"
INSTALL = "onnxruntime-genai onnx-ir transformers torch"
FORMS = {
    "genai": Form("int4", "int4 in blocks of 128, head and embedding too, accuracy level 4"),
}
CHUNK = 512  # tokens that are appended at once while seeking


def prepare(checkpoint: Path, folder: Path, options: dict[str, Any]) -> Path:
    """Its builder reads the checkpoint; nothing is downloaded."""
    path = folder / "genai"
    if not (path / "genai_config.json").exists():
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        command += ["-i", str(checkpoint), "-o", str(path), "-p", "int4", "-e", "cpu"]
        command += ["-c", str(folder / "cache"), "--extra_options", "block_size=128"]
        subprocess.run([*command, "accuracy_level=4"], check=True, stdout=sys.stderr)
    return path


class GenAi:
    """One generator, fed with tokens of our choice."""

    def __init__(self, path: Path, threads: int, capacity: int, seed: int) -> None:
        import onnxruntime_genai as og

        config = json.loads((path / "genai_config.json").read_text())
        session = {"intra_op_num_threads": threads}
        overlay = {"model": {"decoder": {"session_options": session}}}
        settings = og.Config(str(path))
        settings.overlay(json.dumps(overlay))
        self._model = og.Model(settings)
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=capacity + FIRST, do_sample=False)
        self._generator = og.Generator(self._model, parameters)
        self._ids = np.array(token_ids(config["model"]["vocab_size"], capacity, seed), np.int32)

    def seek(self, depth: int) -> None:
        if self._generator.token_count() > depth:
            self._generator.rewind_to(depth)
        while self._generator.token_count() < depth:
            self.prefill(min(CHUNK, depth - self._generator.token_count()))

    def prefill(self, count: int) -> None:
        start = self._generator.token_count()
        self._generator.append_tokens(self._ids[start : start + count])

    def decode(self, count: int) -> None:
        """One call of the model per token, each with the token of our choice."""
        start = self._generator.token_count()
        for index in range(start, start + count):
            self._generator.append_tokens(self._ids[index : index + 1])

    def probe(self) -> list[float]:
        """Logits after the first tokens."""
        self.seek(0)
        self.prefill(PROBE)
        logits = self._generator.get_output("logits")
        return logits.reshape(-1, logits.shape[-1])[-1][:KEPT].tolist()


def open_engine(given: dict[str, Any]) -> tuple[GenAi, dict[str, Any]]:
    began = time.perf_counter()
    engine = GenAi(Path(given["path"]), given["threads"], given["capacity"], given["seed"])
    loaded = time.perf_counter() - began
    engine.prefill(min(FIRST, given["capacity"]))
    return engine, {"load_seconds": loaded, "filled": "prefilled", "logits": engine.probe()}


if __name__ == "__main__":
    serve_peer(prepare, open_engine)
