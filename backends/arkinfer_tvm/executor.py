"""Runs a section that the TVM compiler made: the device half, which needs no TVM package.

Knows no IR, no tokenizer and no sampling.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from arkinfer.errors import ArtifactError, DeviceError
from arkinfer.limits import count
from arkinfer.runtime.contract import (
    Demand,
    FloatArray,
    IntArray,
    LoadOptions,
    Observer,
    OpTime,
    Rows,
    StepOutput,
    StepTimes,
    check_context,
    check_length,
    check_tokens,
    closed,
)
from arkinfer_tvm.cpu import cpu_flags, platform_name
from arkinfer_tvm.library import Array, Bound, Library, Memory, aligned
from arkinfer_tvm.program import INTERFACE, Program, Seen, programs_from_json, seen_from_json

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

NAME = "tvm"
TOKENS, ROWS, LOGITS = "tokens", "rows", "logits"

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a section raises that the compiler did not write."""


class TvmExecutor:
    """Opens sections of the backend "tvm"."""

    name = NAME

    def open(self, artifact: Artifact, section: Section, options: LoadOptions) -> TvmExecutable:
        """Loads a section; weights stay in the file's own pages.

        Raises:
            DeviceError: this machine is of another kind, or its processor lacks instructions.
            ArtifactError: the section's files are damaged.
            ResourceError: there is no room for the code or its threads.
        """
        config = section.config
        try:
            check_device(config)
            code = _read(artifact, config["library"])
            programs = programs_from_json(_read(artifact, config["programs"]))
            operands = {o for program in programs for o in program.operands}
            names = sorted(str(o.key) for o in operands if o.kind == "weight")
            weights = {name: artifact.tensor(name) for name in names}
            seen = _seen(artifact, config, programs) if options.observe else None
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        digest = hashlib.sha256(code).hexdigest()
        threads = options.threads or usable_cores()
        calls = max(len(program.calls) for program in programs)
        library = Library(code, f"libarkinfer-{digest[:16]}.so", threads, calls)
        try:
            memory = Memory(programs, library.threads)
            bound = [Bound(program, library, weights, memory) for program in programs]
            return TvmExecutable(bound, library, config, seen)
        except _MALFORMED as error:
            library.close()
            raise _unreadable(artifact, error) from error
        except BaseException:
            library.close()
            raise

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether this machine is of the kind that was compiled for; see `contract.Checker`."""
        try:
            check_device(section.config)
            program, *_ = programs_from_json(_read(artifact, section.config["programs"]))
            per_token = sum(c.heads * c.size * np.dtype(c.dtype).itemsize for c in program.caches)
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        return Demand(artifact.section_bytes(self.name), per_token)


def _unreadable(artifact: Artifact, error: Exception) -> ArtifactError:
    return ArtifactError(
        f'The section "{NAME}" of "{artifact.path}" cannot be read',
        f"{type(error).__name__}: {error}",
        "Build the artifact again",
    )


def _seen(
    artifact: Artifact, config: Mapping[str, Any], programs: Sequence[Program]
) -> list[list[Seen]]:
    """Where values can be seen, for each program."""
    seen = seen_from_json(_read(artifact, config["values"]))
    if len(seen) != len(programs):
        raise ValueError("there is not one list of values for each program")
    return seen


def usable_cores() -> int:
    """Processor cores that this process may use; two threads of one core count once."""
    import psutil

    usable = len(os.sched_getaffinity(0))
    return min(usable, psutil.cpu_count(logical=False) or usable)


def check_device(config: Mapping[str, Any]) -> None:
    """Raises DeviceError unless this machine runs what was compiled.

    Args:
        config: what `compiler.py` put into the section.
    """
    rebuild = "Build it for this machine: arkinfer build --target cpu --backend tvm"
    if config["interface"] != INTERFACE:
        raise DeviceError(
            f"The artifact's kernels have interface {config['interface']}, "
            f"this arkinfer runs interface {INTERFACE}",
            "They were built by another version of arkinfer",
            "Build the artifact with this version, or install that one",
        )
    if config["platform"] != platform_name():
        raise DeviceError(
            f"The artifact's kernels were compiled for {config['platform']}",
            f"This machine is {platform_name()}",
            rebuild,
        )
    missing = [flag for flag in config["cpu_flags"] if flag not in cpu_flags()]
    if missing:
        raise DeviceError(
            f"The artifact's kernels were compiled for {config['isa']} processors",
            f"This processor lacks: {', '.join(missing)}",
            rebuild,
        )


def _read(artifact: Artifact, entry: str) -> bytes:
    """An entry whose bytes are what the manifest says: code must not run otherwise."""
    data = artifact.read(entry)
    if hashlib.sha256(data).hexdigest() != artifact.manifest["entries"][entry]["sha256"]:
        raise ArtifactError(
            f'"{artifact.path}" is damaged',
            f'The entry "{entry}" does not match its SHA-256',
            "Copy the file again from where it was built, or build it again",
        )
    return data


class TvmExecutable:
    """The weights and kernels of one artifact; states share them and take turns.

    Attributes:
        vocab_size: columns of the logits.
        max_context: the longest sequence, in tokens.
        chunk: the most tokens of one step.
        features: "values" and "times" when it was opened to be observed.
        threads: what steps run on.
    """

    def __init__(
        self,
        programs: Sequence[Bound],
        library: Library,
        config: Mapping[str, Any],
        seen: list[list[Seen]] | None = None,
    ) -> None:
        self.vocab_size = count(config["vocab_size"])
        self.max_context = count(config["context"])
        self.chunk = count(config["chunk"])
        self.threads = library.threads
        self._symbols: dict[str, str] = config["symbols"]
        self.features: frozenset[str] = frozenset()
        if seen is not None:
            self.features = frozenset({"values", "times"})
        self._seen = seen or [[] for _ in programs]
        self._programs = list(programs)
        self._library = library
        self._turn = threading.Lock()
        self._closed = False

    def new_state(self, context: int) -> TvmState:
        """An empty sequence with room for `context` tokens.

        Raises:
            UsageError: not 1 … max_context tokens, or the model is closed.
            ResourceError: there is no memory for its caches.
        """
        if self._closed:
            raise closed()
        check_context(self, context)
        shapes = self._programs[0].program.caches
        caches = [aligned((context, c.heads, c.size), c.dtype) for c in shapes]
        return TvmState(self, caches, [each.arguments(caches) for each in self._programs], context)

    def program(self, tokens: int) -> int:
        """Which program runs steps of so many tokens: the first that has room for them."""
        return next(i for i, each in enumerate(self._programs) if tokens <= each.program.most)

    def kernels(self, program: int) -> list[tuple[str, tuple[str, ...]]]:
        """Of each call of a program its kernel, and the IR values that it computes."""
        return _values_of_calls(self._programs[program].program, self._seen[program])

    def run(
        self, arguments: Sequence[Array], tokens: Array, rows: Array, length: int
    ) -> FloatArray:
        """Computes one step of a state that holds `length` tokens: logits [R, vocab_size].

        Args:
            arguments: of each program.
            tokens: int64 [T].
            rows: int64 [R], which of them want logits.
            length: of the sequence so far.
        """
        number = self.program(len(tokens))
        ports, symbols = self._ports(tokens, rows, length)
        with self._turn:
            if self._closed:
                raise closed()
            self._programs[number].run(arguments[number], symbols, ports.items())
        return cast(FloatArray, ports[LOGITS])

    def observe(
        self,
        arguments: Sequence[Array],
        caches: list[Array],
        tokens: Array,
        rows: Array,
        length: int,
        observer: Observer,
    ) -> FloatArray:
        """The same, and shows the values that its kernels leave in memory."""
        number = self.program(len(tokens))
        ports, symbols = self._ports(tokens, rows, length)
        with self._turn:
            if self._closed:
                raise closed()
            self._programs[number].observe(
                arguments[number], symbols, ports, caches, self._seen[number], observer
            )
        return cast(FloatArray, ports[LOGITS])

    def run_timed(
        self, arguments: Sequence[Array], tokens: Array, rows: Array, length: int
    ) -> tuple[FloatArray, Array]:
        """The same as `run`, and the nanoseconds that each call took."""
        number = self.program(len(tokens))
        ports, symbols = self._ports(tokens, rows, length)
        with self._turn:
            if self._closed:
                raise closed()
            took = self._programs[number].run_timed(arguments[number], symbols, ports.items())
        return cast(FloatArray, ports[LOGITS]), took

    def _ports(
        self, tokens: Array, rows: Array, length: int
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Inputs and outputs of a step, and the values of its symbols."""
        logits = aligned((len(rows), self.vocab_size), np.float32)
        names = self._symbols
        symbols = {names[TOKENS]: len(tokens), names[ROWS]: len(rows), names["cached"]: length}
        return {TOKENS: tokens, ROWS: rows, LOGITS: logits}, symbols

    def close(self) -> None:
        """Ends the threads, after the running step; may be called again."""
        with self._turn:
            self._closed = True
            self._library.close()


