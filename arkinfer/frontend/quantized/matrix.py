"""What the readers of quantized checkpoints share: one matrix, and what must hold of it.

Knows no format and no file: tensors come by name from whoever opened the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.packing import QuantizedTensor, Scheme
from arkinfer.packing.tensor import SCALE_DTYPES

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]

Shapes: TypeAlias = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
"""Every tensor of a checkpoint by name: its dtype and shape."""

Read: TypeAlias = Callable[[str, int, int], Array]
"""Name, start, stop -> these rows of a tensor, as they lie in the file."""

Facts: TypeAlias = Mapping[str, Any]
"""`quantization_config` of config.json, or MLX's `quantization`; may be empty."""

BLOCK = 4 << 20
"""Codes that a conversion has unpacked at a time."""


class Matrix(Protocol):
    """A matrix [N, K] that is quantized in the checkpoint."""

    @property
    def scheme(self) -> Scheme: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def tensors(self) -> tuple[str, ...]:
        """The checkpoint's tensors that it is made of."""
        ...

    def rows(self, read: Read, start: int, stop: int) -> QuantizedTensor:
        """Rows [start:stop) of it; scales in the dtype that they are stored in.

        Raises:
            CheckpointError: scales that are not finite, or a file that is cut off.
        """
        ...


class LastConverted:
    """Keeps the matrix that was converted last.

    Of a layout that is transposed, no row can be had without the whole. Rows are asked for one
    block after the other, so that one matrix in memory is enough to convert each one once.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._name = ""
        self._matrix: QuantizedTensor | None = None

    def rows(
        self, name: str, convert: Callable[[], QuantizedTensor], start: int, stop: int
    ) -> QuantizedTensor:
        """Rows [start:stop) of what `convert` makes of the matrix called `name`."""
        with self._lock:
            if self._name != name or self._matrix is None:
                self._matrix = None  # before the next one is made: never two
                self._name, self._matrix = name, convert()
            return self._matrix.rows(slice(start, stop))


def make_scheme(
    tensor: str,
    bits: int,
    shape: tuple[int, int],
    groups: int,
    *,
    said: Facts,
    offset: str = "none",
    act_order: bool = False,
) -> Scheme:
    """The scheme of a matrix that has `groups` scales per row.

    Args:
        tensor: the scales' name, for messages.
        bits: per code.
        shape: (N, K).
        groups: scales per row.
        said: `{"bits": …, "group_size": …}` of the config, where it says that of all matrices.
        offset, act_order: as in `Scheme`.

    Raises:
        CheckpointError: the config says something else than the tensors.
        UnsupportedError: groups that are not all of one size, or do not fill whole bytes.
    """
    columns = shape[1]
    told = said.get("group_size")
    group = min(told, columns) if isinstance(told, int) and told > 0 else columns
    if groups < 1 or columns % groups or (groups == -(-columns // group) and columns % group):
        raise UnsupportedError(
            f"{tensor} has {groups} groups for {columns} inputs",
            "Only groups that are all of one size are read",
            "Quantize the model again with a group size that divides its inputs.",
        )
    size = columns // groups
    for key, found, most in (("bits", bits, 8), ("group_size", size, columns)):
        wanted = said.get(key)
        if isinstance(wanted, int) and wanted > 0 and min(wanted, most) != found:
            raise CheckpointError(
                f'config.json says "{key}": {wanted} of its quantized weights',
                f"{tensor} and its matrix have {found}",
                "Use the config.json that belongs to these weights.",
            )
    if size * bits % 8:
        raise UnsupportedError(
            f"{tensor} has groups of {size} inputs in {bits} bits",
            "Only groups that fill whole bytes are read",
            "Quantize the model again with groups of at least 8.",
        )
    return Scheme(bits, 0 if groups == 1 and told != columns else size, offset, act_order)


def bits_by_shape(
    found: tuple[int, ...], shapes: Mapping[int, tuple[int, ...]], told: Any
) -> int | None:
    """The bits with which a matrix has the shape that it has; None: there are none.

    Args:
        found: the shape of its codes.
        shapes: bits -> what it would be.
        told: what the config says, which decides for rows too short to tell.
    """
    fitting = [bits for bits, shape in shapes.items() if shape == found]
    if told in fitting:
        return cast(int, told)
    return fitting[0] if fitting else None


def module_of(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `model.layers.0.mlp.up_proj`."""
    return name.removesuffix(".weight")


