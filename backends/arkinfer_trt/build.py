"""Builds an engine: a network and its constants in, TensorRT's bytes out. Knows no artifact."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import DeviceError
from arkinfer.runtime.onnx_bytes import ExternalTensor, with_initializers
from arkinfer_trt.messages import Phases, logger, monitor
from arkinfer_trt.numbers import Input

if TYPE_CHECKING:
    import tensorrt as trt

Shape: TypeAlias = tuple[int, ...]
Range: TypeAlias = tuple[Shape, Shape, Shape]
"""The least, the usual and the largest shape of an input."""


@dataclass(frozen=True)
class Constant:
    """Numbers that the engine keeps, and may put into an order of its own.

    Attributes:
        kind: as the network has them.
        data: uint8 [kind.nbytes].
    """

    kind: Input
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Draft:
    """All that an engine is made of.

    Attributes:
        name: of the network, for messages.
        model: a serialized ONNX model whose weights are inputs.
        constants: of these inputs, those that become constants.
        profiles: of each optimization profile, the shapes of inputs that vary.
    """

    name: str
    model: bytes
    constants: Mapping[str, Constant]
    profiles: Sequence[Mapping[str, Range]]


@dataclass(frozen=True)
class Built:
    """An engine, and what was timed on the way to it.

    Attributes:
        plan: TensorRT's bytes, for this version and this device.
        timings: its timing cache.
    """

    plan: memoryview
    timings: bytes


def build(
    draft: Draft,
    *,
    workspace: int,
    timings: bytes = b"",
    report: Callable[[int, int], object] | None = None,
) -> Built:
    """Builds an engine on this device; TensorRT times kernels while it does.

    Args:
        draft: what to build.
        workspace: bytes of device memory that a kernel may have to work in.
        timings: a timing cache; one of another version or device is not used.
        report: called with how much is done of how much; what it raises, Ctrl-C for one, ends the
            work and is raised.

    Raises:
        DeviceError: TensorRT refuses the network or fails; says what it said.
    """
    errors: deque[str] = deque(maxlen=8)
    phases = Phases(report or _silent)
    try:
        built = _built(draft, workspace, timings, phases, errors)
    except (RuntimeError, TypeError) as error:  # what its objects raise that cannot be made
        raise _failed(draft, [*errors, str(error)]) from error
    if phases.stopped is not None:
        raise phases.stopped
    if built is None:
        raise _failed(draft, errors)
    return built


def _built(
    draft: Draft, workspace: int, timings: bytes, phases: Phases, errors: deque[str]
) -> Built | None:
    import tensorrt as trt

    log = logger(errors)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    _parse(parser, draft, errors)
    _let_attention_decompose(network)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    for shapes in draft.profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in shapes.items():
            profile.set_shape(name, least, usual, most)
        if config.add_optimization_profile(profile) < 0:
            return None
    cache = _timing_cache(config, timings)
    watching = monitor(phases)  # has to be there as long as the builder
    config.progress_monitor = watching
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return None
    return Built(memoryview(plan), bytes(memoryview(cache.serialize())) if cache else b"")


def _silent(done: int, total: int) -> None:
    pass


def _parse(parser: trt.OnnxParser, draft: Draft, errors: Sequence[str]) -> None:
    tensors = [
        ExternalTensor(name, c.kind.dtype, c.kind.shape, "weights", 0, c.kind.nbytes)
        for name, c in draft.constants.items()
    ]
    if not parser.load_model_proto(with_initializers(draft.model, tensors)):
        raise _refused(parser, draft, errors)
    for name, constant in draft.constants.items():
        if not parser.load_initializer(name, constant.data.ctypes.data, constant.data.nbytes):
            raise _refused(parser, draft, errors)
    if not parser.parse_model_proto():
        raise _refused(parser, draft, errors)


def _let_attention_decompose(network: trt.INetworkDefinition) -> None:
    """TensorRT may make attention of plain layers. It refuses a network for which it has no kernel
    that does all of it, unless told so, and nobody has published which kernels Orin has."""
    import tensorrt as trt

    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_OUTPUT:
            layer.__class__ = trt.IAttentionOutputLayer  # the bindings say ILayer of every layer
            cast("trt.IAttentionOutputLayer", layer).attention.decomposable = True


def _timing_cache(config: trt.IBuilderConfig, timings: bytes) -> trt.ITimingCache | None:
    """The one that is given, or an empty one where TensorRT has no use for it."""
    for content in (timings, b"") if timings else (b"",):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _refused(parser: trt.OnnxParser, draft: Draft, errors: Sequence[str]) -> DeviceError:
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [f"{e.node_operator()} at {e.node_name()}: {e.desc()}" for e in found] or list(errors)
    return DeviceError(
        f'TensorRT does not take the network "{draft.name}"',
        "; ".join(said) or "It does not say why",
        "Please report it, with what arkinfer doctor --report says",
    )


def _failed(draft: Draft, errors: Sequence[str]) -> DeviceError:
    return DeviceError(
        f'TensorRT could not build the network "{draft.name}"',
        "; ".join(errors) or "It does not say why",
        "If memory is short, close other programs; else report it, with what "
        "arkinfer doctor --report says",
    )
