"""What the section of a TensorRT artifact says: the one source for the compiler that writes it and
the executor that reads it. Knows neither ONNX nor TensorRT.

A network computes in `dtype` and has these inputs, besides weights:

    hidden     dtype [1, T, hidden_size]   embedded tokens, looked up by the executor
    positions  int64 [1, T]                of these tokens
    length     int64 [1]                   tokens in the caches before the step
    rows       int64 [R]                   which of the T want logits
    keys       int64 [1, 1, 1, C]          0 to C - 1: rows of the caches that the step looks at
    past.X     dtype [1, heads, context, size]   each cache X

and gives `logits`, float32 [1, R, vocab_size], and each cache as `present.X`, at the address of its
input. Weights are inputs, too: the executor binds them once, or makes constants of those that
have to be or may be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from arkinfer.limits import count

HIDDEN, POSITIONS, LENGTH, ROWS, KEYS = "hidden", "positions", "length", "rows", "keys"
LOGITS = "logits"

WINDOW = 256
"""The fewest rows of a cache that steps look at, where it has that many."""

VERIFIED = 64
"""The most tokens whose logits are computed together: those of 512 tokens would take 150 MB on the
device and as much on the host, for 73,448 numbers each."""

USUAL = 2048
"""Tokens of a sequence for which kernels are chosen."""

Form: TypeAlias = Literal["dense", "gemv", "int4"]
"""dense: the numbers in the network's dtype. gemv: `kernels.layout.repacked`, two inputs. int4:
codes of four bits [K, N] and scales [K / group, N] for DequantizeLinear, two constants."""

Network: TypeAlias = Literal["gemv", "native"]
"""Products by our own kernels, or int4 by TensorRT's DequantizeLinear wherever that is possible."""

NETWORKS: tuple[Network, ...] = ("gemv", "native")


@dataclass(frozen=True)
class Stored:
    """A tensor of the artifact, as `packing` or the checkpoint has it.

    Attributes:
        shape: [N, K] of a matrix; what it is of others.
        scheme: of a quantized matrix, by its name; "": it is dense.
        parts: names of tensors in the artifact, by part; a dense one has the part "".
    """

    shape: tuple[int, ...]
    scheme: str
    parts: Mapping[str, str]

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Stored:
        shape = tuple(count(size) for size in facts["shape"])
        parts = {str(part): str(name) for part, name in facts["parts"].items()}
        return cls(shape, str(facts["scheme"]), parts)


@dataclass(frozen=True)
class NetworkWeight:
    """A weight of a network.

    Attributes:
        inputs: its names in the network: one, or two of a gemv (words, scale) or int4 (codes,
            scale) matrix.
        form: how its bytes lie there.
        networks: which have it.
        constant: it has to be a constant of the engine: small, or one that TensorRT prepares.
            Others may be, and a gemv matrix never is.
        stored: where its numbers are.
    """

    inputs: tuple[str, ...]
    form: Form
    networks: tuple[Network, ...]
    constant: bool
    stored: Stored

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> NetworkWeight:
        form, networks = str(facts["form"]), [str(name) for name in facts["networks"]]
        inputs = tuple(str(name) for name in facts["inputs"])
        if form not in ("dense", "gemv", "int4") or not set(networks) <= set(NETWORKS):
            raise ValueError(f"{form} of {networks} is no form of a weight")
        if len(inputs) != (1 if form == "dense" else 2):
            raise ValueError(f"a {form} weight has the inputs {inputs}")
        known: tuple[Network, ...] = tuple(name for name in NETWORKS if name in networks)
        return cls(inputs, form, known, bool(facts["constant"]), Stored.from_json(facts["stored"]))


@dataclass(frozen=True)
class Probe:
    """One product that both networks have in their own way: what a board times to choose.

    Both files are networks x, dtype [1, T, K] -> y, dtype [1, T, N], with the inputs of the weight
    as the whole network has them.

    Attributes:
        files: of the product, by network.
        weights: the first input of the weight that it multiplies by, by network.
        times: products of that kind in a step.
    """

    files: Mapping[Network, str]
    weights: Mapping[Network, str]
    times: int

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Probe:
        files: dict[Network, str] = {name: str(facts["files"][name]) for name in NETWORKS}
        weights: dict[Network, str] = {name: str(facts["weights"][name]) for name in NETWORKS}
        return cls(files, weights, count(facts["times"]))


