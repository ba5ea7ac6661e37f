"""The tensors to export: a checkpoint's own, with matrices quantized on the way where asked.

Knows no layout. What is quantized already stays as it is, unless the layout cannot hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import ArkError, UnsupportedError, UsageError
from arkinfer.export import Request
from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.quant import parse_quant, replacement, round_to_nearest
from arkinfer.quant.spec import parse_linear

if TYPE_CHECKING:
    from arkinfer.frontend.leaves import Tensors

_SHORT = ("int4", "int8")
DEFAULT = "int4"
"""How a checkpoint that is not quantized is, unless asked otherwise."""


class Rounded:
    """A checkpoint some of whose matrices are quantized by round-to-nearest when they are read.

    Args:
        tensors: the checkpoint.
        schemes: of these matrices, [N, K], by name.
        scale_dtype: scales are rounded to it.
    """

    def __init__(
        self, tensors: Tensors, schemes: Mapping[str, Scheme], scale_dtype: npt.DTypeLike
    ) -> None:
        self._tensors = tensors
        self._own = dict(schemes)
        self._scale_dtype = np.dtype(scale_dtype)

    def names(self) -> list[str]:
        return self._tensors.names()

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.float32) if name in self._own else self._tensors.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(name)

    def schemes(self) -> Mapping[str, Scheme]:
        return {**self._tensors.schemes(), **self._own}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        if name not in self._own:
            return self._tensors.read(name, start, stop)
        start, stop, _ = slice(start, stop).indices(self.shape(name)[0])
        return self.quantized(name, start, max(start, stop)).dequantize()

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        """Rows of a matrix in the scheme's numbers.

        Raises:
            CheckpointError: the rows hold numbers that are not finite; names the matrix.
        """
        if name not in self._own:
            return self._tensors.quantized(name, start, stop)
        try:
            found = round_to_nearest(self._tensors.read(name, start, stop), self._own[name])
        except ArkError as error:
            raise type(error)(f"{name}: {error.what}", error.why, error.fix) from None
        parts = found.parts()
        with np.errstate(over="ignore"):
            parts["scale"] = parts["scale"].astype(self._scale_dtype)
        if not np.isfinite(parts["scale"].astype(np.float32)).all():
            raise UnsupportedError(
                f"{name} has numbers too large for scales in {self._scale_dtype.name}",
                "The loaders of the format have no others",
                "Check the checkpoint: trained weights are far smaller",
            )
        return QuantizedTensor.from_parts(found.scheme, found.shape, parts)


class Halved:
    """Tensors whose scales are float16 wherever that has the same numbers, matrix by matrix."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._fits: dict[str, bool] = {}

    def names(self) -> list[str]:
        return self._tensors.names()

    def dtype(self, name: str) -> np.dtype[Any]:
        return self._tensors.dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors.shape(name)

    def schemes(self) -> Mapping[str, Scheme]:
        return self._tensors.schemes()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        return self._tensors.read(name, start, stop)

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        if name not in self._fits:
            scale = self._tensors.quantized(name, 0, self.shape(name)[0]).scale
            with np.errstate(over="ignore"):
                self._fits[name] = np.array_equal(scale, scale.astype(np.float16))
        found = self._tensors.quantized(name, start, stop)
        if not self._fits[name]:
            return found
        parts = found.parts() | {"scale": found.scale.astype(np.float16)}
        return QuantizedTensor.from_parts(found.scheme, found.shape, parts)


def quantized_source(
    tensors: Tensors,
    request: Request,
    problem: Callable[[Scheme], str],
    scale_dtype: npt.DTypeLike,
) -> tuple[Tensors, tuple[str, ...]]:
    """The tensors with all linears quantized in forms that a layout can hold, and notes on it.

    Args:
        tensors: the checkpoint's, or what a method makes of them; no number is read.
        request: without a `quant`, tensors that are not quantized become `int4`.
        problem: why the layout cannot hold a scheme; "" where it can.
        scale_dtype: of the scales of what is quantized here.

    Raises:
        UsageError: a checkpoint that is quantized already was to be quantized, or one that is not
            was to stay so; or the layout cannot hold what was asked for.
        UnsupportedError: the layout cannot hold a matrix of the checkpoint; names it.
    """
    stored = {name: scheme for name, scheme in tensors.schemes().items() if is_linear(name)}
    if request.calibrated:
        for scheme in stored.values():
            _check(scheme, problem)
        return tensors, ()
    wanted, requantize = (
        _scheme(request.quant or ("none" if stored else DEFAULT)),
        request.requantize,
    )
    if not stored:
        return _rounded(tensors, wanted, request.overrides, problem, scale_dtype), ()
    bad = {name: why for name, scheme in stored.items() if (why := problem(scheme))}
    if wanted is not None and not requantize:
        names = ", ".join(sorted({scheme.name for scheme in stored.values()}))
        raise UsageError(
            f"The checkpoint is quantized already, to {names}",
            "Quantizing it again would add to its errors",
            "Leave --quant out, which takes the weights as they are; with --requantize, --quant "
            "says what becomes of those that the format cannot hold",
        )
    if not bad:
        return tensors, ()
    first = next(iter(bad))
    if not requantize:
        raise UnsupportedError(
            f"{first} is {stored[first].name}",
            f"{bad[first]} ({len(bad)} of {len(stored)} quantized matrices)",
            "Give --requantize to round these once more",
        )
    again = {n: replacement(stored[n], tensors.shape(n)[1], wanted) for n in bad}
    for name, scheme in again.items():
        if why := problem(scheme):
            raise UnsupportedError(f"{name} cannot become {scheme.name}", why, "Choose another")
    kinds = ", ".join(sorted({scheme.name for scheme in again.values()}))
    note = f"{len(again)} of {len(stored)} quantized matrices were rounded once more, to {kinds}."
    return Rounded(tensors, again, scale_dtype), (note,)


def _scheme(quant: str) -> Scheme | None:
    """What linears are rounded to; None: they stay as they are.

    Raises:
        UsageError: a scheme that takes more than rounding, or none.
    """
    if quant in ("none", *_SHORT):
        return parse_quant(quant).linear
    try:
        return parse_linear(quant)
    except UsageError as error:
        raise UsageError(
            f'"{quant}" cannot be exported in this format',
            "It holds weights of none, int4, int8, or a scheme such as int4-g128-asym",
            "Export ternary checkpoints with --format gguf --type tq2_0",
        ) from error


def _rounded(
    tensors: Tensors,
    scheme: Scheme | None,
    overrides: Mapping[str, Scheme],
    problem: Callable[[Scheme], str],
    scale_dtype: npt.DTypeLike,
) -> Tensors:
    if scheme is None:
        raise UsageError(
            "There is nothing to export: the checkpoint is not quantized, and --quant is none",
            "The format is for quantized weights",
            "Give --quant int4, or another scheme",
        )
    linears = {name: overrides.get(name, scheme) for name in tensors.names() if is_linear(name)}
    for name, own in linears.items():
        _check(own, problem)
        try:
            own.group_size(tensors.shape(name)[1])
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {error.what}", error.why, error.fix) from None
    return Rounded(tensors, linears, scale_dtype)


def _check(scheme: Scheme, problem: Callable[[Scheme], str]) -> None:
    """A scheme that was asked for, and not found in a checkpoint."""
    if why := problem(scheme):
        raise UsageError(f"The format does not hold {scheme.name}", why, "Choose another --quant")


def is_linear(name: str) -> bool:
    """Whether it is a matrix of a layer: neither embedding nor head, nor a norm's vector."""
    return ".layers." in name and "norm" not in name
