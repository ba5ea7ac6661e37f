"""Chooses between two networks of a section by timing their products on this device. Knows no cache
of engines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from arkinfer.artifact import Artifact
from arkinfer.errors import DeviceError, UnsupportedError
from arkinfer_trt.build import Draft, build
from arkinfer_trt.cuda import FLUSH, Cuda, Memory
from arkinfer_trt.engine import Engine
from arkinfer_trt.loading import constants_of, upload
from arkinfer_trt.section import Network, NetworkWeight, Probe, TensorRTSection

X, Y = "x", "y"
"""Input and output of a probe."""

WARM, ROUNDS = 3, 21
"""How often a product runs before it is timed, and while it is; the median counts."""


@dataclass(frozen=True)
class Measured:
    """What the probes said.

    Attributes:
        seconds: of the products of one step, by network; those that failed are not there.
        problems: why a network is out, in a sentence, by network.
    """

    seconds: Mapping[Network, float]
    problems: Mapping[Network, str]

    @property
    def order(self) -> list[Network]:
        """The networks that run, the faster one first."""
        return sorted(self.seconds, key=lambda name: self.seconds[name])


def measure(
    artifact: Artifact,
    section: TensorRTSection,
    cuda: Cuda,
    workspace: int,
    report: Callable[[int, int], object],
) -> Measured:
    """Times each product of both networks for one token, with its weights out of the caches, and
    adds them up as often as a step has them.

    Args:
        artifact: where the weights are.
        section: with probes.
        cuda: the device.
        workspace: see `build.build`.
        report: called with how many products were timed, and of how many.

    Raises:
        DeviceError: no network runs here.
    """
    seconds: dict[Network, float] = dict.fromkeys(section.networks, 0.0)
    problems: dict[Network, str] = {}
    total = len(section.probes) * len(seconds)
    done = 0
    error: Exception | None = None
    for probe in section.probes:
        for network in section.networks:
            report(done, total)
            done += 1
            if network in problems:
                continue
            try:
                took = _time(artifact, section, probe, network, cuda, workspace)
                seconds[network] += took * probe.times
            except (DeviceError, UnsupportedError) as problem:
                error = problem
                problems[network] = str(problem)
                del seconds[network]
    report(total, total)
    if not seconds and error is not None:
        raise error
    return Measured(seconds, problems)


def _time(
    artifact: Artifact,
    section: TensorRTSection,
    probe: Probe,
    network: Network,
    cuda: Cuda,
    workspace: int,
) -> float:
    weight = _weight(section, probe.weights[network])
    width, columns = weight.stored.shape
    constants = constants_of(artifact, weight, section.dtype) if weight.constant else {}
    shape = (1, 1, columns)
    model = artifact.read(probe.files[network])
    draft = Draft(f"{network}: {weight.inputs[0]}", model, constants, [{X: (shape, shape, shape)}])
    engine = Engine(build(draft, workspace=workspace).plan)
    memory = Memory(cuda)
    try:
        itemsize = {"float16": 2, "float32": 4}[section.dtype]
        addresses = {
            X: memory.device(columns * itemsize, "a product"),
            Y: memory.device(width * itemsize, "a product"),
        }
        cuda.clear(addresses[X], columns * itemsize)
        if not constants:
            addresses |= upload(artifact, weight, section.dtype, cuda, memory)
        context = engine.context(0, cuda, engine.activations(0, memory, "a product"))
        context.shape({X: shape})
        context.bind(addresses)
        for _ in range(WARM):
            context.run()
        return median(cuda.seconds(context.run, ROUNDS, memory.device(FLUSH, "the clock")))
    finally:
        cuda.drain()
        memory.close()


def _weight(section: TensorRTSection, first: str) -> NetworkWeight:
    return next(weight for weight in section.weights if weight.inputs[0] == first)