class TvmState:
    """One sequence: its caches, [capacity, kv heads, head size] each, and its length."""

    def __init__(
        self,
        executable: TvmExecutable,
        caches: list[Array],
        arguments: Sequence[Array],
        capacity: int,
    ) -> None:
        self.executable = executable
        self._caches = caches  # the arguments point to them
        self._arguments = arguments
        self._length = 0
        self._capacity = capacity

    @property
    def length(self) -> int:
        return self._length

    @property
    def capacity(self) -> int:
        return self._capacity

    def step(
        self, tokens: IntArray, *, rows: Rows = "last", taps: tuple[str, ...] = ()
    ) -> StepOutput:
        """Appends tokens; see `arkinfer.runtime.contract.State.step`."""
        ids = check_tokens(self.executable, self, tokens, taps)
        given, wanted = _aligned_inputs(ids, rows)
        logits = self.executable.run(self._arguments, given, wanted, self._length)
        self._length += len(ids)
        return StepOutput(logits)

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        """See `arkinfer.runtime.contract.Observed`."""
        ids = check_tokens(self.executable, self, tokens)
        given, wanted = _aligned_inputs(ids, rows)
        logits = self.executable.observe(
            self._arguments, self._caches, given, wanted, self._length, observer
        )
        self._length += len(ids)
        return StepOutput(logits)

    def timed_step(self, tokens: IntArray, rows: Rows) -> tuple[StepOutput, Array]:
        """A step, and the nanoseconds that each of `TvmExecutable.kernels` took."""
        ids = check_tokens(self.executable, self, tokens)
        given, wanted = _aligned_inputs(ids, rows)
        logits, took = self.executable.run_timed(self._arguments, given, wanted, self._length)
        self._length += len(ids)
        return StepOutput(logits), took

    def profiler(self) -> TvmProfiler:
        """See `arkinfer.runtime.contract.Timed`."""
        return TvmProfiler(self)

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        check_length(self, length)
        self._length = length


