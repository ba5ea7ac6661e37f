"""What an executor offers to the engine: the device half of the backend contract.

Knows no backend, no tokenizer and no sampling. An executor opens one section of an artifact
and gives an `Executable` (the weights, loaded once), which makes any number of `State`s (one
sequence each: its caches and its length). The `check_*` functions are what every executor has to
refuse, in the same words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from arkinfer.errors import UsageError, did_you_mean
from arkinfer.runtime.prepared import OnProgress, Prepared

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = Literal["last", "all", "none"]
"""Which rows of a step's tokens want logits."""

Observer: TypeAlias = Callable[[str, npt.NDArray[Any]], object]
"""Called with the name of a value of the section's IR, and what it was in a step. Names are those
of its text: of inputs their own, of results "0", "1", … in order (`arkinfer.ir.value_names`)."""


@dataclass(frozen=True)
class LoadOptions:
    """How to open a section. What does not concern an executor, it ignores.

    Attributes:
        threads: worker threads; None: what the executor finds best for this machine.
        observe: also prepare what the features "values" and "times" need. It may take more memory
            and make steps slower, so it is for tools that look at a model, not for running it.
        cache: folder for what a `Preparer` makes; None: that of `machine.folders.cache_folder`.
        network: which of the networks that a section offers; None: what is measured to be faster.
        weights: whether a prepared section keeps weights as constants, which the runtime may
            rearrange, or takes them as inputs, which needs less memory to prepare and to keep;
            None: constants where memory allows. What can only be one of both stays what it is.
        on_progress: told how far a preparation is; `Executor.open` prepares by itself.
        on_prepared: told what `Executor.open` prepared, or found to be there.
    """

    threads: int | None = None
    observe: bool = False
    cache: Path | None = None
    network: str | None = None
    weights: Literal["inputs", "constants"] | None = None
    on_progress: OnProgress | None = None
    on_prepared: Callable[[Prepared], object] | None = None


@dataclass(frozen=True)
class StepOutput:
    """What a step gives back.

    Attributes:
        logits: float32 [rows, vocab_size]; rows = 1 ("last"), the number of tokens ("all") or 0.
        taps: hidden states by name, float32 [tokens, hidden], for the taps that were asked for.
    """

    logits: FloatArray
    taps: dict[str, FloatArray] = field(default_factory=dict[str, FloatArray])


class State(Protocol):
    """One sequence: its caches and its length.

    A step that raises leaves the state as it was before the step.
    """

    @property
    def length(self) -> int:
        """Tokens held in the caches."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens that the caches can hold."""
        ...

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        """Appends 1 … `Executable.chunk` tokens, int64 [T].

        Raises:
            UsageError: no token, more than `chunk`, an id outside the vocabulary, more tokens
                than the capacity, or a tap that `features` does not declare.
            DeviceError: the runtime refused the step.
        """
        ...

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens, 0 <= length <= self.length."""
        ...


@dataclass(frozen=True)
class OpTime:
    """What one kernel took in a step.

    Attributes:
        kernel: as the runtime calls it.
        values: names of the IR values that it computes, several where it does several ops; empty:
            the backend cannot tell.
        seconds: wall-clock time.
        measuring: about how many of these seconds the measuring itself took.
        rows: for how many tokens it computed them; None: for those of the step.
    """

    kernel: str
    values: tuple[str, ...]
    seconds: float
    measuring: float = 0.0
    rows: int | None = None


@dataclass(frozen=True)
class StepTimes:
    """What a step took that was measured.

    Attributes:
        ops: each kernel, in order of execution.
        seconds: the whole step, wall-clock time; more than all kernels together.
        measuring: about how many of these seconds the measuring itself took.
    """

    ops: tuple[OpTime, ...]
    seconds: float
    measuring: float = 0.0


class Observed(State, Protocol):
    """A state of an executable with the feature "values"."""

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        """A step that shows what its ops gave.

        `observer` gets each value of `module.ir` that the backend has at some time in memory, in
        order of execution: float32, or as a cache stores it, in the IR type's shape; a value that
        is computed for the wanted rows alone has these. The array is the observer's to keep.

        Raises:
            UsageError, DeviceError: as `State.step`.
        """
        ...


class Profiler(Protocol):
    """Times the kernels of some steps of a state."""

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        """A step as `State.step`, timed."""
        ...

    def finish(self) -> list[StepTimes]:
        """Ends the profiler, and says what each of its steps took: some runtimes say it only now.

        To be called in any case; what it holds is given back here. Steps of the state that follow
        run as those before did, not timed, on the same copy of the weights where they can.
        """
        ...


class Timed(State, Protocol):
    """A state of an executable with the feature "times"."""

    def profiler(self) -> Profiler:
        """Begins to measure; may take as long as opening the section.

        Raises:
            UsageError: the executable is closed.
            ResourceError: there is no memory or room for it.
        """
        ...


class Executable(Protocol):
    """The weights, loaded once and shared by all states."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def max_context(self) -> int:
        """The longest sequence, in tokens, that the artifact was compiled for."""
        ...

    @property
    def chunk(self) -> int:
        """The most tokens that one step takes."""
        ...

    @property
    def features(self) -> frozenset[str]:
        """What it can do beyond this contract ("tree", "taps" and "persist", see `features.py`;
        opened to be observed, "values" and "times"); absent: undeclared."""
        ...

    def new_state(self, context: int) -> State:
        """An empty sequence with room for `context` tokens (1 … max_context)."""
        ...

    def close(self) -> None:
        """Gives memory and threads back; states made before are unusable afterwards: their
        steps raise UsageError, and so does `new_state`. May be called again."""
        ...


