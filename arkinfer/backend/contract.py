"""What a backend's compiler offers to the driver, and what it is given: the host half.

Knows no backend, no pass and no file format. The device half is `arkinfer.runtime.contract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy.typing as npt

from arkinfer import ir
from arkinfer.packing import QuantizedTensor
from arkinfer.targets import Target


@dataclass(frozen=True)
class Support:
    """How a backend would run a node: fast, slow (why) or not at all (why)."""

    level: Literal["fast", "slow", "no"]
    reason: str = ""

    @classmethod
    def fast(cls) -> Support:
        return cls("fast")

    @classmethod
    def slow(cls, reason: str) -> Support:
        return cls("slow", reason)

    @classmethod
    def no(cls, reason: str) -> Support:
        return cls("no", reason)


class RowStore(ir.WeightStore, Protocol):
    """Where the numbers come from: whole (`load`) or, for what is large, some rows at a time."""

    def rows(self, weight: ir.Weight, start: int, stop: int) -> npt.NDArray[Any] | QuantizedTensor:
        """Rows [start, stop) of a weight with at least two dimensions."""
        ...


@dataclass(frozen=True)
class Work:
    """Bytes that take time to make, such as a compiled kernel, and that builds keep.

    Attributes:
        name: what whoever waits for it is told.
        facts: all that determines the bytes, the code that makes them included.
        make: makes them.
        size: what a plan takes them for, in bytes.
        verb: what making it is called.
    """

    name: str
    facts: tuple[str | int, ...]
    make: Callable[[], bytes]
    size: int
    verb: str = "compiling"


class SectionWriter(Protocol):
    """Where a compiler puts what its executor will read; everything is streamed to the file.

    A plan counts with a writer that asks for no chunk and a store that has no numbers: names,
    dtypes and shapes follow from types alone, and numbers are read inside of `chunks`.
    """

    @property
    def store(self) -> RowStore:
        """The weights, for those that must be repacked or precomputed."""
        ...

    def weight(self, weight: ir.Weight) -> dict[str, str]:
        """Stores a weight as it is, once for all sections of the artifact.

        Returns:
            part name -> tensor name in the artifact. A dense weight has the one part "" in its
            IR dtype; a quantized one has packing's parts ("codes", "scale", maybe "zero" …),
            with scales and minima in float32.
        """
        ...

    def tensor(
        self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> str:
        """Stores a tensor of this section alone; dtype as numpy names it. Returns its name.

        Chunks are consecutive along axis 0; each is written before the next is asked for.
        """
        ...

    def file(self, name: str, data: bytes) -> str:
        """Stores the entry `backends/<backend>/<name>`. Returns the entry's name."""
        ...

    def made(self, works: Sequence[Work]) -> list[bytes]:
        """What each of these makes, from an earlier build if one has made it of the same facts.

        A plan makes nothing: it gets as many zeros as it takes a work for.
        """
        ...

    def configure(
        self,
        config: Mapping[str, Any],
        requires: Mapping[str, str],
        variants: Sequence[str] = (),
    ) -> None:
        """States the facts that the executor will be given as `Section.config` (JSON), the version
        range of each package that the section needs, e.g. {"onnxruntime": ">=1.23"}, and the
        instruction sets that it has kernels for, if there is a choice: see `Section.variants`."""
        ...


class Compiler(Protocol):
    """Entry point group `arkinfer.compilers`."""

    name: str

    legalizations: tuple[str, ...]
    """Rewrites of `arkinfer.passes.legalize` that this backend wants, by name."""

    @property
    def activations(self) -> tuple[str, ...]:
        """What its products with quantized matrices can take, the fastest first.

        "f32" is the input as it is, "f16" the input of a network that computes in that, "i8" the
        input rounded with a scale for each block of up to 128 numbers, and "i16" two digits of
        that. A node asks by its attribute `activations`; "any" is the first of these. Where that
        is "i8" and there is "i16", builds measure which products need it, and ask for it there.
        """
        ...

    def supports(self, node: ir.Node, target: Target) -> Support:
        """Whether this backend runs a node on the target, and how well. Never guesses."""
        ...

    def compile(self, module: ir.Module, target: Target, out: SectionWriter) -> None:
        """Lowers a module whose every node is supported, and fills the section.

        Module attributes: `context` (tokens), `chunk` (the most tokens of one step),
        `vocab_size`. The function is `step(tokens, rows, k0, v0, …) -> logits, k0, v0, …`.

        The section's file `arkinfer.artifact.SECTION_IR` is the module's text as it was given:
        `verify`, `align` and `profile` name ops by it.

        Raises:
            UnsupportedError: the module as a whole cannot be lowered; says why.
            DeviceError: a tool that the target needs is missing here; says how to get it.
        """
        ...


@runtime_checkable
class TargetChecker(Protocol):
    """What a compiler may offer beyond `Compiler`: are its tools here?"""

    def check(self, target: Target) -> None:
        """Whether this host has what `compile` for the target calls, e.g. a linker.

        Raises:
            DeviceError: a tool or a package is missing; says how to get it.
        """
        ...


@runtime_checkable
class CacheKeeper(Protocol):
    """What a compiler may offer beyond `Compiler`: what it would rather keep caches in."""

    def caches(self, target: Target) -> tuple[str, ...]:
        """Dtypes of key-value caches of floats as the IR calls them, the preferred one first.

        A build that is not told otherwise takes for this backend's section the first of them that
        `supports` does not refuse. Without this, a section keeps caches as the artifact's first one
        does, and as "f32" where the backend refuses that.
        """
        ...


@runtime_checkable
class Tuner(Protocol):
    """What a compiler may offer beyond `Compiler`: choices by measurement."""

    def tuned(self, target: Target) -> Compiler:
        """The same compiler, but it measures on this machine what it else takes from a model: how
        products with quantized matrices, whose input is rounded, are computed fastest.

        What it finds depends on the processor, and is made as `Work`: builds keep it, so that the
        next one on such a processor measures nothing and has the same bytes.

        Raises:
            UsageError: this machine cannot run what is made for the target.
        """
        ...


@dataclass(frozen=True)
class Footprint:
    """What a section takes on its device, predicted.

    Attributes:
        run: resident bytes of a run, caches apart.
        per_token: bytes of the caches for each token of the context.
        per_step: bytes of weights that a step of one token reads.
        caches: how they are kept, if not as the build says ("fp16").
        engine: bytes of what the device makes of the section and keeps; 0: it makes nothing.
        prepare: resident bytes of making that; 0: it makes nothing.
    """

    run: int
    per_token: int
    per_step: int
    caches: str = ""
    engine: int = 0
    prepare: int = 0


@runtime_checkable
class Predictor(Protocol):
    """What a compiler may offer beyond `Compiler`: what its section will take on the device.

    Without it, a plan takes caches for what the IR says, and a run for the weights and a little.
    """

    def footprint(self, module: ir.Module, target: Target) -> Footprint:
        """Of a lowered module. Reads no weight."""
        ...
