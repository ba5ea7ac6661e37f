"""Runs a section that the TVM compiler made: the device half, which needs no TVM package.

Knows no IR, no tokenizer and no sampling.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from arkinfer.errors import ArtifactError, DeviceError
from arkinfer.limits import count
from arkinfer.machine.cores import usable_cores
from arkinfer.runtime.contract import (
    Demand,
    FloatArray,
    LoadOptions,
    Observer,
    check_context,
    closed,
)
from arkinfer.runtime.drafts import Drafts, line
from arkinfer.runtime.saved_state import SavedCache, StateForm
from arkinfer_tvm.cpu import Variant, choose, cpu_flags, platform_name
from arkinfer_tvm.library import Arguments, Array, Bound, Library, Memory, aligned
from arkinfer_tvm.program import (
    ANCESTORS,
    INTERFACE,
    POSITIONS,
    Program,
    Seen,
    programs_from_json,
    seen_from_json,
)
from arkinfer_tvm.state import TvmState
from arkinfer_tvm.storage import BLOCK
from arkinfer_tvm.taps import Taps

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
            variant = chosen(config)
            code = _read(artifact, variant.library)
            programs = programs_from_json(_read(artifact, config["programs"]))
            operands = {o for program in programs for o in program.operands}
            names = sorted(str(o.key) for o in operands if o.kind == "weight")
            weights = {name: artifact.tensor(name) for name in names}
            seen = _seen(artifact, config, programs) if options.observe else None
            taps = _taps(artifact, config, len(programs))
        except _MALFORMED as error:
            raise _unreadable(artifact, error) from error
        name = f"libarkinfer-{hashlib.sha256(code).hexdigest()[:16]}.so"
        threads = options.threads or len(usable_cores())
        calls = max(len(program.calls) for program in programs)
        library = Library(code, name, threads, calls)
        try:
            memory = Memory(programs, library.threads)
            bound = [Bound(program, library, weights, memory) for program in programs]
            digest = artifact.digest
            return TvmExecutable(bound, library, config, variant.isa, digest, taps, seen)
        except _MALFORMED as error:
            library.close()
            raise _unreadable(artifact, error) from error
        except BaseException:
            library.close()
            raise

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether this machine is of the kind that was compiled for; see `contract.Checker`."""
        try:
            chosen(section.config)
            program, *_ = programs_from_json(_read(artifact, section.config["programs"]))
            per_token = sum(cache.per_token for cache in program.caches)
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


def _taps(artifact: Artifact, config: Mapping[str, Any], programs: int) -> Taps | None:
    """Where hidden states can be seen; None: nowhere."""
    if "taps" not in config:
        return None
    return Taps.read(_read(artifact, config["taps"]), programs, artifact.tensor)


