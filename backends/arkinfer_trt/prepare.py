"""Finishes a section on this device: which network, which weights become constants, and an engine
that is kept for the next time. Knows neither sequences nor how an engine runs.

A dense matrix becomes a constant where memory allows: TensorRT may then rearrange it for its
kernels. It stays an input, uploaded once, where four bytes for each of its bytes, which building
takes, are not free (`memory.building`); or where the user says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from arkinfer.artifact import Artifact
from arkinfer.errors import DeviceError, UnsupportedError, UsageError
from arkinfer.machine.procfs import System
from arkinfer.runtime.contract import LoadOptions
from arkinfer.runtime.prepared import Choice, Prepared
from arkinfer_trt import memory
from arkinfer_trt.board import Board, Gpu, check_disk, check_memory
from arkinfer_trt.build import Built, Constant, Draft, Range, build
from arkinfer_trt.choose import Measured, measure
from arkinfer_trt.cuda import Cuda
from arkinfer_trt.kernels.stored import read_kernels
from arkinfer_trt.loading import constants_of
from arkinfer_trt.numbers import inputs
from arkinfer_trt.plugins import register
from arkinfer_trt.section import (
    HIDDEN,
    KEYS,
    POSITIONS,
    ROWS,
    Network,
    NetworkWeight,
    TensorRTSection,
)
from arkinfer_trt.store import EngineKey, Kept, Store


@dataclass(frozen=True)
class Ready:
    """An engine that can be loaded.

    Attributes:
        plan: TensorRT's bytes.
        network: which of the section's it is.
        prepared: what the user is told of it.
    """

    plan: memoryview
    network: Network
    prepared: Prepared


@dataclass(frozen=True)
class Preparation:
    """All that an engine is made of and for.

    Attributes:
        artifact: an open one.
        section: of it.
        options: what the user asked for.
        board: this machine.
        gpu: of it.
        cuda: the same, at work.
        store: where engines are kept.
        key: under what.
    """

    artifact: Artifact
    section: TensorRTSection
    options: LoadOptions
    board: Board
    gpu: Gpu
    cuda: Cuda
    store: Store
    key: EngineKey

    def kept(self) -> Ready | None:
        """The engine that is there."""
        found = self.store.engine(self.key)
        if found is None:
            return None
        try:
            network = _network(str(found.facts["network"]), self.section.networks)
            return Ready(found.content, network, _noted(found, self.section))
        except (LookupError, TypeError, ValueError, UsageError):
            return None  # another arkinfer noted something else

    def known(self) -> Prepared | None:
        """What is told of the engine that is there."""
        found = self.kept()
        return None if found is None else found.prepared

    def ready(self) -> Ready:
        """The engine that is there, or a new one; see `Preparer.prepare`."""
        return self.kept() or self.make()

    def make(self, note: str = "") -> Ready:
        """Builds an engine and keeps it, unless another process did meanwhile.

        Args:
            note: why, for the user, one that is there is of no use; "": there is none.

        Raises:
            DeviceError: memory, disk or TensorRT do not allow it.
            UsageError: the section has no such network.
        """
        with self.store.alone(self.options.on_progress):
            found = None if note else self.kept()
            return found or self._made([note] if note else [])

    def _made(self, passing: list[str]) -> Ready:
        """A new engine.

        Args:
            passing: what the user is told this time, beside what stays with the engine.
        """
        started = time.monotonic()
        passing += [f"An engine for {name} is there, and of no use here" for name in self._stale()]
        notes: list[str] = []
        measured = self._measured(self._usable(notes))
        notes += [_left_out(name, why) for name, why in measured.problems.items()]
        timed_before = bool(self.store.timings(self.key))
        network, weights, built = self._built(measured.order, notes)
        several = len(self.section.networks) > 1
        prepared = Prepared(
            path=None,
            nbytes=built.plan.nbytes,
            seconds=time.monotonic() - started,
            network=network if several else "",
            choices=_choices(network, measured),
            notes=tuple(notes),
            facts={
                "weights": weights,
                "tensorrt": self.key.tensorrt,
                "device": self.key.device,
                "timing_cache": timed_before,
                "peak_memory": System().kib("proc/self/status", "VmHWM"),
            },
        )
        path = self.store.keep_engine(self.key, built.plan, _facts(prepared, network))
        self.store.keep_timings(self.key, built.timings)
        told = replace(prepared, path=path, notes=(*notes, *passing, *self.store.notes))
        found = self.store.engine(self.key) if path is not None else None
        plan = (
            built.plan if found is None else found.content
        )  # which takes no memory but the file's
        return Ready(plan, network, told)

    def _usable(self, notes: list[str]) -> list[Network]:
        """Networks that may be taken; without TensorRT's module for plug-ins, those without any."""
        names: list[Network] = self._allowed()
        if not self.section.kernels:
            return names
        try:
            register(read_kernels(self.artifact.read(self.section.kernels)))
        except ImportError as error:
            problem = _no_plugins(error)
            names = [name for name in names if all(w.form != "gemv" for w in self._weights(name))]
            if not names:
                raise problem from error
            notes.append(f"Networks with our own kernels are left out. {problem}")
        return names

    def _allowed(self) -> list[Network]:
        known, asked = self.section.networks, self.options.network
        return list(known) if asked is None else [_network(asked, known)]

    def _measured(self, names: list[Network]) -> Measured:
        """What is fastest; where there is nothing to measure, all in their order."""
        if len(names) == 1 or not self.section.probes:
            return Measured(dict.fromkeys(names, 0.0), {})
        report = partial(self.report, "Timing both ways to multiply")
        space = memory.workspace(self._free())
        return measure(self.artifact, self.section, self.cuda, space, report)

    def _built(self, order: list[Network], notes: list[str]) -> tuple[Network, str, Built]:
        """The first network that builds, and why others did not: that is said, and not silent."""
        for network in order[:-1]:
            try:
                return self._build(network)
            except (DeviceError, UnsupportedError) as error:
                notes.append(_left_out(network, str(error)))
        return self._build(order[-1])

    def _build(self, network: Network) -> tuple[Network, str, Built]:
        weights = self._way(network)
        constant, beside = self._sizes(network, weights)
        self._check(constant, beside)
        constants: dict[str, Constant] = {}
        for weight in self._weights(network):
            if _is_constant(weight, weights):
                constants |= constants_of(self.artifact, weight, self.section.dtype)
        model = self.artifact.read(self.section.networks[network])
        draft = Draft(network, model, constants, _profiles(self.section))
        built = build(
            draft,
            workspace=memory.workspace(self._free()),
            timings=self.store.timings(self.key),
            report=partial(self.report, "Building the engine"),
        )
        return network, weights, built

    def _way(self, network: Network) -> str:
        """Whether dense matrices become "constants" or stay "inputs"."""
        if self.options.weights is not None:
            return self.options.weights
        constant, _ = self._sizes(network, "constants")
        return "constants" if memory.building(constant) <= self._free() else "inputs"

    def _sizes(self, network: Network, way: str) -> tuple[int, int]:
        """Bytes of a network's constants, and of weights that stay beside the engine."""
        constant = beside = 0
        for weight in self._weights(network):
            nbytes = sum(kind.nbytes for kind in inputs(weight, self.section.dtype).values())
            if _is_constant(weight, way):
                constant += nbytes
            else:
                beside += nbytes
        return constant, beside

    def _weights(self, network: Network) -> list[NetworkWeight]:
        return [weight for weight in self.section.weights if network in weight.networks]

    def _check(self, constant: int, beside: int) -> None:
        """Raises DeviceError unless there is memory to make the engine and to run it, and disk."""
        instead = "Prepare it with --weights inputs" if self.options.weights == "constants" else ""
        need = memory.building(constant)
        check_memory(self.board, self.gpu, need, "Building the engine", instead)
        need = memory.RUNTIME + memory.engine(constant) + beside + self.section.cache_bytes
        instead = "Build the artifact with a smaller context or fewer bits"
        check_memory(self.board, self.gpu, need, "Running the model", instead)
        check_disk(self.store.folder, memory.engine(constant))

    def _free(self) -> int:
        return self.board.free(self.gpu)

    def _stale(self) -> list[str]:
        return self.store.stale(self.key)

    def report(self, what: str, done: int, total: int) -> None:
        """Tells the user how far it is."""
        if self.options.on_progress is not None:
            self.options.on_progress(what, done, total)


