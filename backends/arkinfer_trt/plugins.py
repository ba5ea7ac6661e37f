"""Registers the GEMV plug-in with TensorRT, as an ahead-of-time plug-in in Python: TensorRT gets
PTX that was compiled on another machine, and keeps it in the engine. Knows no Triton.

Needed while an engine is built; one that was built runs without it. The API, `tensorrt.plugin`, is
experimental (TensorRT says so when it is imported); docs/adr/0016 tells why we use it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from arkinfer.errors import InternalError
from arkinfer_trt.kernels.gemv import (
    ATTRIBUTE,
    NAMESPACE,
    OP,
    SCALARS,
    TENSORS,
    TILES,
    Gemv,
    Kernel,
    kernel_name,
    tactics,
)

PLUGIN = f"{NAMESPACE}::{OP}"

FORMATS = "FP16, INT32, FP16, FP16"
"""Of x, words, scale and y; all of them linear."""


def register(kernels: Mapping[str, Kernel]) -> None:
    """Makes the op known to TensorRT's parsers and builders in this process. Once is enough;
    a second call changes which kernels are used by networks that are parsed from then on.

    Args:
        kernels: by name, compiled for a compute capability not above this machine's.
    """
    api = import_module("tensorrt.plugin")
    _KERNELS.clear()
    _KERNELS.update(kernels)
    if PLUGIN in _REGISTERED:
        return
    plugin = _Plugin(api)
    api.register(PLUGIN)(plugin.described())
    api.autotune(PLUGIN)(plugin.choices())
    api.aot_impl(PLUGIN)(plugin.launch())
    _REGISTERED.add(PLUGIN)


_KERNELS: dict[str, Kernel] = {}
_REGISTERED: set[str] = set()


class _Plugin:
    """The three functions of the plug-in.

    TensorRT reads their signatures with `inspect`: names, order, and annotations that are classes,
    not strings; so they are annotated when `tensorrt.plugin` is there.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        numbers = np.ndarray[Any, np.dtype[np.int32]]
        self._inputs = {**dict.fromkeys(TENSORS, api.TensorDesc), ATTRIBUTE: numbers}
        self._inputs_and_outputs = {**self._inputs, "outputs": tuple[api.TensorDesc]}

    def described(self) -> Callable[..., Any]:
        """Shape and type of y."""

        def described(x: Any, words: Any, scale: Any, matrix: Any) -> Any:
            shape = tuple(x.shape_expr)
            return self._api.from_shape_expr((*shape[:-1], _gemv(matrix).width), x.dtype)

        described.__annotations__ = {**self._inputs, "return": self._api.TensorDesc}
        return described

    def choices(self) -> Callable[..., Any]:
        """Types, and the tactics that the builder times: those whose kernels are at hand."""

        def choices(x: Any, words: Any, scale: Any, matrix: Any, outputs: Any) -> Any:
            found = list(_at_hand(_gemv(matrix)))
            return [self._api.AutoTuneCombination(FORMATS, "LINEAR", found)]

        returned = list[self._api.AutoTuneCombination]
        choices.__annotations__ = {**self._inputs_and_outputs, "return": returned}
        return choices

    def launch(self) -> Callable[..., Any]:
        """Name, PTX, launch and scalars; the last two as functions of the shape of x."""

        def launch(x: Any, words: Any, scale: Any, matrix: Any, outputs: Any, tactic: int) -> Any:
            api, gemv = self._api, _gemv(matrix)
            _check(gemv, tuple(words.shape), tuple(scale.shape))
            kernels = _at_hand(gemv)
            number = tactic or next(iter(kernels))
            kernel = kernels[number]
            tokens = x.shape_expr.numel() // gemv.inputs
            along, across = TILES[number - 1].grid(gemv, tokens, api.cdiv)
            call = api.KernelLaunchParams(
                grid_x=along, grid_y=across, block_x=kernel.threads, shared_mem=kernel.shared
            )
            values = {"tokens": tokens, "width": gemv.width}
            scalars = api.SymIntExprs(len(SCALARS))
            for i, name in enumerate(SCALARS):
                scalars[i] = api.SymInt32(values[name])
            return kernel.name, kernel.ptx, call, scalars

        returned = tuple[str, str, self._api.KernelLaunchParams, self._api.SymIntExprs]
        both = self._inputs_and_outputs
        launch.__annotations__ = {**both, "tactic": int, "return": returned}
        return launch


def _gemv(matrix: Any) -> Gemv:
    return Gemv(*(int(number) for number in matrix))


def _check(gemv: Gemv, *shapes: tuple[int, ...]) -> None:
    expected = tuple(shape for _, shape in gemv.parts().values())
    if shapes != expected:
        raise InternalError(
            f"A node {OP} multiplies by {gemv}", f"Its weights are {shapes}, not {expected}"
        )


def _at_hand(gemv: Gemv) -> dict[int, Kernel]:
    """Kernels that were given, by tactic.

    Raises:
        InternalError: there is none.
    """
    names = {number: kernel_name(gemv, tile) for number, tile in tactics(gemv).items()}
    found = {number: _KERNELS[name] for number, name in names.items() if name in _KERNELS}
    if not found:
        raise InternalError(
            f"The network multiplies by {gemv}, for which the artifact has no kernel",
            f"It has {', '.join(sorted(_KERNELS)) or 'none'}",
        )
    return found