def chosen(config: Mapping[str, Any]) -> Variant:
    """The best of the section's variants that this processor runs.

    Args:
        config: what `compiler.py` put into the section.

    Raises:
        DeviceError: this machine is of another kind, or its processor runs none of them.
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
    variants = [Variant(v["isa"], v["library"], tuple(v["flags"])) for v in config["variants"]]
    return choose(variants, cpu_flags())


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
        features: "persist"; "tree" where a program runs trees; "taps" where the section says where
            hidden states are; "values" and "times" when it was opened to be observed.
        taps: names of hidden states.
        caches: how those of a state lie.
        form: of saved states.
        threads: what steps run on.
        variant: the instruction set of the kernels that were chosen.
    """

    def __init__(
        self,
        programs: Sequence[Bound],
        library: Library,
        config: Mapping[str, Any],
        variant: str,
        digest: str,
        taps: Taps | None = None,
        seen: list[list[Seen]] | None = None,
    ) -> None:
        self.vocab_size = count(config["vocab_size"])
        self.max_context = count(config["context"])
        self.chunk = count(config["chunk"])
        self.threads = library.threads
        self.variant = variant
        self._symbols: dict[str, str] = config["symbols"]
        self._taps = taps
        self.taps = () if taps is None else taps.names
        observed = ("values", "times") if seen is not None else ()
        tapped = ("taps",) if taps is not None else ()
        trees = ("tree",) if any(ANCESTORS in p.program.ports for p in programs) else ()
        self.features: frozenset[str] = frozenset({"persist", *trees, *tapped, *observed})
        self.caches = programs[0].program.caches
        saved = (
            SavedCache(f"{number} {cache.order}", cache.dtype, cache.bytes(1), BLOCK)
            for number, cache in enumerate(self.caches)
        )
        self.form = StateForm(digest, NAME, tuple(saved))
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
        self.check_open()
        check_context(self, context)
        sizes = [cache.bytes(context) for cache in self.caches]
        # In one piece, for which numpy asks for large pages, as it does from some MB on.
        memory = aligned((sum(sizes),), np.uint8)
        ends = zip(sizes, accumulate(sizes), strict=True)
        caches = [memory[end - size : end] for size, end in ends]
        return TvmState(self, caches, [each.arguments(caches) for each in self._programs], context)

    def check_open(self) -> None:
        """Raises UsageError after `close`."""
        if self._closed:
            raise closed()

    def program(self, tokens: int, *, tree: bool = False) -> int:
        """Which program runs steps of so many tokens: the first that has room for them."""
        programs = enumerate(each.program for each in self._programs)
        fits = (i for i, p in programs if tokens <= p.most and (not tree or ANCESTORS in p.ports))
        return next(fits)

    def kernels(self, program: int) -> list[tuple[str, tuple[str, ...]]]:
        """Of each call of a program its kernel, and the IR values that it computes."""
        return _values_of_calls(self._programs[program].program, self._seen[program])

    def run(
        self,
        arguments: Sequence[Arguments],
        caches: list[Array],
        tokens: Array,
        rows: Array,
        length: int,
        *,
        taps: Sequence[str] = (),
        drafts: Drafts | None = None,
    ) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Computes one step of a state that holds `length` tokens: logits [R, vocab_size], taps.

        Args:
            arguments: of each program.
            caches: of the state.
            tokens: int64 [T].
            rows: int64 [R], which of them want logits.
            length: of the sequence so far.
            taps: names of hidden states; the step stops where they are made.
            drafts: the tree that the tokens are; None: they follow one another.
        """
        shown: dict[str, FloatArray] = {}
        number = self.program(len(tokens), tree=drafts is not None)
        ports, symbols = self._ports(number, tokens, rows, length, drafts)
        program, own = self._programs[number], arguments[number]
        with self._turn:
            self.check_open()
            if self._taps is not None and taps:
                seen = self._taps.seen(number, taps)
                program.observe(own, symbols, ports, caches, seen, shown.__setitem__)
                shown = self._taps.given(shown, taps)
            else:
                program.run(own, symbols, ports.items())
        return cast(FloatArray, ports[LOGITS]), shown

    def observe(
        self,
        arguments: Sequence[Arguments],
        caches: list[Array],
        tokens: Array,
        rows: Array,
        length: int,
        observer: Observer,
    ) -> FloatArray:
        """As `run`, and shows the values that its kernels leave in memory: logits."""
        number = self.program(len(tokens))
        ports, symbols = self._ports(number, tokens, rows, length)
        with self._turn:
            self.check_open()
            self._programs[number].observe(
                arguments[number], symbols, ports, caches, self._seen[number], observer
            )
        return cast(FloatArray, ports[LOGITS])

    def run_timed(
        self, arguments: Sequence[Arguments], tokens: Array, rows: Array, length: int
    ) -> tuple[FloatArray, Array]:
        """Logits as of `run`, and the nanoseconds that each call took."""
        number = self.program(len(tokens))
        ports, symbols = self._ports(number, tokens, rows, length)
        with self._turn:
            self.check_open()
            took = self._programs[number].run_timed(arguments[number], symbols, ports.items())
        return cast(FloatArray, ports[LOGITS]), took

    def _ports(
        self,
        number: int,
        tokens: Array,
        rows: Array,
        length: int,
        drafts: Drafts | None = None,
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Inputs and outputs of a step of a program, and the values of its symbols."""
        logits = aligned((len(rows), self.vocab_size), np.float32)
        ports = {TOKENS: tokens, ROWS: rows, LOGITS: logits}
        if ANCESTORS in self._programs[number].program.ports:
            tree = line(len(tokens)) if drafts is None else drafts
            ports[POSITIONS] = aligned((len(tokens),), np.int64)
            ports[POSITIONS][:] = tree.depths + length
            ports[ANCESTORS] = aligned((len(tokens),), np.uint64)
            ports[ANCESTORS][:] = tree.masks
        names = self._symbols
        symbols = {names[TOKENS]: len(tokens), names[ROWS]: len(rows), names["cached"]: length}
        return ports, symbols

    def close(self) -> None:
        """Ends the threads, after the running step; may be called again."""
        with self._turn:
            self._closed = True
            self._library.close()


def _values_of_calls(program: Program, seen: list[Seen]) -> list[tuple[str, tuple[str, ...]]]:
    """Of each call its kernel and the values that it computes, or helps to: calls that prepare
    something for a later one belong to its values."""
    made: dict[int, list[str]] = {}
    for value in seen:
        made.setdefault(value.call, []).extend((*value.inside, value.value))
    values: tuple[str, ...] = ()
    result: list[tuple[str, tuple[str, ...]]] = []
    for number in range(len(program.calls), 0, -1):
        values = tuple(made.get(number, values))
        result.append((program.calls[number - 1].kernel, values))
    return result[::-1]