@runtime_checkable
class Chosen(Protocol):
    """What an executable may offer whose section has kernels for several instruction sets."""

    @property
    def variant(self) -> str:
        """Which of `Section.variants` runs: the best one that this processor has."""
        ...


class Executor(Protocol):
    """Entry point group `arkinfer.executors`; no torch, no IR."""

    name: str

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> Executable:
        """Loads a section.

        Raises:
            DeviceError: this device lacks the runtime, its version or an instruction set that
                the section `requires`; the message names the one command that mends it.
        """
        ...


@dataclass(frozen=True)
class Demand:
    """What a section takes from the device that runs it.

    Attributes:
        weights: bytes that it loads.
        per_token: bytes of its caches for each token of the context.
    """

    weights: int
    per_token: int


@runtime_checkable
class Checker(Protocol):
    """What an executor may offer beyond `Executor`: the checks of `open`, without its work."""

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether this device runs a section; no weight is read.

        Raises:
            DeviceError: as `Executor.open`.
            ArtifactError: the section is not what the compiler writes.
            ImportError: a package that the section needs is missing.
        """
        ...


@runtime_checkable
class DeviceChecker(Protocol):
    """What an executor may offer whose sections do not run on every device."""

    def check_device(self) -> None:
        """Whether this device can run sections of the backend at all.

        Raises:
            DeviceError: it cannot; the message names what mends it.
            ImportError: a package that all its sections need is missing.
        """
        ...


@runtime_checkable
class Preparer(Protocol):
    """What an executor may offer whose sections are finished on the device: to do so beforehand.

    Its `open` does so by itself where nothing was prepared. What is made is found again by the
    artifact's digest, by all that it depends on of the device, and by `network` and `weights` of
    the options as they were asked for.
    """

    def prepared(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> Prepared | None:
        """What is there already and `open` would use; None: it has to be made. Makes nothing.

        Raises:
            DeviceError, ArtifactError: as `prepare`.
        """
        ...

    def prepare(self, artifact: Artifact, section: Section, options: LoadOptions) -> Prepared:
        """Makes what `open` needs, unless it is there; whoever comes second waits for the first.

        Raises:
            DeviceError: as `Executor.open`; also where memory or disk do not suffice to make it.
            ArtifactError: the section is not what the compiler writes.
            UsageError: the section has no such network.
            ResourceError: another process is at it, and does not come to an end.
        """
        ...


def check_tokens(
    executable: Executable, state: State, tokens: IntArray, taps: tuple[str, ...] = ()
) -> IntArray:
    """The tokens of a step as a contiguous int64 [T], after the checks that every executor owes.

    Raises:
        UsageError: as `State.step` says; the state was not touched.
    """
    ids = np.ascontiguousarray(tokens)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu":
        raise UsageError(
            f"A step cannot take tokens of shape {ids.shape} and type {ids.dtype}",
            "It appends one sequence of whole numbers",
            "Give at least one token id",
        )
    if len(ids) > executable.chunk:
        raise UsageError(
            f"A step cannot take {len(ids)} tokens at once",
            f"The artifact was compiled for chunks of {executable.chunk}",
            "Split the tokens into several steps",
        )
    if state.length + len(ids) > state.capacity:
        raise UsageError(
            f"The sequence cannot grow from {state.length} to {state.length + len(ids)} tokens",
            f"Its caches hold {state.capacity}",
            "Truncate it, or make a state with a larger context",
        )
    vocab_size = executable.vocab_size
    known = ids.tolist()
    if min(known) < 0 or max(known) >= vocab_size:
        bad = next(i for i, each in enumerate(known) if not 0 <= each < vocab_size)
        raise UsageError(
            f"Token {bad} of the step has the id {known[bad]}",
            f"The model's vocabulary ends at {vocab_size - 1}",
        )
    if taps:
        _check_taps(executable, taps)
    return ids if ids.dtype == np.int64 else ids.astype(np.int64)


def _check_taps(executable: Executable, taps: tuple[str, ...]) -> None:
    known: tuple[str, ...] = getattr(executable, "taps", ())
    unknown = [tap for tap in taps if tap not in known]
    if "taps" not in executable.features:
        raise UsageError(f'There is no tap "{taps[0]}"', "This section gives no hidden states away")
    if unknown:
        near = did_you_mean(unknown[0], known)
        ends = " to ".join((*known[:1], *known[-1:]))
        raise UsageError(f'There is no tap "{unknown[0]}"', "", f"{near}There are {ends}")


def check_context(executable: Executable, context: int) -> None:
    """Raises UsageError unless `Executable.new_state` can make room for `context` tokens."""
    if not 1 <= context <= executable.max_context:
        raise UsageError(
            f"A sequence cannot have room for {context} tokens",
            f"The artifact was compiled for at most {executable.max_context}",
            f"Give a number from 1 to {executable.max_context}",
        )


def check_length(state: State, length: int) -> None:
    """Raises UsageError unless `State.truncate` can keep `length` tokens."""
    if not 0 <= length <= state.length:
        raise UsageError(
            f"A sequence of {state.length} tokens cannot keep {length}",
            fix=f"Give a number from 0 to {state.length}",
        )


def closed() -> UsageError:
    """What a step, or a new state, raises after `Executable.close`."""
    return UsageError("The model is closed", fix="Load the artifact again")
