"""What the machine allows at most, as one more engine: it reads the bytes that a token needs, or
computes the products that a prompt needs, and nothing else.

So ours divided by this is a ratio within a round. Decoding reads every weight once and the cache
once, from huge pages; a prompt multiplies int8 by int8 with the processor's best instruction, in
the linear layers; attention is not counted. Knows no engine.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arkinfer.bench.worker import serve
from arkinfer.errors import DeviceError, ResourceError

SOURCE = Path(__file__).with_suffix(".c")
HOW = "bytes read in order from huge pages; int8 products of the linear layers"
MOST_THREADS = 256
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")


@dataclass(frozen=True)
class Work:
    """What a token costs at least.

    Attributes:
        weights: bytes of weights that are read, head included, for one token.
        cached: bytes of the cache that are read for one token, for each token before it.
        products: int8 products for each token of a prompt, in linear layers.
        head: those for the logits, once.
    """

    weights: int
    cached: int
    products: int
    head: int


def work_of(config: dict[str, Any], weights: str) -> Work:
    """The least work for a model: 16-bit caches, and as weights

    "int4": 4 bits and a 16-bit scale for 128 of them, head too; "ternary": 2 bits, and the head so.
    """
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or hidden // heads
    layers = config["num_hidden_layers"]
    linears = layers * hidden * (2 * heads * size + 2 * kv_heads * size + 3 * wide)
    head = config["vocab_size"] * hidden
    int4 = 4 + 16 / 128
    bits = {"int4": int4, "ternary": 2.0}[weights]
    read = int(linears * bits + head * int4) // 8
    return Work(read, 2 * 2 * layers * kv_heads * size, linears, head)


class Limits:
    """The compiled program, and as much memory as the longest sequence needs."""

    def __init__(self, work: Work, threads: int, capacity: int) -> None:
        self._library = compiled()
        self._work, self._threads, self._depth = work, min(threads, MOST_THREADS), 0
        self._bytes = work.weights + work.cached * capacity
        self._memory = self._library.limit_memory(self._bytes)
        if not self._memory:
            raise ResourceError(f"There is no memory for {self._bytes:,} bytes",
                                fix="Give shorter lengths and depths")  # fmt: skip
        self.dot = self._library.limit_dot_name().decode()

    def seek(self, depth: int) -> None:
        self._depth = depth

    def prefill(self, count: int) -> float:
        products = self._work.products * count + self._work.head
        return self._library.limit_dot(products, self._threads)

    def decode(self, count: int) -> float:
        """The cache grows by `count` on the way: as long as it is in the middle."""
        read = self._work.weights + self._work.cached * (self._depth + count // 2)
        return self._library.limit_read(self._memory, min(read, self._bytes), count, self._threads)

    def step(self, count: int) -> float:
        """All weights once, however many tokens there are."""
        return self.decode(1)


def compiled() -> Any:
    """The program, compiled for this processor.

    Raises:
        DeviceError: there is no C compiler, or it refuses.
    """
    name = os.environ.get("CC") or "cc"
    if shutil.which(name) is None:
        raise DeviceError("The machine's limits cannot be measured here",
                          f'There is no C compiler "{name}"',
                          "Install one: sudo apt-get install gcc libc6-dev")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "limits.so"
        done = subprocess.run(
            [name, *_FLAGS, str(SOURCE), "-o", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise DeviceError("The machine's limits cannot be measured here", said,
                              "Try another compiler: CC=clang")  # fmt: skip
        library = ctypes.CDLL(str(path))
    library.limit_dot_name.restype = ctypes.c_char_p
    library.limit_memory.argtypes = [ctypes.c_size_t]
    library.limit_memory.restype = ctypes.c_void_p
    library.limit_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int]
    library.limit_dot.argtypes = [ctypes.c_int64, ctypes.c_int]
    library.limit_read.restype = library.limit_dot.restype = ctypes.c_double
    return library


def command(checkpoint: Path, weights: str, threads: int, capacity: int) -> list[str]:
    """What starts a worker."""
    config = json.loads((checkpoint / "config.json").read_text())
    given = {"work": asdict(work_of(config, weights)), "threads": threads, "capacity": capacity}
    return [sys.executable, "-m", "benchmarks.limits", json.dumps(given)]


def open_engine() -> tuple[Limits, dict[str, Any]]:
    given = json.loads(sys.argv[1])
    limits = Limits(Work(**given["work"]), given["threads"], given["capacity"])
    return limits, {"load_seconds": 0.0, "work": given["work"], "dot": limits.dot}


if __name__ == "__main__":
    serve(open_engine)