def bias_of(shapes: Shapes, module: str, rows: int) -> list[str]:
    """The name of a module's bias, which must be zero; see `check_bias`. Empty: it has none.

    Raises:
        CheckpointError: it is of another shape or dtype than a bias.
    """
    name = f"{module}.bias"
    if name not in shapes:
        return []
    need_tensor(shapes, name, SCALE_DTYPES, (rows,))
    return [name]


def check_bias(read: Read, module: str, tensors: tuple[str, ...], rows: int) -> None:
    """Some writers give every linear a bias of zeros, which the family has not.

    Raises:
        UnsupportedError: it is not zero.
    """
    name = f"{module}.bias"
    if name in tensors and read(name, 0, rows).any():
        raise UnsupportedError(
            f"{name} is not zero",
            "The models that arkinfer runs have no biases",
            "Use a checkpoint of the MiniCPM family or a plain Llama.",
        )


def need_tensor(
    shapes: Shapes, name: str, dtypes: tuple[npt.DTypeLike, ...], shape: tuple[int, ...]
) -> None:
    """Checks that a tensor is there as its neighbours say.

    Raises:
        CheckpointError: it is missing, or of another shape or dtype.
    """
    if name not in shapes:
        raise CheckpointError(
            f"The tensor {name} is missing",
            "The quantized matrix beside it cannot be read without it",
            "Download the checkpoint again.",
        )
    dtype, found = shapes[name]
    if found != shape or dtype not in [np.dtype(each) for each in dtypes]:
        kinds = " or ".join(np.dtype(each).name for each in dtypes)
        raise CheckpointError(
            f"The tensor {name} is {dtype.name} {list(found)}",
            f"The quantized matrix that it belongs to needs {kinds} {list(shape)}",
            "Use the config.json that belongs to these weights, or download them again.",
        )


def need_scales(shapes: Shapes, name: str, rows: int | None, columns: int | None) -> int:
    """Checks scales [groups, N] or [N, groups], where one number is known; gives the other.

    Raises:
        CheckpointError: as `need_tensor`.
    """
    found = shapes[name][1] if name in shapes else ()
    free = max(found[0 if rows is None else 1], 1) if len(found) == 2 else 1
    wanted = (free, columns or 1) if rows is None else (rows, free)
    need_tensor(shapes, name, SCALE_DTYPES, wanted)
    return free


def turned_scales(read: Read, module: str, groups: int) -> Array:
    """`scales` [groups, N] of a module as packing has them, [N, groups].

    Raises:
        CheckpointError: some are not finite.
    """
    name = f"{module}.scales"
    return np.ascontiguousarray(finite(name, read(name, 0, groups)).T)


def section(facts: Facts, key: str) -> Facts:
    """An object within the config; empty where there is none."""
    value = facts.get(key)
    return cast("Facts", value) if isinstance(value, Mapping) else {}


def finite(name: str, values: Array) -> Array:
    """The values.

    Raises:
        CheckpointError: some are not finite.
    """
    if not np.isfinite(values.astype(np.float32)).all():
        raise CheckpointError(
            f"{name} holds numbers that are not finite",
            "The model would answer with garbage",
            "Check the checkpoint: it may be damaged, or its quantization went wrong.",
        )
    return values


def order_of(name: str, group_of_input: Array, groups: int) -> npt.NDArray[np.int32] | None:
    """The inputs in the order of their groups, int32 [K]; None: they are in that order already.

    Raises:
        UnsupportedError: groups that are not all of one size.
        CheckpointError: a group that does not exist.
    """
    index = group_of_input.astype(np.int64)
    size = len(index) // groups
    if (index < 0).any() or (index >= groups).any():
        raise CheckpointError(
            f"{name} names group {int(index[(index < 0) | (index >= groups)][0])}",
            f"There are scales for {groups} groups",
            "Download the checkpoint again.",
        )
    if (index == np.arange(len(index)) // max(size, 1)).all():
        return None
    if len(set(np.bincount(index, minlength=groups).tolist())) > 1:
        raise UnsupportedError(
            f"{name} puts different numbers of inputs into groups",
            "Only groups that are all of one size are read",
            "Quantize the model again with a group size that divides its inputs.",
        )
    return np.argsort(index, kind="stable").astype(np.int32)


def as_bytes(words: Array) -> Bytes:
    """32-bit words [..., n] as the little-endian bit string [..., 4 n] that they are."""
    return np.ascontiguousarray(words).astype("<u4", copy=False).view(np.uint8)