WAYS = ("constants", "inputs")
"""What may become of a dense matrix."""


def _is_constant(weight: NetworkWeight, way: str) -> bool:
    return weight.constant or (weight.form == "dense" and way == "constants")


def _network(name: str, known: Iterable[Network]) -> Network:
    for network in known:
        if network == name:
            return network
    raise UsageError(
        f'The artifact has no network "{name}"',
        f"It has: {', '.join(known)}",
        "Name one of these, or none for the faster one",
    )


def _choices(network: Network, measured: Measured) -> tuple[Choice, ...]:
    timed = {name: seconds for name, seconds in measured.seconds.items() if seconds}
    return (Choice("network", network, timed),) if len(timed) > 1 else ()


def _no_plugins(error: ImportError) -> DeviceError:
    return DeviceError(
        "TensorRT cannot be given kernels from Python",
        f"Python says: {error}",
        "Install TensorRT's Python module whole: sudo apt-get install --reinstall "
        "python3-libnvinfer",
    )


def _left_out(network: Network, why: str) -> str:
    return f'The network "{network}" is left out. {why}'.removesuffix(".")


def _profiles(section: TensorRTSection) -> list[dict[str, Range]]:
    """Shapes of the inputs that vary, by profile."""

    def shapes(tokens: int, rows: int, seen: int) -> dict[str, tuple[int, ...]]:
        hidden = (1, tokens, section.hidden_size)
        return {HIDDEN: hidden, POSITIONS: (1, tokens), ROWS: (rows,), KEYS: (1, 1, 1, seen)}

    found: list[dict[str, Range]] = []
    for sizes in section.profiles().values():
        least, usual, most = (shapes(*some) for some in zip(*sizes.values(), strict=True))
        found.append({name: (least[name], usual[name], most[name]) for name in least})
    return found


def _facts(prepared: Prepared, network: Network) -> dict[str, Any]:
    """What is noted with an engine."""
    return {
        "network": network,
        "seconds": prepared.seconds,
        "choices": [asdict(choice) for choice in prepared.choices],
        "notes": list(prepared.notes),
        "facts": dict(prepared.facts),
    }


def _noted(found: Kept, section: TensorRTSection) -> Prepared:
    """What was noted with an engine that is there.

    Raises:
        LookupError, TypeError, ValueError: it is something else.
    """
    facts = found.facts
    several = len(section.networks) > 1
    return Prepared(
        path=found.path,
        nbytes=int(facts["size"]),
        seconds=float(facts["seconds"]),
        reused=True,
        network=str(facts["network"]) if several else "",
        choices=tuple(Choice(**choice) for choice in facts["choices"]),
        notes=tuple(map(str, facts["notes"])),
        facts=dict(facts["facts"]),
    )
