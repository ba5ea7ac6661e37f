"""A folder of quantized weights in somebody's layout: what all such layouts share.

Linears are quantized; embedding, head and norms stay dense. Knows no layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from arkinfer.export import Request, Written
from arkinfer.export.folder import check_place, whole_folder, write_settings
from arkinfer.export.safetensors_file import Entry, write_safetensors
from arkinfer.export.source import Halved, is_linear, quantized_source
from arkinfer.packing import Scheme

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors

BLOCK = 4 << 20
"""Numbers that are in memory at a time."""

_DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}


class Layout(Protocol):
    """How quantized matrices lie in the file, made for one checkpoint's tensors and schemes."""

    def __init__(self, source: Tensors, schemes: Mapping[str, Scheme]) -> None: ...

    @staticmethod
    def problem(scheme: Scheme) -> str:
        """Why it cannot hold a scheme; "" where it can."""
        ...

    @staticmethod
    def scale_dtype(own: np.dtype[Any]) -> np.dtype[Any]:
        """Of what is quantized on the way; `own` is the model's dtype."""
        ...

    def entries(self, name: str) -> list[Entry]:
        """What is written of a matrix."""
        ...

    def config(self) -> dict[str, Any]:
        """`quantization_config` of config.json."""
        ...


def write_folder(
    checkpoint: Checkpoint, tensors: Tensors, request: Request, layout: type[Layout], suffix: str
) -> Written:
    """See `arkinfer.export.Format`; `suffix` ends the name of the folder, if none was given."""
    path = request.output or Path(f"{checkpoint.name}-{suffix}")
    check_place(path)
    own = _DTYPES.get(checkpoint.config.torch_dtype, _DTYPES["bfloat16"])
    scales = layout.scale_dtype(own)
    source, notes = quantized_source(tensors, request, layout.problem, scales)
    request.fill()
    if request.calibrated and scales.itemsize == 2:
        source = Halved(source)
    schemes = {name: scheme for name, scheme in source.schemes().items() if is_linear(name)}
    written = layout(source, schemes)
    entries: list[Entry] = []
    for name in source.names():
        entries += written.entries(name) if name in schemes else [_dense(source, name, own)]
    with whole_folder(path) as folder:
        write_settings(folder, checkpoint, written.config())
        write_safetensors(folder / "model.safetensors", entries, request.on_part)
    outer = [name for name in source.schemes() if name not in schemes]
    if outer:
        notes += (f"{' and '.join(outer)} lost their codes: the format has them in {own.name}.",)
    return Written(path, Counter(scheme.name for scheme in schemes.values()), notes)


def _dense(source: Tensors, name: str, own: np.dtype[Any]) -> Entry:
    """A tensor in the dtype that it has; one that is quantized, in the model's."""
    dtype = own if name in source.schemes() else source.dtype(name)
    return Entry(name, dtype, source.shape(name), partial(_rows, source, name, dtype))


def _rows(source: Tensors, name: str, dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    for start, stop in row_blocks(source.shape(name)):
        yield source.read(name, start, stop).astype(dtype, copy=False)


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(start, stop) of all rows, a bounded number of numbers at a time."""
    count = shape[0]
    step = max(1, BLOCK // (shape[1] if len(shape) > 1 else 1))
    for start in range(0, count, step):
        yield start, min(start + step, count)