class TvmProfiler:
    """See `arkinfer.runtime.contract.Profiler`; to read the clock takes some nanoseconds."""

    def __init__(self, state: TvmState) -> None:
        self._state = state
        self._steps: list[tuple[int, Array, float]] = []

    def step(self, tokens: IntArray, *, rows: Rows = "last") -> StepOutput:
        begin = perf_counter()
        output, took = self._state.timed_step(tokens, rows)
        program = self._state.executable.program(len(tokens))
        self._steps.append((program, took, perf_counter() - begin))
        return output

    def finish(self) -> list[StepTimes]:
        steps = self._steps
        return [StepTimes(self._ops(program, took), seconds) for program, took, seconds in steps]

    def _ops(self, program: int, took: Array) -> tuple[OpTime, ...]:
        kernels = self._state.executable.kernels(program)
        calls = zip(kernels, (took * 1e-9).tolist(), strict=True)
        return tuple(OpTime(kernel, values, seconds) for (kernel, values), seconds in calls)


def _values_of_calls(program: Program, seen: list[Seen]) -> list[tuple[str, tuple[str, ...]]]:
    """Of each call its kernel and the values that it computes, or helps to: calls that prepare
    something for a later one belong to its values."""
    made: dict[int, list[str]] = {}
    for value in seen:
        made.setdefault(value.call, []).append(value.value)
    values: tuple[str, ...] = ()
    result: list[tuple[str, tuple[str, ...]]] = []
    for number in range(len(program.calls), 0, -1):
        values = tuple(made.get(number, values))
        result.append((program.calls[number - 1].kernel, values))
    return result[::-1]


def _aligned_inputs(ids: IntArray, rows: Rows) -> tuple[Array, Array]:
    """The tokens, and the places of those that want logits, where kernels can read them."""
    count = len(ids)
    given = aligned((count,), np.int64)
    given[:] = ids
    start = {"last": count - 1, "all": 0, "none": count}[rows]
    wanted = aligned((count - start,), np.int64)
    wanted[:] = np.arange(start, count)
    return given, wanted
