"""llama.cpp by the C interface that llama-cpp-python has. Knows no measurement."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Any

import numpy as np

from arkinfer.bench.worker import FIRST
from arkinfer.errors import DeviceError
from benchmarks.gguf_file import write_gguf
from benchmarks.peers import KEPT, PROBE, Form, serve_peer, token_ids

PACKAGE = "llama_cpp"
INSTALL = "llama-cpp-python gguf safetensors torch"
FORMS = {
    "llamacpp-q4_0": Form(
        "int4", "Q4_0, int4 in blocks of 32 (4.5 bits), head too, f16 caches", {"type": "Q4_0"}
    ),
    "llamacpp-tq2_0": Form(
        "ternary", "TQ2_0, ternary in blocks of 256, Q4_0 head, f16 caches", {"type": "TQ2_0"}
    ),
}
CHUNK = 512  # tokens of one batch, as its own tools have it


def prepare(checkpoint: Path, folder: Path, options: dict[str, Any]) -> Path:
    """Writes the GGUF file once."""
    return write_gguf(checkpoint, folder / f"{options['type'].lower()}.gguf", options["type"])


class LlamaCpp:
    """A model and a context of one sequence."""

    def __init__(self, path: Path, threads: int, capacity: int, seed: int) -> None:
        import llama_cpp as llama

        self._llama = llama
        llama.llama_backend_init()
        model_parameters = llama.llama_model_default_params()
        model_parameters.n_gpu_layers = 0
        self._model = llama.llama_model_load_from_file(str(path).encode(), model_parameters)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = capacity + FIRST
        parameters.n_batch = parameters.n_ubatch = CHUNK
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.n_seq_max = 1
        self._context = self._model and llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise DeviceError("llama.cpp cannot load the model", str(path), "Remove the file")
        self._memory = llama.llama_get_memory(self._context)
        vocabulary = llama.llama_model_get_vocab(self._model)
        self._vocabulary = int(llama.llama_vocab_n_tokens(vocabulary))
        self._ids = (ctypes.c_int32 * (capacity + FIRST))(
            *token_ids(self._vocabulary, capacity + FIRST, seed)
        )
        self._length = 0

    def seek(self, depth: int) -> None:
        if self._length > depth:
            self._llama.llama_memory_seq_rm(self._memory, 0, depth, -1)
            self._length = depth
        self.prefill(depth - self._length)

    def prefill(self, count: int) -> None:
        for start in range(0, count, CHUNK):
            self._append(min(CHUNK, count - start))

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._append(1)

    def probe(self) -> list[float]:
        """Logits after the first tokens."""
        self.seek(0)
        self._append(PROBE)
        row = self._llama.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(row, (self._vocabulary,))[:KEPT].tolist()

    def _append(self, count: int) -> None:
        """Only the last token's logits are computed."""
        begin = ctypes.byref(self._ids, self._length * ctypes.sizeof(ctypes.c_int32))
        tokens = ctypes.cast(begin, ctypes.POINTER(ctypes.c_int32))
        code = self._llama.llama_decode(
            self._context, self._llama.llama_batch_get_one(tokens, count)
        )
        self._llama.llama_synchronize(self._context)
        if code:
            raise DeviceError(f"llama.cpp failed with code {code}", f"at {self._length} tokens",
                              "Give shorter lengths and depths")  # fmt: skip
        self._length += count


def open_engine(given: dict[str, Any]) -> tuple[LlamaCpp, dict[str, Any]]:
    began = time.perf_counter()
    engine = LlamaCpp(Path(given["path"]), given["threads"], given["capacity"], given["seed"])
    loaded = time.perf_counter() - began
    engine.prefill(min(FIRST, given["capacity"]))
    return engine, {"load_seconds": loaded, "filled": "prefilled", "logits": engine.probe()}


if __name__ == "__main__":
    serve_peer(prepare, open_engine)
