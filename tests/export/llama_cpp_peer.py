"""Runs a GGUF file in llama.cpp: logits after every token, and how it splits texts.

A script for another Python, which has `llama_cpp` and numpy and need not have arkinfer:
`python llama_cpp_peer.py MODEL.gguf REQUEST.json ANSWER.npz`. The request has "ids" (lists of token
ids, each a sequence of its own), "texts", "threads" and "quantize": null, or the number of a file
type, to which llama.cpp quantizes the model first, into MODEL.gguf.quantized.gguf. The answer has
`logits0`, `logits1`, … (float32 [tokens, vocabulary]) and `texts`, the ids of each text as JSON.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import numpy as np


def main(model: str, request: str, answer: str) -> None:
    import llama_cpp

    wanted = json.loads(Path(request).read_text())
    if wanted["quantize"] is not None:
        model = quantized(model, wanted["quantize"])
    longest = max([8, *map(len, wanted["ids"])])
    llama = llama_cpp.Llama(
        model, n_ctx=longest, n_batch=longest, n_ubatch=longest, logits_all=True, verbose=False,
        n_threads=wanted["threads"], n_threads_batch=wanted["threads"],
    )  # fmt: skip
    found: dict[str, np.ndarray] = {}
    for number, ids in enumerate(wanted["ids"]):
        llama.reset()
        llama.eval(ids)
        found[f"logits{number}"] = np.array(llama.scores[: len(ids)], np.float32)
    split = [llama.tokenize(text.encode(), add_bos=False, special=True) for text in wanted["texts"]]
    np.savez(answer, texts=np.array(json.dumps(split)), **found)


def quantized(model: str, kind: int) -> str:
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = kind, 1
    target = f"{model}.quantized.gguf"
    failed = llama_cpp.llama_model_quantize(model.encode(), target.encode(), ctypes.byref(options))
    if failed:
        raise SystemExit(f"llama.cpp could not quantize to {kind}")
    return target


if __name__ == "__main__":
    main(*sys.argv[1:])
