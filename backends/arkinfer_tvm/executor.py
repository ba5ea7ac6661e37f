"""Runs a section that the TVM compiler made: the device half, which needs no TVM package.

Knows no IR, no tokenizer and no sampling.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from arkinfer.errors import ArtifactError, DeviceError, UsageError
from arkinfer.runtime.contract import FloatArray, IntArray, LoadOptions, Rows, StepOutput
from arkinfer_tvm.cpu import cpu_flags, platform_name
from arkinfer_tvm.library import Array, Bound, Library, aligned
from arkinfer_tvm.program import INTERFACE, Program

if TYPE_CHECKING:
    from arkinfer.artifact import Artifact, Section

NAME = "tvm"
TOKENS, ROWS, LOGITS = "tokens", "rows", "logits"


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
        check_device(config)
        code = _read(artifact, config["library"])
        program = Program.from_json(_read(artifact, config["program"]))
        threads = options.threads or len(os.sched_getaffinity(0))
        digest = hashlib.sha256(code).hexdigest()
        library = Library(code, f"libarkinfer-{digest[:16]}.so", threads)
        try:
            names = {str(o.key) for o in program.operands if o.kind == "weight"}
            weights = {name: artifact.tensor(name) for name in sorted(names)}
            return TvmExecutable(Bound(program, library, weights), library, config)
        except BaseException:
            library.close()
            raise


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
        features: empty.
        threads: what steps run on.
    """

    features: frozenset[str] = frozenset()

    def __init__(self, bound: Bound, library: Library, config: Mapping[str, Any]) -> None:
        self.vocab_size: int = config["vocab_size"]
        self.max_context: int = config["context"]
        self.chunk: int = config["chunk"]
        self.threads = library.threads
        self._symbols: dict[str, str] = config["symbols"]
        self._bound = bound
        self._library = library
        self._turn = threading.Lock()
        self._closed = False

    def new_state(self, context: int) -> TvmState:
        """An empty sequence with room for `context` tokens.

        Raises:
            UsageError: not 1 … max_context tokens.
            ResourceError: there is no memory for its caches.
        """
        if not 1 <= context <= self.max_context:
            raise UsageError(
                f"A context of {context} tokens is not possible",
                f"The artifact was built for 1 to {self.max_context} tokens",
                "Ask for fewer, or build it with a larger context",
            )
        caches = [aligned((context, c.heads, c.size), c.dtype) for c in self._bound.program.caches]
        return TvmState(self, caches, self._bound.arguments(caches), context)

    def run(self, arguments: Array, tokens: Array, rows: Array, length: int) -> FloatArray:
        """Computes one step of a state that holds `length` tokens: logits [R, vocab_size]."""
        logits = aligned((len(rows), self.vocab_size), np.float32)
        names = self._symbols
        symbols = {names[TOKENS]: len(tokens), names[ROWS]: len(rows), names["cached"]: length}
        with self._turn:
            if self._closed:
                raise UsageError("The model was closed", "", "Load it again")
            ports = ((TOKENS, tokens), (ROWS, rows), (LOGITS, logits))
            self._bound.run(arguments, symbols, ports)
        return cast(FloatArray, logits)

    def close(self) -> None:
        """Ends the threads, after the running step; may be called again."""
        with self._turn:
            self._closed = True
            self._library.close()


class TvmState:
    """One sequence: its caches, [capacity, kv heads, head size] each, and its length."""

    def __init__(
        self, executable: TvmExecutable, caches: list[Array], arguments: Array, capacity: int
    ) -> None:
        self._executable = executable
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
        self._check(tokens, taps)
        count = len(tokens)
        given = aligned((count,), np.int64)
        given[:] = tokens
        start = {"last": count - 1, "all": 0, "none": count}[rows]
        wanted = aligned((count - start,), np.int64)
        wanted[:] = np.arange(start, count)
        logits = self._executable.run(self._arguments, given, wanted, self._length)
        self._length += count
        return StepOutput(logits)

    def _check(self, tokens: IntArray, taps: tuple[str, ...]) -> None:
        count, vocabulary = len(tokens), self._executable.vocab_size
        if taps:
            raise UsageError(f'There is no tap "{taps[0]}"', "The backend tvm offers none")
        if not 1 <= count <= self._executable.chunk:
            raise UsageError(
                f"A step of {count} tokens is not possible",
                f"One step takes 1 to {self._executable.chunk} tokens",
                "Give them in several steps",
            )
        if count > self._capacity - self._length:
            raise UsageError(
                f"{count} more tokens do not fit",
                f"The context holds {self._capacity} tokens, of which {self._length} are used",
                "Ask for a larger context, or shorten the text",
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= vocabulary:
            raise UsageError(
                f"The token id {low if low < 0 else high} is outside the vocabulary",
                f"Ids go from 0 to {vocabulary - 1}",
                "Use the tokenizer of this artifact",
            )

    def truncate(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        if not 0 <= length <= self._length:
            raise UsageError(
                f"The sequence cannot be cut to {length} tokens",
                f"It has {self._length}",
                f"Give 0 to {self._length}",
            )
        self._length = length