@dataclass(frozen=True)
class Cache:
    """Keys or values of a layer: `past.<name>` and `present.<name>`, [1, heads, context, size]."""

    name: str
    shape: tuple[int, int, int, int]

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Cache:
        one, heads, context, size = (count(n) for n in facts["shape"])
        return cls(str(facts["name"]), (one, heads, context, size))


@dataclass(frozen=True)
class TensorRTSection:
    """All that the executor is told.

    Attributes:
        dtype: "float16" or "float32": what the network computes in.
        context: tokens that the caches hold.
        chunk: the most tokens of a step.
        vocab_size: columns of the logits.
        hidden_size: of an embedded token.
        sm: compute capability that kernels were compiled for, 87 for 8.7; later ones run them.
        networks: files of the serialized ONNX models.
        kernels: file with `kernels.gemv.Kernel`s, JSON; "": the networks have no plug-in.
        embedding: the table [vocab_size, hidden_size].
        embedding_factor: what its rows are multiplied by.
        caches: in the order of the network.
        weights: in the order of the network.
        probes: empty unless there are two networks.
    """

    dtype: str
    context: int
    chunk: int
    vocab_size: int
    hidden_size: int
    sm: int
    networks: Mapping[Network, str]
    kernels: str
    embedding: Stored
    embedding_factor: float
    caches: tuple[Cache, ...]
    weights: tuple[NetworkWeight, ...]
    probes: tuple[Probe, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `Section.config`."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> TensorRTSection:
        """What `to_json` gave.

        Raises:
            LookupError, TypeError, ValueError, AttributeError, ArithmeticError: it is something
                else.
        """
        if facts["dtype"] not in ("float16", "float32"):
            raise ValueError(f"a network computes in {facts['dtype']}")
        networks: dict[Network, str] = {
            name: str(facts["networks"][name]) for name in NETWORKS if name in facts["networks"]
        }
        if not networks:
            raise ValueError("there is no network")
        return cls(
            dtype=str(facts["dtype"]),
            context=count(facts["context"]),
            chunk=count(facts["chunk"]),
            vocab_size=count(facts["vocab_size"]),
            hidden_size=count(facts["hidden_size"]),
            sm=count(facts["sm"]),
            networks=networks,
            kernels=str(facts["kernels"]),
            embedding=Stored.from_json(facts["embedding"]),
            embedding_factor=float(facts["embedding_factor"]),
            caches=tuple(Cache.from_json(each) for each in facts["caches"]),
            weights=tuple(NetworkWeight.from_json(each) for each in facts["weights"]),
            probes=tuple(Probe.from_json(each) for each in facts["probes"]),
        )

    @property
    def cache_bytes(self) -> int:
        """Of the caches of one sequence."""
        itemsize = {"float16": 2, "float32": 4}[self.dtype]
        return itemsize * sum(math.prod(cache.shape) for cache in self.caches)

    def window(self, tokens: int) -> int:
        """Rows C of the caches that a step looks at which leaves `tokens` there: at least these,
        and one of few sizes, for each has a graph of its own.

        The caches have room for `context` tokens from the start. Attention over all of them would
        make the first token as slow as the last.
        """
        rows = WINDOW
        while rows < tokens:
            rows *= 2
        return min(rows, self.context)

    @property
    def verified(self) -> int:
        """The most tokens of a step that gives logits of all rows."""
        return min(self.chunk, VERIFIED)

    def profiles(self) -> dict[str, dict[str, tuple[int, int, int]]]:
        """Least, usual and most tokens T, rows R and rows of the caches C of each optimization
        profile, in the order of their numbers. `verify` is for logits of all rows, and takes memory
        only where it is used.
        """
        few, many = (1, 1, 1), (1, self.chunk, self.chunk)
        all_rows = (1, self.verified, self.verified)
        seen = (self.window(1), self.window(USUAL), self.context)
        return {
            "decode": {"T": few, "R": few, "C": seen},
            "prefill": {"T": many, "R": few, "C": seen},
            "verify": {"T": all_rows, "R": all_rows, "C": seen},
        }
